"""Compare: which method, for this model and task, under this budget. Equal budgets, same prompts, same initial weights."""

from anypo.compare.comparison import Comparison, compare, search

__all__ = ["Comparison", "compare", "search"]
