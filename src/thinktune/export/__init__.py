"""A tuned model in the forms that other engines load, each loaded back and asked before it counts."""

from thinktune.export.source import ModelSource, find_source

__all__ = ["ModelSource", "find_source"]
