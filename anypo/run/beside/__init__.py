"""Beside the run: what the system's base would have done with the very same data, step by step."""

from anypo.run.beside.beside import Beside, beside
from anypo.run.beside.witness import NOBODY, Witness
from anypo.run.beside.words import Standing, last_stage, sentence, standing

__all__ = ["NOBODY", "Beside", "Standing", "Witness", "beside", "last_stage", "sentence", "standing"]
