"""Studies: real networks, real data and the training that the examples and benchmarks share."""
