"""Verbs that are more than one call."""

from thinktune.commands.chat import chat_in_terminal
from thinktune.commands.check import check_recipe, print_check

__all__ = ["chat_in_terminal", "check_recipe", "print_check"]
