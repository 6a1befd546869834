"""Commands killed at any moment, and damaged inputs: `python -m tests.soak`."""
