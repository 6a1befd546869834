"""The search of one layer: one Optuna study over structures, each scored at all its ranks."""
