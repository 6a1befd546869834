"""What a factorization is, and what it costs: families, shapes, ranks, steps and their FLOPs."""
