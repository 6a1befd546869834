"""The main job, end to end: train, search, read the front, apply, save, load."""
