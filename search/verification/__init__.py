"""Whether a compressed network can be used as the dense one can."""
