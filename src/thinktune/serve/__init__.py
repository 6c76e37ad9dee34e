"""The chat page and the OpenAI-compatible API."""

from thinktune.serve.models import find_models
from thinktune.serve.server import serve

__all__ = ["find_models", "serve"]
