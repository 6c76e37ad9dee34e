"""The chat page and the OpenAI-compatible API."""

from thinktune.serve.models import ServedModel, find_models
from thinktune.serve.security import Access, Limits, find_access
from thinktune.serve.server import API_KEY_VARIABLE, make_app, serve

__all__ = ["API_KEY_VARIABLE", "Access", "Limits", "ServedModel", "find_access", "find_models", "make_app", "serve"]
