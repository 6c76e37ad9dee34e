"""The chat page and the OpenAI-compatible API."""

from thinktune.serve.models import ServedModel, find_models
from thinktune.serve.server import make_app, serve

__all__ = ["ServedModel", "find_models", "make_app", "serve"]
