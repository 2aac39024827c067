"""Beside the run: what the system's base would have done with the very same data, step by step."""

from anypo.run.beside.beside import Beside, beside
from anypo.run.beside.witness import NOBODY, Witness

__all__ = ["NOBODY", "Beside", "Witness", "beside"]
