"""Verbs that are more than one call."""

from thinktune.commands.check import check_recipe, print_check

__all__ = ["check_recipe", "print_check"]
