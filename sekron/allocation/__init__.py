"""One candidate per layer under budgets: an integer program, solved exactly."""
