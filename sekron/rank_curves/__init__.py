"""The errors of a structure at all its ranks, and which candidates of a layer are kept."""
