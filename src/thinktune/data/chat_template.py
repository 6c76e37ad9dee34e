"""Conversations to tokens, exactly as the tokenizer's own chat template writes them, and what each token is."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from typing import Any

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray
from tokenizers import Tokenizer

from thinktune.data.types import Example, Turn
from thinktune.errors import UserError, shorten_error

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"


ESCAPE_MARK = "\ufdd0\ufdd1"  # no characters, by Unicode: they mark a spelled control token while the template writes


class TokenKind(IntEnum):
    """What a token is: given to the model, or one of the three things that it learns to write."""

    PROMPT = 0
    REASONING = 1
    ANSWER = 2
    END = 3


@dataclass(frozen=True, slots=True)
class Rendered:
    """One reply with its history as tokens: `ids` (n,) int32 and, beside each, its `TokenKind` in `kinds` (n,) uint8."""

    ids: NDArray[np.int32]
    kinds: NDArray[np.uint8]
    source: str

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def label_tokens(self) -> int:
        """How many tokens are learned."""
        return int(np.count_nonzero(self.kinds))


def render(example: Example, tokenizer: Any) -> list[Rendered]:
    """One Rendered for each learned reply, its history as the model will see it at inference."""
    return render_batch([example], tokenizer)[0]


def render_batch(examples: Sequence[Example], tokenizer: Any) -> list[list[Rendered]]:
    """What `render` gives, for many examples at once, which tokenizes on all cores.

    Proved of every reply, or UserError says what differs: the prompt is a token prefix of the whole; the template keeps
    reasoning and answer; the last learned token is the end-of-turn token; the tokens decode to the template's text.
    What the template writes after the end-of-turn token is given, never learned.
    """
    histories = [
        (number, tuple(_escape_control_tokens(turn, tokenizer) for turn in turns))
        for number, turns in _trained_conversations(examples)
    ]
    wholes = [_apply_chat_template(tokenizer, turns) for _, turns in histories]
    prompts = [
        _apply_chat_template(tokenizer, turns[:-1], add_generation_prompt=True, enable_thinking=True)
        for _, turns in histories
    ]
    tokens = _tokenize(wholes + prompts, tokenizer)
    made: list[list[Rendered]] = [[] for _ in examples]
    for place, (number, turns) in enumerate(histories):
        row, ids = examples[number].source, tokens[place]
        _refuse_lossy_tokens(row, wholes[place], ids, tokenizer)
        parts = _token_kinds(row, wholes[place], prompts[place], ids, tokens[len(wholes) + place], turns[-1], tokenizer)
        made[number].append(Rendered(np.asarray(ids, np.int32), parts, row))
    return made


def render_prompt(turns: Sequence[Turn], tokenizer: Any, *, thinking: bool = True) -> list[int]:
    """The tokens of a conversation up to where the assistant speaks next; control tokens in it are plain characters."""
    shielded = [_escape_control_tokens(turn, tokenizer) for turn in turns]
    text = _apply_chat_template(tokenizer, shielded, add_generation_prompt=True, enable_thinking=thinking)
    return _tokenize([text], tokenizer)[0]


def reasoning_end_ids(tokenizer: Any) -> tuple[int, ...]:
    """The tokens that the chat template writes between reasoning and answer, the closing tag among them."""
    whole = _apply_chat_template(
        tokenizer, (Turn("user", "question"), Turn("assistant", "an answer", "some reasoning"))
    )
    between = whole.partition("some reasoning")[2].partition("an answer")[0]
    return tuple(_tokenize([between if THINK_CLOSE in between else f"\n{THINK_CLOSE}\n\n"], tokenizer)[0])


def reference_ids(examples: Sequence[Example], tokenizer: Any) -> list[list[list[int] | None]]:
    """The ids of each learned reply as transformers alone gives them, to hold ours to.

    None stands where the text spells a control token: there ours are plain characters, and transformers' are not.
    """
    found: list[list[list[int] | None]] = [[] for _ in examples]
    asked: list[tuple[int, int, list[dict[str, str]]]] = []
    for number, turns in _trained_conversations(examples):
        if all(_escape_control_tokens(turn, tokenizer) is turn for turn in turns):
            asked.append((number, len(found[number]), _to_messages(turns)))
        found[number].append(None)
    conversations = [messages for _, _, messages in asked]
    given = tokenizer.apply_chat_template(conversations, tokenize=True, return_dict=False) if asked else []
    for (number, place, _), ids in zip(asked, given, strict=True):
        found[number][place] = ids
    return found


def decode_by_token(rendered: Rendered, tokenizer: Any) -> list[list[Any]]:
    """Each token as its part and its text; tokens that only together make a character stand together."""
    found: list[list[Any]] = []
    start = 0
    for stop in range(1, len(rendered) + 1):
        text = tokenizer.backend_tokenizer.decode(rendered.ids[start:stop].tolist(), skip_special_tokens=False)
        if not text.endswith("\ufffd") or stop == len(rendered) or rendered.kinds[stop] != rendered.kinds[start]:
            found.append([int(rendered.kinds[start]), text])
            start = stop
    return found


def control_tokens(tokenizer: Any) -> list[str]:
    """Texts that the tokenizer turns into single control tokens, wherever they stand."""
    return [token.content for token in tokenizer.added_tokens_decoder.values()]


def _trained_conversations(examples: Sequence[Example]) -> Iterator[tuple[int, tuple[Turn, ...]]]:
    """Each learned reply with its history, and the number of its example."""
    for number, example in enumerate(examples):
        for index, turn in enumerate(example.turns):
            if turn.role == "assistant" and turn.trained:
                yield number, example.turns[: index + 1]


def _token_kinds(
    row: str, whole: str, prompt: str, ids: list[int], prompt_ids: list[int], reply: Turn, tokenizer: Any
) -> NDArray[np.uint8]:
    """What each token is."""
    if ids[: len(prompt_ids)] != prompt_ids:
        raise UserError(_prefix_fault(row, prompt_ids, ids, tokenizer))
    learned = ids[len(prompt_ids) :]
    end_of_turn = tokenizer.eos_token_id  # asked once: transformers looks it up anew each time
    if end_of_turn not in learned:
        raise UserError(
            f"{row}: the chat template never writes the end-of-turn token {tokenizer.eos_token!r}; "
            "the model could not learn to stop, so use another template"
        )
    parts = np.full(len(ids), TokenKind.PROMPT, np.uint8)
    answer = _answer_token_index(
        whole, _answer_char_index(whole, len(prompt), reply, row), ids, len(prompt_ids), tokenizer
    )
    parts[len(prompt_ids) : answer] = TokenKind.REASONING
    end = len(ids) - 1 - learned[::-1].index(end_of_turn)
    parts[answer:end] = TokenKind.ANSWER
    parts[end] = TokenKind.END
    return parts


def _answer_token_index(whole: str, answer_char_index: int, ids: list[int], first: int, tokenizer: Any) -> int:
    """The token that the answer begins with."""
    if THINK_CLOSE not in whole[:answer_char_index]:
        return first
    closing = tokenizer.convert_tokens_to_ids(THINK_CLOSE)
    if closing in ids[first:]:
        at = ids.index(closing, first) + 1
        while not tokenizer.backend_tokenizer.decode([ids[at]], skip_special_tokens=False).strip("\n"):
            at += 1
        return at
    # A tokenizer without think tokens of its own: only then the places of all tokens in the text are worth their time.
    return tokenizer.backend_tokenizer.encode(whole, add_special_tokens=False).char_to_token(answer_char_index)


def _answer_char_index(whole: str, reply_char_index: int, reply: Turn, row: str) -> int:
    """Where in the text the answer begins; raises UserError where the template left out reasoning or answer."""
    written = whole[reply_char_index:]
    head, closing, tail = written.partition(THINK_CLOSE)
    if reply.reasoning.strip("\n") not in head or reply.content.strip("\n") not in (tail if closing else written):
        raise UserError(
            f"{row}: the chat template does not write the row's reasoning and answer whole; it writes {written[:200]!r}"
        )
    if not closing:
        return reply_char_index
    return len(whole) - len(tail.lstrip("\n"))


def _refuse_lossy_tokens(row: str, whole: str, ids: list[int], tokenizer: Any) -> None:
    """Raise UserError where the tokens do not decode to the text that the template wrote."""
    backend = tokenizer.backend_tokenizer
    expected = whole.replace(ESCAPE_MARK, "")
    decoded = backend.decode(ids, skip_special_tokens=False)
    if decoded != expected and decoded != (backend.normalizer.normalize_str(expected) if backend.normalizer else None):
        raise UserError(
            f"{row}: its tokens decode to {decoded[:80]!r}…, which is not what the chat template wrote; "
            "the tokenizer loses text, so use another model"
        )


def _prefix_fault(row: str, prompt: list[int], ids: list[int], tokenizer: Any) -> str:
    first = next(
        (at for at, pair in enumerate(zip(prompt, ids, strict=False)) if pair[0] != pair[1]), min(len(prompt), len(ids))
    )
    shown = tokenizer.decode(prompt[first : first + 8]), tokenizer.decode(ids[first : first + 8])
    return (
        f"{row}: the chat template's prompt is no prefix of the whole row: at token {first} the prompt goes on with "
        f"{shown[0]!r}, the row with {shown[1]!r}; what is trained would not be what is asked, so use another template"
    )


def _apply_chat_template(tokenizer: Any, turns: Sequence[Turn], **options: Any) -> str:
    if not tokenizer.chat_template:
        raise UserError(
            "model.name: the tokenizer has no chat template; take an instruction-tuned model such as Qwen/Qwen3-1.7B"
        )
    try:
        return tokenizer.apply_chat_template(_to_messages(turns), tokenize=False, **options)
    except TemplateError as error:
        raise UserError(
            f"model.name: its chat template refuses a row ({shorten_error(error)}); use another template"
        ) from None


def _to_messages(turns: Sequence[Turn]) -> list[dict[str, str]]:
    return [
        {"role": turn.role, "content": turn.content}
        | ({"reasoning_content": turn.reasoning} if turn.role == "assistant" else {})
        for turn in turns
    ]


def _tokenize(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """The ids that the tokenizer gives for each text, without padding or truncation, on all cores."""
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    shielded = {place: _tokenize_escaped(text, tokenizer) for place, text in enumerate(texts) if ESCAPE_MARK in text}
    plain = [text for place, text in enumerate(texts) if place not in shielded]
    rest = iter(backend.encode_batch_fast(plain, add_special_tokens=False))
    return [shielded[place] if place in shielded else next(rest).ids for place in range(len(texts))]


def _escape_control_tokens(turn: Turn, tokenizer: Any) -> Turn:
    """The turn with a mark inside every control token that its own text spells, so that none of them takes effect."""
    spelled = _control_token_pattern(tokenizer, len(tokenizer))
    if not (spelled.search(turn.content) or spelled.search(turn.reasoning)):
        return turn
    content, reasoning = (
        spelled.sub(lambda found: found[0][0] + ESCAPE_MARK + found[0][1:], text)
        for text in (turn.content, turn.reasoning)
    )
    return replace(turn, content=content, reasoning=reasoning)


def _tokenize_escaped(text: str, tokenizer: Any) -> list[int]:
    """Ids of a text in which only unmarked control tokens are control tokens; all other text is plain characters.

    It is the tokenizer's own way (cut at control tokens, then encode what lies between) with those of the row left out.
    """
    ids: list[int] = []
    plain, spelled = (
        _tokenizer_without_control_tokens(tokenizer, len(tokenizer)),
        _control_token_pattern(tokenizer, len(tokenizer)),
    )
    start = 0
    for found in (*spelled.finditer(text), None):
        stop = found.start() if found else len(text)
        ids += plain.encode(text[start:stop].replace(ESCAPE_MARK, ""), add_special_tokens=False).ids
        if found:
            ids.append(tokenizer.convert_tokens_to_ids(found[0]))
            start = found.end()
    return ids


# Both take long to make, so each is made once; a tokenizer that got more tokens has another size.
@lru_cache(maxsize=8)
def _control_token_pattern(tokenizer: Any, size: int) -> re.Pattern[str]:
    del size
    longest_first = sorted(control_tokens(tokenizer), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


@lru_cache(maxsize=2)
def _tokenizer_without_control_tokens(tokenizer: Any, size: int) -> Tokenizer:
    del size
    tree = json.loads(tokenizer.backend_tokenizer.to_str()) | {"added_tokens": []}
    return Tokenizer.from_str(json.dumps(tree))


OMISSION_MARK = "\n[…]\n"


SENTENCE_PATTERN = re.compile(r".+?(?:[。！？；!?…]+[”’」』）)\"]*\s*|\.(?=\s)\s*|\n+|$)", re.DOTALL)


def trim_reasoning(example: Example, tokenizer: Any, max_tokens: int) -> tuple[Example, list[Rendered]] | None:
    """The example and its tokens with as much reasoning as fits `max_tokens`, or None where none of it would fit.

    Of every reply that is too long, sentences go out of the reasoning's middle: how a thought begins and how it ends
    stay. Question, answer and end-of-turn token are never touched.
    """
    turns = list(example.turns)
    made: list[Rendered] = []
    for index, turn in enumerate(turns):
        if turn.role != "assistant" or not turn.trained:
            continue

        def shortened(kept: int, index: int = index) -> tuple[Rendered, str]:
            reasoning = _without_middle(example.turns[index].reasoning, kept)
            history = (*turns[:index], replace(example.turns[index], reasoning=reasoning))
            alone = tuple(replace(turn, trained=turn is history[-1]) for turn in history)
            return render(replace(example, turns=alone), tokenizer)[0], reasoning

        found = _max_fitting_sentences(
            len(_sentences(turn.reasoning)), lambda kept: len(shortened(kept)[0]) <= max_tokens
        )
        if found is None:
            return None
        rendered, reasoning = shortened(found)
        turns[index] = replace(turn, reasoning=reasoning)
        made.append(rendered)
    return replace(example, turns=tuple(turns)), made


def _max_fitting_sentences(most: int, fits: Callable[[int], bool]) -> int | None:
    """The largest number of sentences that fits, at least one at each end; None where there is no such number."""
    if fits(most):
        return most
    low, high = 2, most - 1
    if high < low or not fits(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _without_middle(reasoning: str, kept: int) -> str:
    sentences = _sentences(reasoning)
    if kept >= len(sentences):
        return reasoning
    head = (kept + 1) // 2
    tail = len(sentences) - (kept - head)
    return "".join(sentences[:head]).rstrip() + OMISSION_MARK + "".join(sentences[tail:]).lstrip()


def _sentences(text: str) -> list[str]:
    return [found for found in SENTENCE_PATTERN.findall(text) if found]
