"""Control: which prompts, how many rollouts each, how deep, when to stop."""

from anypo.control.base import Ask, Control, Uniform
from anypo.control.beliefs import HardFocus, UncertainPrompts
from anypo.control.budgets import ValueBudget
from anypo.parts import load

load(__name__)

__all__ = ["Ask", "Control", "HardFocus", "UncertainPrompts", "Uniform", "ValueBudget"]
