"""Exact plans for any budget, and the front that they make."""
