"""Plans held against the clock and against a score, where nothing is additive any more."""
