"""Searches on a busy machine, and what is left of their times in quiet."""
