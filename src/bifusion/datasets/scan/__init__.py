"""Whatever a user has of a room, file or recording, as a scene, and the way back to the user's own."""
