"""Repair of a compressed network without labels or with them, and ranks by training."""
