"""Optuna's samplers over whole plans against the exact sweep."""
