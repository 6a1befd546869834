"""Our plans against the best allocation of single hand-made templates, at every budget."""
