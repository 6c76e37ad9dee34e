"""Requests to completions: the engine in `inference.engine`, and servers of OpenAI's API."""

from thinktune.inference.chat_defaults import ChatDefaults, read_chat_defaults
from thinktune.inference.openai_client import Endpoint
from thinktune.inference.replies import Piece
from thinktune.inference.requests import Completion, Request, SamplingParams
from thinktune.inference.streaming import Stream

__all__ = [
    "ChatDefaults",
    "Completion",
    "Endpoint",
    "Piece",
    "Request",
    "SamplingParams",
    "Stream",
    "read_chat_defaults",
]
