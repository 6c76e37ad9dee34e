"""Requests to completions: the engine in this process (`inference.engine`), OpenAI-compatible servers, and vLLM."""

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
