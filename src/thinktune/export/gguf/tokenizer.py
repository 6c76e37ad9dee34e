"""Tokenizer of a GGUF: its tokens, kinds and merges as llama.cpp reads them, proved on probes."""

import heapq
import itertools
import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

from thinktune.errors import UserError
from thinktune.export.gguf.pretokenizer import (
    DECOMPOSED,
    PROBES,
    as_llama_cpp_reads,
    find_pretokenizer,
    joined_tokens,
    probe_texts,
)
from thinktune.tokenization import ChatTokenizer
from thinktune.tokenization.tags import ASK, template_text, write_probe

BLANK = "\u2581"  # a space, as SentencePiece writes it
JOINED_PROBES = 500
RUNS_COMPARED_EVERY = 16
UNREACHED_SCORE = -1e9  # of tokens that no merge makes
# llama.cpp ends a reply also at these, wherever a vocabulary has one (llama_vocab's list of texts).
# fmt: off
KNOWN_ENDS = frozenset((
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>",
    "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
))
# fmt: on
_Listed = tuple[tuple[str, ...], tuple["TokenType", ...]]
REMEDY = "export to hf and serve that with vLLM or SGLang"


class TokenType(IntEnum):
    """What a token is to llama.cpp; the values are those of GGUF."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """A tokenizer in GGUF's terms. `notes`: a sentence for each thing that llama.cpp does otherwise.

    `kind` gpt2 is byte-level and has `merges`; llama is SentencePiece's and has `scores`. `ends` begins with the
    tokenizer's own end of a turn.
    """

    kind: Literal["gpt2", "llama"]
    pretokenizer: str
    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    merges: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    add_space_prefix: bool = False
    ends: tuple[int, ...] = ()
    special: Mapping[str, int] = field(default_factory=dict[str, int])  # bos, pad and unk, where there are such
    adds_bos: bool = False
    adds_eos: bool = False
    chat_template: str = ""
    notes: tuple[str, ...] = ()


def read_gguf_tokenizer(tokenizer: ChatTokenizer, rows: int, bos_id: int | None = None) -> GgufTokenizer:
    """Return a tokenizer as a GGUF holds it, for a model whose embedding has so many rows.

    Raises UserError where llama.cpp would cut a probe into other tokens, or has no way for such a tokenizer. `bos_id`
    is the configuration's, which counts where the tokenizer names none.
    """
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    model = tree["model"]
    strange = [name for name in ("continuing_subword_prefix", "end_of_word_suffix", "dropout") if model.get(name)]
    if model["type"] != "BPE" or strange:
        what = f"{model['type']}" + (f" with {', '.join(strange)}" if strange else "")
        raise UserError(f"gguf: the tokenizer is of a kind that llama.cpp reads differently ({what}); {REMEDY}")
    added = {token["id"]: token for token in tree["added_tokens"]}
    notes = [*_added_token_notes(tree["added_tokens"], rows)]
    ends = _end_ids(tokenizer, rows)
    special = _special_ids(tokenizer, rows, bos_id)
    control = {*ends, *special.values(), *(each for each, token in added.items() if token["special"] and each < rows)}
    blanked = _has(tree, "pre_tokenizer", "ByteLevel") is False
    made: dict[str, Any]
    if blanked:
        listed = [_list_tokens(model, added, rows, control, blanks=blanks) for blanks in ("spelled", "merged")]
        reader, prefix, more = _prove_sentencepiece(tokenizer, listed, _scores(model))
        made = {"kind": "llama", "pretokenizer": "default", "scores": reader.scores, "add_space_prefix": prefix}
        made |= {"tokens": reader.tokens, "types": reader.types}
    else:
        name, more = _prove_byte_level(tokenizer)
        merges = tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
        tokens, types = _list_tokens(model, added, rows, control)
        made = {"kind": "gpt2", "pretokenizer": name, "merges": merges, "tokens": tokens, "types": types}
    if others := [text for at, text in enumerate(made["tokens"]) if text in KNOWN_ENDS and at not in ends]:
        notes.append(f"gguf: llama.cpp also ends a reply at {', '.join(map(repr, others))}, wherever a model writes it")
    before, after = _added_around(tokenizer)
    return GgufTokenizer(
        **made,
        ends=ends,
        special=special,
        adds_bos=before,
        adds_eos=after,
        chat_template=_portable_template(tokenizer),
        notes=(*notes, *more),
    )


def _has(tree: Mapping[str, Any], part: str, kind: str) -> bool:
    """Return True if a part of a tokenizer has a step of a kind."""
    found = tree.get(part) or {}
    steps = found.get("pretokenizers") or found.get("normalizers") or [found]
    return any(step.get("type") == kind for step in steps)


def _added_token_notes(added: Sequence[Mapping[str, Any]], rows: int) -> Iterator[str]:
    if strips := [token["content"] for token in added if token["lstrip"] or token["rstrip"] or token["single_word"]]:
        yield f"gguf: llama.cpp leaves the spaces around {', '.join(map(repr, strips))}, which the tokenizer removes"
    if beyond := [token["content"] for token in added if token["id"] >= rows]:
        yield f"gguf: {', '.join(map(repr, beyond))} is left out: the model's embedding has no row for it"


def _end_ids(tokenizer: ChatTokenizer, rows: int) -> tuple[int, ...]:
    """Return the tokens that end a reply, the tokenizer's own first; raises UserError for more than a GGUF can name."""
    named = [tokenizer.convert_tokens_to_ids(token) for token in tokenizer.stop_tokens]
    ends = tuple(dict.fromkeys([tokenizer.eos_token_id, *named]))
    if missing := [end for end in ends if end >= rows]:
        raise UserError(f"gguf: token {missing[0]} ends a reply, but the model's embedding has only {rows} rows")
    unknown = [end for end in ends[1:] if tokenizer.decode([end]) not in KNOWN_ENDS]
    if len(unknown) > 2:
        texts = ", ".join(repr(tokenizer.decode([end])) for end in unknown)
        raise UserError(
            f"gguf: generation_config.json ends a reply at {texts} and at {tokenizer.eos_token!r}; llama.cpp "
            f"accepts three; remove one from eos_token_id there, or {REMEDY}"
        )
    return (ends[0], *unknown, *(end for end in ends[1:] if end not in unknown))


def _special_ids(tokenizer: Any, rows: int, bos_id: int | None) -> dict[str, int]:
    """Return the ids of bos, pad and unk; where there is no bos, the end, which llama.cpp would otherwise guess."""
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else bos_id
    named = {
        "bos": tokenizer.eos_token_id if bos is None else bos,
        "pad": tokenizer.pad_token_id,
        "unk": tokenizer.unk_token_id,
    }
    return {name: number for name, number in named.items() if number is not None and number < rows}


def _list_tokens(
    model: Mapping[str, Any],
    added: Mapping[int, Mapping[str, Any]],
    rows: int,
    control: set[int],
    blanks: Literal["", "spelled", "merged"] = "",
) -> _Listed:
    """Return every row's token and its type; rows without a token are unused.

    `blanks` is given where a space is written as ▁. An added token with one is found where a text `spelled` it with
    spaces, before anything is merged, or `merged` like any other token: releases of the same tokenizer differ in it.
    """
    tokens = [f"[PAD{row}]" for row in range(rows)]
    types = [TokenType.UNUSED] * rows
    for text, number in model["vocab"].items():
        if number < rows:
            tokens[number], types[number] = text, TokenType.NORMAL
    if blanks:
        for number in range(256):
            if (row := model["vocab"].get(f"<0x{number:02X}>")) is not None:
                types[row] = TokenType.BYTE
        if (unknown := model["vocab"].get(model.get("unk_token"))) is not None:
            types[unknown] = TokenType.UNKNOWN
    for number, token in added.items():
        if number < rows and not (blanks == "merged" and BLANK in token["content"] and not token["special"]):
            text = token["content"].replace(BLANK, " ") if blanks else token["content"]  # as a text spells it
            tokens[number], types[number] = text, TokenType.USER_DEFINED
    for number in control:
        if types[number] is not TokenType.UNKNOWN:
            types[number] = TokenType.CONTROL
    return tuple(tokens), tuple(types)


def _added_around(tokenizer: ChatTokenizer) -> tuple[bool, bool]:
    """Return whether the tokenizer puts its bos before a text, and its eos after it; UserError for anything else."""
    backend = tokenizer.backend_tokenizer
    bare, whole = backend.encode("a", add_special_tokens=False).ids, backend.encode("a", add_special_tokens=True).ids
    begin = next(at for at in range(len(whole)) if whole[at : at + len(bare)] == bare)
    before, after = whole[:begin], whole[begin + len(bare) :]
    bos: Any = getattr(tokenizer, "bos_token_id", None)
    if before not in ([], [bos]) or after not in ([], [tokenizer.eos_token_id]):
        raise UserError(
            f"gguf: the tokenizer puts {tokenizer.decode(before + after)!r} around a text; llama.cpp knows only "
            f"bos and eos; {REMEDY}"
        )
    return bool(before), bool(after)


def _portable_template(tokenizer: ChatTokenizer) -> str:
    """Return the chat template with the special tokens that it names and llama.cpp does not pass, set at its head."""
    text, named = template_text(tokenizer), tokenizer.special_tokens_map
    passed = {"eos_token"} | ({"bos_token"} if named.get("bos_token") else set())
    values = {"bos_token": "", **named}
    missing = [name for name in values if name in text and name not in passed]
    return "".join(f"{{%- set {name} = {json.dumps(values[name], ensure_ascii=False)} -%}}" for name in missing) + text


def _prove_byte_level(tokenizer: ChatTokenizer) -> tuple[str, list[str]]:
    """Return the name of the pre-tokenizer under which llama.cpp makes the same tokens, and notes; or UserError."""
    backend = tokenizer.backend_tokenizer
    way, difference = find_pretokenizer(backend)
    if way is None:
        raise UserError(
            f"gguf: llama.cpp has no name for how this tokenizer splits text (the closest is {difference}); {REMEDY}"
        )
    read = as_llama_cpp_reads(backend, way)
    spelled = _probed_tokens(tokenizer)
    runs = probe_texts()[len(PROBES) :: RUNS_COMPARED_EVERY]  # all of them are cut alike, which decides nearly all
    texts = (*PROBES, *runs, *joined_tokens([*PROBES, *spelled], JOINED_PROBES))
    texts = tuple(unicodedata.normalize("NFC", text) for text in texts)  # what a tokenizer composes is a note
    _compare(tokenizer, texts, lambda text: read.encode(text, add_special_tokens=False).ids)
    own, other = (each.encode(DECOMPOSED, add_special_tokens=False).ids for each in (backend, read))
    return way.name, [_composing_note()] if own != other else []


def _probed_tokens(tokenizer: ChatTokenizer) -> list[str]:
    """Return the added tokens, without those that take spaces away (a note) unless the chat template writes them."""
    template = template_text(tokenizer)
    return [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.content in template or not (token.lstrip or token.rstrip or token.single_word)
    ]


def _composing_note() -> str:
    return (
        "gguf: llama.cpp does not combine letters and accents that are written apart (Unicode NFC), as the "
        "tokenizer does; such texts get other tokens"
    )


def _compare(tokenizer: ChatTokenizer, texts: Sequence[str], read: Callable[[str], Sequence[int]]) -> None:
    """Raise UserError with the first text that llama.cpp would make other tokens of."""
    backend = tokenizer.backend_tokenizer
    for text in texts:
        wanted, found = backend.encode(text, add_special_tokens=False).ids, list(read(text))
        if wanted != found:
            place = next((at for at, pair in enumerate(zip(wanted, found, strict=False)) if pair[0] != pair[1]), 0)
            raise UserError(
                f"gguf: llama.cpp would split {text!r} into other tokens: {found[place : place + 3]} where the "
                f"tokenizer has {wanted[place : place + 3]}; {REMEDY}"
            )


def _scores(model: Mapping[str, Any]) -> dict[str, float]:
    """Return the score of each token that merges make, by which llama.cpp chooses what it merges next: their order."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault(left + right, rank)
    return {token: -float(rank) for token, rank in ranks.items()}


def _prove_sentencepiece(
    tokenizer: ChatTokenizer, listed: Sequence[_Listed], scores: Mapping[str, float]
) -> tuple["_SentencePieceReader", bool, list[str]]:
    """Find how llama.cpp must read a tokenizer to make the same tokens: its tokens, and a space before texts or none.

    Conversations count, which begin with a control token where the chat template writes one; a bare text that gets
    other tokens is a note. Raises UserError where there is no such way.
    """
    readers = [_SentencePieceReader(tokens, types, scores) for tokens, types in listed]
    if missing := [number for number in range(256) if f"<0x{number:02X}>" not in readers[0].ids]:
        raise UserError(
            f"gguf: the tokenizer has no token for byte {missing[0]:#04x}, and llama.cpp spells unknown characters "
            f"in bytes; {REMEDY}"
        )
    opening, bare = _first_control_token(tokenizer), _sentencepiece_probes(tokenizer, readers[0])
    failures: list[UserError] = []
    for reader, prefix in itertools.product(readers, (False, True)):
        try:
            _compare(tokenizer, [opening + text for text in bare], lambda text: reader.read(text, prefix=prefix))  # noqa: B023
        except UserError as error:
            failures.append(error)
            continue
        try:
            _compare(tokenizer, PROBES, lambda text: reader.read(text, prefix=prefix))  # noqa: B023
        except UserError as error:
            return reader, prefix, [f"{error} (only where no control token stands before it)"]
        return reader, prefix, []
    raise failures[0]


def _first_control_token(tokenizer: ChatTokenizer) -> str:
    """Return the control token that the chat template writes first in a prompt, else the end of a turn."""
    prompt = write_probe(tokenizer, ASK, add_generation_prompt=True) or ""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    found = [text for text in added if prompt.startswith(text)]
    return max(found, key=len, default=tokenizer.eos_token)


def _sentencepiece_probes(tokenizer: ChatTokenizer, reader: "_SentencePieceReader") -> list[str]:
    spelled = [text.replace(BLANK, " ") for text in _probed_tokens(tokenizer)]
    pairs = zip(reader.tokens, reader.types, strict=True)
    normal = [text.replace(BLANK, " ") for text, kind in pairs if kind is TokenType.NORMAL and text]
    return [*PROBES, *joined_tokens(normal, JOINED_PROBES), *joined_tokens([*PROBES, *spelled], JOINED_PROBES // 5)]


class _SentencePieceReader:
    """llama.cpp's way to read a text by scores: it joins the two neighbours whose token scores best, until none do."""

    def __init__(self, tokens: tuple[str, ...], types: tuple[TokenType, ...], scores: Mapping[str, float]) -> None:
        self.tokens, self.types = tokens, types
        self.scores = tuple(scores.get(token, UNREACHED_SCORE) for token in tokens)
        self.ids = {text: number for number, text in enumerate(tokens)}
        found = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)
        special = [text for text, kind in zip(tokens, types, strict=True) if kind in found and text]
        self._special = sorted(special, key=len, reverse=True)

    def read(self, text: str, *, prefix: bool) -> list[int]:
        """Return the tokens of a text; with `prefix`, a space is put before what follows a special token or nothing."""
        parts: list[str | int] = [text]
        for special in self._special:
            if special in text:
                parts = [cut for part in parts for cut in self._cut(part, special)]
        ids: list[int] = []
        after_special = True
        for part in parts:
            if isinstance(part, int):
                ids.append(part)
                after_special = True
            else:
                ids += self._join((" " if prefix and after_special else "") + part)
                after_special = False
        return ids

    def _cut(self, part: str | int, special: str) -> Iterator[str | int]:
        if isinstance(part, int):
            yield part
            return
        for at, piece in enumerate(part.split(special)):
            if at:
                yield self.ids[special]
            if piece:
                yield piece

    def _join(self, text: str) -> list[int]:
        symbols: list[str] = list(text.replace(" ", BLANK))
        before, after = [*range(-1, len(symbols) - 1)], [*range(1, len(symbols) + 1)]
        queue: list[tuple[float, int, int, str]] = []

        def propose(left: int, right: int) -> None:
            if left >= 0 and right < len(symbols) and (joined := symbols[left] + symbols[right]) in self.ids:
                heapq.heappush(queue, (-self.scores[self.ids[joined]], left, right, joined))

        for place in range(1, len(symbols)):
            propose(place - 1, place)
        while queue:
            _, left, right, joined = heapq.heappop(queue)
            if not symbols[left] or not symbols[right] or symbols[left] + symbols[right] != joined:
                continue  # one of them was joined elsewhere
            symbols[left], symbols[right] = joined, ""
            after[left] = after[right]
            if after[right] < len(symbols):
                before[after[right]] = left
            propose(before[left], left)
            propose(left, after[left])
        return [number for symbol in symbols if symbol for number in self._spell(symbol)]

    def _spell(self, symbol: str) -> list[int]:
        if (number := self.ids.get(symbol)) is not None:
            return [number]
        return [self.ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]
