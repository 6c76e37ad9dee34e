"""A model's or data set's name to a verified local folder."""

from thinktune.hub.repository import find_in_cache, locate, locate_model

__all__ = ["find_in_cache", "locate", "locate_model"]
