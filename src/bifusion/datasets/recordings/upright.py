"""Pictures that lie sideways, as phones store them, turned upright together with depth and cameras.

A turn is a quarter turn clockwise. Of a picture of height H, pixel (x, y) comes to (H − 1 − y, x); the
camera turns with it, so that every pixel keeps its ray.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bifusion.datasets.recordings.frame import Camera, Frame, Recording, RecordingInfo

TURNS = ("no turn", "a quarter turn clockwise", "half a turn", "a quarter turn counterclockwise")
TURN = np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
"""(4, 4) turned camera to camera."""
MOST_LOOKED_AT = 200
LEAST_TILT = 0.3
"""Mean share of gravity within the pictures' plane, below which cameras look up or down too much."""


def quarter_turns(recording: Recording, up: np.ndarray | None = None) -> int:
    """0 … 3 clockwise turns that bring most pictures upright; 0 where nobody knows which way is up.

    `up` (3,) is the world's, if it is known better than `recording.up`.
    """
    up = recording.up if up is None else up
    if up is None:
        return 0
    down = np.mean([-(pose[:3, :3].T @ up)[:2] for pose in _poses(recording)], axis=0)
    if np.linalg.norm(down) < LEAST_TILT:
        return 0
    # One turn brings the picture's x axis to its y axis, which points down.
    return int(np.argmax([down[1], down[0], -down[1], -down[0]]))


def camera_up(recording: Recording, turns: int = 0) -> np.ndarray:
    """(3,) unit vector: mean direction in the world in which the pictures, turned, have their top."""
    top = np.linalg.matrix_power(TURN, turns)[:3, 1]
    mean = np.mean([-(pose[:3, :3] @ top) for pose in _poses(recording)], axis=0)
    return mean / max(float(np.linalg.norm(mean)), 1e-12)


def upright(recording: Recording, up: np.ndarray | None = None) -> Recording:
    """The recording with its pictures upright, itself if they are; a note says that they were turned."""
    turns = quarter_turns(recording, up)
    if turns == 0:
        return recording
    return TurnedRecording(recording, turns)


class TurnedRecording(RecordingInfo):
    """A recording whose frames are turned when they are read."""

    def __init__(self, recording: Recording, turns: int):
        super().__init__(
            recording.name,
            recording.layout,
            recording.notes,
            recording.up,
            recording.reading,
            recording.depth_scale,
            recording.offset_m,
        )
        self.mesh = recording.mesh
        self._recording, self._turns = recording, turns
        self._turn = np.linalg.matrix_power(TURN, turns)
        self.notes.append(f"pictures lie sideways: {TURNS[turns]} was made")

    def __len__(self) -> int:
        return len(self._recording)

    def has_picture(self, index: int) -> bool:
        return self._recording.has_picture(index)

    def has_confidence(self, index: int) -> bool:
        return self._recording.has_confidence(index)

    def frame(self, index: int, color: bool = True) -> Frame:
        return turn_frame(self._recording.frame(index, color), self._turns)

    def cam2world(self, index: int, shift: int = 0) -> np.ndarray:
        return self._recording.cam2world(index, shift) @ self._turn


def turn_frame(frame: Frame, turns: int) -> Frame:
    """Colour, depth, confidence and both cameras of a frame, turned."""
    return replace(
        frame,
        color=turn_picture(frame.color, turns),
        depth_m=turn_picture(frame.depth_m, turns),
        confidence=turn_picture(frame.confidence, turns),
        color_camera=turn_camera(frame.color_camera, turns),
        depth_camera=turn_camera(frame.depth_camera, turns),
    )


def turn_picture(picture: np.ndarray | None, turns: int) -> np.ndarray | None:
    """(H, W, ...) turned clockwise; None stays."""
    return None if picture is None else np.ascontiguousarray(np.rot90(picture, -turns))


def turn_camera(camera: Camera | None, turns: int) -> Camera | None:
    """The camera that sees the turned picture."""
    for _ in range(turns % 4):
        if camera is None:
            return None
        (height, width), K = camera.size, camera.K
        turned = np.array([[K[1, 1], 0, height - 1 - K[1, 2]], [0, K[0, 0], K[0, 2]], [0, 0, 1]])
        camera = Camera(turned, (width, height), camera.cam2world @ TURN)
    return camera


def _poses(recording: Recording) -> list[np.ndarray]:
    step = max(1, len(recording) // MOST_LOOKED_AT)
    return [recording.cam2world(k) for k in range(0, len(recording), step)]
