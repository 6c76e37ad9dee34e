"""Recipes in the studio: read, changed in place and written whole, with what `check` said of them."""

__all__: list[str] = []
