"""A network's forward pass: what it takes, what it puts out, and that nothing else changes."""
