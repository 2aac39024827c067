"""Compare: which method, for this model and task, under this budget. Equal budgets, same prompts, same initial weights."""
