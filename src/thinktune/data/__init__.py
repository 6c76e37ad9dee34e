"""Rows to labelled tokens, and labelled tokens to optimizer steps."""

from thinktune.data.chat_template import TokenKind
from thinktune.data.dataset import Subset
from thinktune.data.packing import StepRows
from thinktune.data.pipeline import Prepared, prepare
from thinktune.data.tokenizer import read_tokenizer
from thinktune.data.types import Example, Turn

__all__ = ["Example", "Prepared", "StepRows", "Subset", "TokenKind", "Turn", "prepare", "read_tokenizer"]
