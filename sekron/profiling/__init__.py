"""What a network costs, layer by layer, and which of its layers can be replaced."""
