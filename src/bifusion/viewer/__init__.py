"""The page that shows a scan: one self-contained file, points, objects and cameras to look around in."""
