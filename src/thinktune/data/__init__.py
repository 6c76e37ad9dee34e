"""Rows to labelled tokens, and labelled tokens to optimizer steps."""

from thinktune.data.dataset import Subset
from thinktune.data.packing import StepRows
from thinktune.data.pipeline import Prepared, prepare
from thinktune.data.tokenizer import ChatTokenizer, read_tokenizer
from thinktune.data.types import Example, Turn

__all__ = ["ChatTokenizer", "Example", "Prepared", "StepRows", "Subset", "Turn", "prepare", "read_tokenizer"]
