"""Load the tokenizer of a model folder, and describe its whole state."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from thinktune.errors import UserError, shorten_error
from thinktune.library_output import captured_output

OTHER_TOKENIZERS = ("tekken.json", "tokenizer.model", "tokenizer.model.v3", "spiece.model", "qwen.tiktoken")


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


def read_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> ChatTokenizer:
    """Load the tokenizer of a model folder; raises UserError if there is none that loads.

    No code of the folder runs unless it is trusted.
    """
    if not trust_remote_code:  # trusted code may read files of its own
        _refuse_missing_files(folder)
    try:
        with captured_output():
            from transformers import AutoTokenizer  # imported late: it takes seconds

            options: Any = {"local_files_only": True, "trust_remote_code": trust_remote_code}
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            known: dict[str, int] = tokenizer.backend_tokenizer.get_vocab() if tokenizer.is_fast else {}
    except Exception as error:
        # transformers raises whatever its parsers raise (OSError, ValueError, KeyError, …): the folder is at fault.
        raise UserError(
            f"model.name: {folder} has no tokenizer that loads ({shorten_error(error)}); get its files again"
        ) from error
    if not tokenizer.is_fast:
        raise UserError(
            f"model.name: the tokenizer in {folder} is not a fast one (tokenizer.json), whose tokens can be proven; "
            "take a folder of the model that has one"
        )
    if not known:
        raise UserError(f"model.name: the tokenizer in {folder} has no tokens; get its files again")
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"model.name: the tokenizer in {folder} names no end-of-turn token; set eos_token in its "
            "tokenizer_config.json to the token that ends a reply in its chat template"
        )
    return tokenizer


def _refuse_missing_files(folder: Path) -> None:
    """Raise UserError where the vocabulary is missing: transformers would make a tokenizer without one, in silence."""
    pair = [(folder / name).exists() for name in ("vocab.json", "merges.txt")]
    if (folder / "tokenizer.json").exists() or all(pair):
        return
    if any(pair):
        have, lacks = ("vocab.json", "merges.txt") if pair[0] else ("merges.txt", "vocab.json")
        raise UserError(f"model.name: {folder} has {have} without {lacks}; get that file, or tokenizer.json")
    if others := [name for name in OTHER_TOKENIZERS if (folder / name).exists()]:
        raise UserError(
            f"model.name: {folder} has its tokenizer as {others[0]} only, which is not read; take a folder of the "
            "model that has tokenizer.json"
        )
    raise UserError(f"model.name: {folder} has no tokenizer (tokenizer.json); name a complete model folder")


def tokenizer_state(tokenizer: ChatTokenizer) -> str:
    """Serialize everything that decides a conversation's ids: tokenizers of equal state give equal ids."""
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    special = json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str)  # a template may name any of them
    return "\0".join((backend.to_str(), str(tokenizer.chat_template), special))
