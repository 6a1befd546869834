"""The stages of a search, in order."""
