"""Which settings of the metric, and which weights of the layers, keep most accuracy."""
