"""What int8 leaves of the accuracy and of the speed-up of a compressed network."""
