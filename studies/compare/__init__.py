"""Our plans against every rival at its best ranks, at equal budgets."""
