"""Recipes in the studio: read, changed in place and written whole, with what `check` said of them."""

from thinktune.studio.recipes.places import refuse_overrides
from thinktune.studio.recipes.routes import add_recipe_routes

__all__ = ["add_recipe_routes", "refuse_overrides"]
