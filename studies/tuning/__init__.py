"""What batch-norm re-estimation and tuning give back, without labels."""
