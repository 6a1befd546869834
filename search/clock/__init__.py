"""Measured time and memory: of layers, of candidates and of whole networks."""
