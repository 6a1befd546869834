"""Whole networks on the clock: dense, our plans, and the same ranks by other hands."""
