"""A user's own package, outside BiFusion: a recipe, a loss term, an image tower, a 3D network, a gate,
scenes."""
