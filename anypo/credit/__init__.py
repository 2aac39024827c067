"""Credit: how rewards become advantages. Importing the room registers all its parts."""

from anypo.credit.base import Credit
from anypo.credit.pipeline import Pipeline
from anypo.parts import load

load(__name__)

__all__ = ["Credit", "Pipeline"]
