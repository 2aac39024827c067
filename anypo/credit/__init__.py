"""Credit: how rewards become advantages."""

from anypo.credit.base import Credit
from anypo.credit.pipeline import Pipeline

__all__ = ["Credit", "Pipeline"]
