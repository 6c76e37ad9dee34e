"""Load the tokenizer of a model folder, describe its whole state, and reload it as it will be saved."""

import json
import math
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from thinktune.errors import UserError, shorten_error

COUNTED_CHARACTERS = 2**16  # at a time
MAX_COMPOSED_CHARACTERS = 4  # that a normalizer makes one of, as NFC does


class ChatTokenizer(Protocol):
    """The part of transformers' fast tokenizers that we use."""

    chat_template: Any
    eos_token: str
    eos_token_id: int
    pad_token_id: int | None
    is_fast: bool
    special_tokens_map: dict[str, Any]
    added_tokens_decoder: dict[int, Any]  # `tokenizers.AddedToken` by id
    backend_tokenizer: Any  # a `tokenizers.Tokenizer`

    def __call__(self, text: str, /, **options: Any) -> Any:
        """Tokenize a text."""
        ...

    def __len__(self) -> int:
        """Return the number of tokens, added ones included."""
        ...

    def apply_chat_template(self, conversation: Any, /, **options: Any) -> Any:
        """Render a conversation, as text or as token ids."""
        ...

    def convert_tokens_to_ids(self, tokens: str, /) -> int:
        """Return the id of one token."""
        ...

    def decode(self, token_ids: Sequence[int], /, **options: Any) -> str:
        """Return the text of token ids."""
        ...

    def save_pretrained(self, save_directory: Any, /) -> Any:
        """Write the tokenizer's files."""
        ...


def read_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> ChatTokenizer:
    """Load the tokenizer of a model folder; raises UserError if there is none that loads.

    No code of the folder runs unless it is trusted.
    """
    from transformers import AutoTokenizer  # imported late: it takes seconds

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except Exception as error:
        # transformers raises whatever its parsers raise (OSError, ValueError, KeyError, …): the folder is at fault.
        raise UserError(
            f"model.name: {folder} has no tokenizer that loads ({shorten_error(error)}); name a complete model folder"
        ) from error
    if not tokenizer.is_fast or tokenizer.eos_token_id is None:
        raise UserError(
            f"model.name: the tokenizer in {folder} is not a fast one with an end-of-turn token; use another model"
        )
    return tokenizer


def exceeds_tokens(text: str, tokens: int, tokenizer: ChatTokenizer) -> bool:
    """Return True if a text surely has more than so many tokens, by its characters: a token holds only so many.

    Letters and digits are counted apart from signs, because the longest tokens are rules of signs.
    """
    if len(text) <= tokens:
        return False
    words, signs = _count_characters(text, tokenizer.backend_tokenizer.normalizer)
    most_words, most_signs = _token_capacity(tokenizer, len(tokenizer))
    return words > tokens * most_words or signs > tokens * most_signs


def _count_characters(text: str, normalizer: Any) -> tuple[int, int]:
    """Count at least how many letters and digits, and how many signs, a tokenizer sees in a text.

    In pieces, so that other threads run between them. What a normalizer composes over an end of a piece is left out.
    """
    words = signs = 0
    for start in range(0, len(text), COUNTED_CHARACTERS):
        piece = text[start : start + COUNTED_CHARACTERS]
        margin = 0 if normalizer is None else MAX_COMPOSED_CHARACTERS
        piece = piece if normalizer is None else str(normalizer.normalize_str(piece))
        letters = sum(map(str.isalnum, piece))
        words += max(0, letters - margin)
        signs += max(0, len(piece) - letters - sum(map(str.isspace, piece)) - margin)
    return words, signs


@lru_cache(maxsize=8)
def _token_capacity(tokenizer: ChatTokenizer, size: int) -> tuple[float, float]:
    """Return the most letters and digits that one token holds, and the most signs; infinite where text can vanish."""
    backend = tokenizer.backend_tokenizer
    rare = "\U000e0101" * 64  # a tokenizer that makes one unknown token of these bounds nothing
    if len(backend.encode(rare, add_special_tokens=False).ids) < len(rare):
        return math.inf, math.inf
    counts = [(1, 1)]
    for token in range(size):
        text = backend.decode([token], skip_special_tokens=False)
        parts = text.count("\ufffd")  # of characters that go over several tokens, of either kind
        words, signs = _count_characters(text, None)
        counts.append((words + parts, signs))
    return max(words for words, _ in counts), max(signs for _, signs in counts)


def tokenizer_state(tokenizer: ChatTokenizer) -> str:
    """Serialize everything that decides a conversation's ids: tokenizers of equal state give equal ids."""
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    special = json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str)  # a template may name any of them
    return "\0".join((backend.to_str(), str(tokenizer.chat_template), special))


def save_and_reload(tokenizer: ChatTokenizer) -> ChatTokenizer:
    """Save and reload a tokenizer, as others will load it from a run's `final/`."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return read_tokenizer(Path(folder))
