"""Time and memory of a search on a real network."""
