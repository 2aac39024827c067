"""Control: which prompts, how many rollouts each, how deep, when to stop."""

from anypo.control.base import Ask, Control, Uniform

__all__ = ["Ask", "Control", "Uniform"]
