"""Networks as users bring them: which of their layers are replaced, and what keeps the others."""
