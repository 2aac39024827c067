"""Recipes: several algorithms in a row, over one policy and in one run."""

from anypo.recipes.recipe import POLICY, SHELF, Leg, Recipe, Stage
from anypo.recipes.stops import SCORE, Above, Below, Never, Plateau, Stop

__all__ = ["POLICY", "SCORE", "SHELF", "Above", "Below", "Leg", "Never", "Plateau", "Recipe", "Stage", "Stop"]
