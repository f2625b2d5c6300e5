"""Recipes: complete settings by name, each with its origin. A recipe is a function returning a frozen value.

Precedence: built-in defaults < recipe < ``--config`` file < command line.

Cost of a recipe is its schedule; `engram list` shows them all.
"""

from __future__ import annotations

from engram.recipes import closed_form as closed_form
from engram.recipes import dgm as dgm
from engram.recipes import rescl as rescl
from engram.recipes import si as si
from engram.recipes import vcl as vcl
from engram.recipes.book import DEFAULT_FOR_DATA, RECIPES, Recipe, chosen_recipe, recipe

__all__ = ["DEFAULT_FOR_DATA", "RECIPES", "Recipe", "chosen_recipe", "recipe"]
