"""Verbs that are more than one call: this door is light, and what loads torch is imported by its own path."""

from thinktune.commands.init_options import InitOptions, refuse_options

__all__ = ["InitOptions", "refuse_options"]
