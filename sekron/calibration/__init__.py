"""What unlabelled batches tell of a network: moments, metrics and sensitivities."""
