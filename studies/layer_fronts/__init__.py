"""How much of a layer's exhaustive front each way of searching finds."""
