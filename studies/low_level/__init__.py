"""Super-resolution networks trained here: ours and rivals compressed, repaired, fine-tuned."""
