"""Whether a search gives what it gave at an older commit, to the last bit: for refactorings."""
