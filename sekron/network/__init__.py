"""Factorized layers in a whole network: what can be replaced, plans, and files of them."""
