"""What repair without labels gives back of a compressed network's accuracy."""
