"""Tokenizers: loaded from a model folder, with their whole state, their control tokens, and how long a token can be.

Control tokens that a row's own text spells are escaped, so that they stay plain characters.
"""

import gc
import json
import math
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer

from thinktune.errors import UserError, shorten_error
from thinktune.files import read_json
from thinktune.library_output import captured_output
from thinktune.tokenization.conversation import Turn
from thinktune.verdicts import FolderIdentity, identify_folder, recall, remember, verdict_file

OTHER_TOKENIZERS = ("tekken.json", "tokenizer.model", "tokenizer.model.v3", "spiece.model", "qwen.tiktoken")

COUNTED_CHARACTERS = 2**16  # at a time
MAX_COMPOSED_CHARACTERS = 4  # that a normalizer makes one of, as NFC does


class ChatTokenizer(Protocol):
    """The part of transformers' fast tokenizers that we use."""

    chat_template: Any
    stop_tokens: tuple[str, ...]  # ours: the tokens that end generation by the model's generation configuration
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


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False, likely: bool = False) -> ChatTokenizer:
    """Load the tokenizer of a model folder as it is; raises UserError if there is none that loads.

    No code of the folder runs unless it is trusted. With `likely`, an unknown folder's is of the class that it names,
    which spares seconds: transformers may choose another, so what follows from it has to be held against that one.
    """
    if not trust_remote_code:  # trusted code may read files of its own
        _refuse_missing_files(folder)
    try:
        with captured_output(), _paused_collection():
            tokenizer: Any = None if trust_remote_code else _load_by_known_class(folder)
            if tokenizer is None and likely and not trust_remote_code:
                tokenizer = _load_by_named_class(folder)
            if tokenizer is None:
                tokenizer = _load_by_auto(folder, trust_remote_code)
    except Exception as error:
        # transformers raises whatever its parsers raise (OSError, ValueError, KeyError, …): the folder is at fault.
        raise UserError(
            f"model.name: {folder} has no tokenizer that can be loaded ({shorten_error(error)}); get its files again"
        ) from error
    if not tokenizer.is_fast:
        raise UserError(
            f"model.name: the tokenizer in {folder} is not a fast one (tokenizer.json), whose tokens can be proved; use"
            " a folder of the model that has one"
        )
    if not tokenizer.backend_tokenizer.get_vocab_size():
        raise UserError(f"model.name: the tokenizer in {folder} has no tokens; get its files again")
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"model.name: the tokenizer in {folder} has no end-of-turn token; set eos_token in its "
            "tokenizer_config.json to the token that ends a reply in its chat template"
        )
    tokenizer.stop_tokens = _read_stop_tokens(folder, tokenizer)
    return tokenizer


def _load_by_auto(folder: Path, trust_remote_code: bool) -> Any:
    """Load a tokenizer of the class that transformers chooses by the model's configuration, and remember which."""
    from transformers import AutoTokenizer  # imported late: with torch it takes seconds

    before = None if trust_remote_code else identify_folder(folder)
    options: Any = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    chosen = type(tokenizer)
    if chosen.__module__.startswith("transformers.") and tokenizer.is_fast and before and before.holds_for(folder):
        facts = {"module": chosen.__module__, "name": chosen.__qualname__, "described": _describe(tokenizer)}
        remember(_class_file(before), facts)
    return tokenizer


def _load_by_known_class(folder: Path) -> Any | None:
    """Load a tokenizer as the class that transformers chose for the same files before; None where that is not known.

    The class alone loads without torch.
    """
    before = identify_folder(folder)
    facts = recall(_class_file(before)) if before else None
    if facts is None:
        return None
    try:
        chosen: Any = getattr(import_module(facts["module"]), facts["name"])
    except (ImportError, AttributeError):  # a package that it needs is gone: transformers chooses again
        return None
    tokenizer = chosen.from_pretrained(folder, local_files_only=True)
    return tokenizer if _describe(tokenizer) == facts["described"] else None


def _load_by_named_class(folder: Path) -> Any | None:
    """Load a tokenizer of the class that its own configuration names, without torch; None where that does not work."""
    import transformers

    try:
        facts = read_json(folder / "tokenizer_config.json")
        named: Any = None if "auto_map" in facts else getattr(transformers, facts["tokenizer_class"])
        tokenizer = named.from_pretrained(folder, local_files_only=True)
    except Exception:  # whatever transformers raises; it then chooses the class itself, and says what is wrong
        return None
    return tokenizer if tokenizer.is_fast else None


def _class_file(identity: FolderIdentity) -> Path | None:
    return verdict_file("tokenizer", [identity.digest], ("tokenization.tokenizer", "verdicts"))


def _describe(tokenizer: ChatTokenizer) -> str:
    """Return all that a tokenizer has besides its vocabulary, as text; that is the files', and takes long to write."""
    backend = tokenizer.backend_tokenizer
    shown = [
        repr(part) for part in (backend.normalizer, backend.pre_tokenizer, backend.post_processor, backend.decoder)
    ]
    special = json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str)
    return "\0".join((*shown, str(len(tokenizer)), special, str(tokenizer.chat_template)))


def _read_stop_tokens(folder: Path, tokenizer: ChatTokenizer) -> tuple[str, ...]:
    """Return the tokens that end generation by a folder's generation configuration; none where it cannot be read."""
    try:
        found = read_json(folder / "generation_config.json").get("eos_token_id")
    except (OSError, ValueError, AttributeError, RecursionError):  # the admission of the folder reports it
        return ()
    wanted = found if isinstance(found, list) else [found]
    numbers = [number for number in wanted if type(number) is int and number >= 0]
    tokens = {tokenizer.backend_tokenizer.id_to_token(number) for number in numbers}
    return tuple(sorted(token for token in tokens if token is not None))


@contextmanager
def _paused_collection() -> Generator[None]:
    """Keep the garbage collector from going through a vocabulary again and again while its parts are read."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


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
            f"model.name: {folder} has its tokenizer only as {others[0]}, which is not supported; use a folder of "
            "the model that has tokenizer.json"
        )
    raise UserError(f"model.name: {folder} has no tokenizer (tokenizer.json); name a complete model folder")


def tokenizer_state(tokenizer: ChatTokenizer) -> str:
    """Serialize everything that decides a conversation's ids: tokenizers of equal state give equal ids."""
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    special = json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str)  # a template may name any of them
    return "\0".join((backend.to_str(), str(tokenizer.chat_template), special))


ESCAPE_MARK = "\ufdd0\ufdd1"  # Unicode noncharacters: they mark control tokens spelled in a text during templating


# How a template's own marks look: in brackets, as <think> or [INST], or a heading, as "### Response:". A line break, a
# run of spaces, a punctuation mark or a word is text, also where the template writes it.
MARK_PATTERN = re.compile(r"\s*(?:<.*\w.*>|\[.*\w.*\]|#+.*\w.*|.*\w.*[:：])\s*", re.DOTALL)


_TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}


_CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}


_ASKED, _ANSWERED = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning_content": "r"}


# Conversations that bring a template to write its marks; it may refuse any of them.
_PROBES: tuple[tuple[list[dict[str, Any]], dict[str, Any]], ...] = (
    ([{"role": "system", "content": "s"}, _ASKED, _ANSWERED, _ASKED], {"add_generation_prompt": True}),
    ([_ASKED], {"add_generation_prompt": True, "enable_thinking": True}),
    ([_ASKED], {"add_generation_prompt": True, "enable_thinking": False}),
    ([_ASKED, _ANSWERED], {"enable_thinking": True}),
    (
        [_ASKED, {"role": "assistant", "content": "", "tool_calls": [_CALL]}, {"role": "tool", "content": "t"}],
        {"tools": [_TOOL], "add_generation_prompt": True},
    ),
)


def control_tokens(tokenizer: ChatTokenizer) -> tuple[str, ...]:
    """List the texts that take effect as control tokens: special tokens, and the marks that the chat template writes.

    Other added tokens are text. Many tokenizers add line breaks, runs of spaces, HTML tags or words of a domain only so
    that they take one token.
    """
    return _control_tokens(tokenizer, len(tokenizer), str(tokenizer.chat_template))


def escape_control_tokens(turn: Turn, tokenizer: ChatTokenizer) -> Turn:
    """Put a mark inside every control token that the turn's text spells, so that none of them takes effect."""
    spelled = _control_token_pattern(control_tokens(tokenizer))
    if not (spelled.search(turn.content) or spelled.search(turn.reasoning)):
        return turn
    content, reasoning = (
        spelled.sub(lambda found: found[0][0] + ESCAPE_MARK + found[0][1:], text)
        for text in (turn.content, turn.reasoning)
    )
    return replace(turn, content=content, reasoning=reasoning)


def tokenize(texts: Sequence[str], tokenizer: ChatTokenizer) -> list[list[int]]:
    """Tokenize each text, without padding or truncation, on all cores; escaped control tokens are plain characters."""
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    escaped = {index: _tokenize_escaped(text, tokenizer) for index, text in enumerate(texts) if ESCAPE_MARK in text}
    plain = [text for index, text in enumerate(texts) if index not in escaped]
    rest = iter(backend.encode_batch_fast(plain, add_special_tokens=False))
    return [escaped[index] if index in escaped else next(rest).ids for index in range(len(texts))]


def _tokenize_escaped(text: str, tokenizer: ChatTokenizer) -> list[int]:
    """Tokenize a text in which only unmarked control tokens take effect; marked ones are plain characters.

    As the tokenizer itself does, the text is cut at control tokens and the pieces between them are encoded.
    """
    ids: list[int] = []
    controls = control_tokens(tokenizer)
    plain, spelled = _plain_tokenizer(tokenizer, controls), _control_token_pattern(controls)
    start = 0
    for found in (*spelled.finditer(text), None):
        stop = found.start() if found else len(text)
        ids += plain.encode(text[start:stop].replace(ESCAPE_MARK, ""))
        if found:
            ids.append(tokenizer.convert_tokens_to_ids(found[0]))
            start = found.end()
    return ids


@dataclass(frozen=True, slots=True)
class _PlainTokenizer:
    """A tokenizer that knows no control token; `added_ids` maps its ids of the other added tokens to the true ones."""

    backend: Tokenizer
    added_ids: Mapping[int, int]

    def encode(self, text: str) -> list[int]:
        """Tokenize a text."""
        [encoded] = self.backend.encode_batch_fast([text], add_special_tokens=False)  # a batch lets other threads run
        return [self.added_ids.get(token, token) for token in encoded.ids]


# These are slow to make, so they are kept; another size or template means that the tokenizer was changed.
@lru_cache(maxsize=8)
def _control_tokens(tokenizer: ChatTokenizer, size: int, template: str) -> tuple[str, ...]:
    del size
    names = tokenizer.special_tokens_map.values()
    special = {str(text) for named in names for text in (named if isinstance(named, list | tuple) else [named])}
    added = [token for token in tokenizer.added_tokens_decoder.values() if token.content]
    marks = [token.content for token in added if MARK_PATTERN.fullmatch(token.content)]
    written = "\0".join((template, *_probe_texts(tokenizer))) if marks else ""
    special.update(mark for mark in marks if mark in written)
    return tuple(token.content for token in added if token.special or token.content in special)


def _probe_texts(tokenizer: ChatTokenizer) -> Iterator[str]:
    """Yield what the chat template writes for small conversations; marks that it puts together show only there."""
    for messages, options in _PROBES if tokenizer.chat_template else ():
        with suppress(Exception):  # a template raises whatever it likes; rendering the rows reports that better
            yield tokenizer.apply_chat_template(messages, tokenize=False, **options)


@lru_cache(maxsize=8)
def _control_token_pattern(controls: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(controls, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


@lru_cache(maxsize=2)
def _plain_tokenizer(tokenizer: ChatTokenizer, controls: tuple[str, ...]) -> _PlainTokenizer:
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = [token for token in tree["added_tokens"] if token["content"] not in controls]
    backend = Tokenizer.from_str(json.dumps(tree | {"added_tokens": kept}))
    # Without the others before them, added tokens get other ids.
    derived = ((backend.token_to_id(token["content"]), token["id"]) for token in kept)
    added_ids = {token: true for token, true in derived if token is not None}
    return _PlainTokenizer(backend, added_ids)


def exceeds_tokens(text: str, tokens: int, tokenizer: ChatTokenizer) -> bool:
    """Return True if a text surely has more than so many tokens, by its characters: a token holds only so many.

    Letters and digits are counted apart from signs, because the longest tokens are rules of signs.
    """
    if len(text) <= tokens:
        return False
    most_words, most_signs = _token_capacity(tokenizer, len(tokenizer))
    if math.isinf(most_words):
        return False
    normalizer, most = tokenizer.backend_tokenizer.normalizer, max_characters(tokens, tokenizer)
    if len(text) > most and (normalizer is None or len(text) > MAX_COMPOSED_CHARACTERS * most):
        return True  # blanks too
    words, signs = _count_characters(text, normalizer)
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


def max_characters(tokens: int, tokenizer: ChatTokenizer) -> int:
    """Return how many characters so many tokens hold at most."""
    return tokens * _longest_token_characters(tokenizer, len(tokenizer))


@lru_cache(maxsize=8)
def _longest_token_characters(tokenizer: ChatTokenizer, size: int) -> int:
    """Return the length of the longest token; where a vocabulary spells bytes, its bytes, which are no fewer."""
    del size
    return max(map(len, tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True)))
