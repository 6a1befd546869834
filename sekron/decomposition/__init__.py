"""From a weight to factors and back, and how far they are from it, plainly or in a metric."""
