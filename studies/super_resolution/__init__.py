"""How near a compressed super-resolution network comes to the dense one, without training."""
