"""Conversations to tokens by the model's own chat template, each with its kind."""

from thinktune.tokenization.chat_template import Rendered, TokenKind
from thinktune.tokenization.conversation import Example, Turn
from thinktune.tokenization.model_template import read_tokenizer
from thinktune.tokenization.tokenizer import ChatTokenizer

__all__ = ["ChatTokenizer", "Example", "Rendered", "TokenKind", "Turn", "read_tokenizer"]
