"""Conversations to tokens, exactly as the tokenizer's own chat template writes them, and what each token is."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from thinktune.data import Example, Turn
from thinktune.errors import UserError, brief

OPENING, CLOSING = "<think>", "</think>"


class Part(IntEnum):
    """What a token is: given to the model, or one of the three things that it learns to write."""

    GIVEN = 0
    REASONING = 1
    ANSWER = 2
    END = 3


@dataclass(frozen=True, slots=True)
class Rendered:
    """One reply with its history as tokens: `ids` (n,) int32 and, beside each, its `Part` in `parts` (n,) uint8."""

    ids: NDArray[np.int32]
    parts: NDArray[np.uint8]
    row: str

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def learned_tokens(self) -> int:
        """How many tokens are learned."""
        return int(np.count_nonzero(self.parts))


def render(example: Example, tokenizer: Any) -> list[Rendered]:
    """One Rendered for each assistant turn, its history as the model will see it at inference.

    The prompt must be a token prefix of the whole, and the template must keep reasoning and answer; otherwise
    UserError says what differs. What the template writes after the end-of-turn token is given, never learned.
    """
    turns = example.turns
    return [
        _render_reply(turns[: index + 1], tokenizer, example.source)
        for index, turn in enumerate(turns)
        if turn.role == "assistant"
    ]


def render_prompt(turns: Sequence[Turn], tokenizer: Any, *, thinking: bool = True) -> list[int]:
    """The tokens of a conversation up to where the assistant speaks next."""
    text = _template(tokenizer, turns, add_generation_prompt=True, enable_thinking=thinking)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def control_tokens(tokenizer: Any) -> list[str]:
    """Texts that the tokenizer turns into single control tokens, wherever they stand."""
    return [token.content for token in tokenizer.added_tokens_decoder.values()]


def _render_reply(turns: Sequence[Turn], tokenizer: Any, row: str) -> Rendered:
    reply = turns[-1]
    whole = _template(tokenizer, turns)
    encoding = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = encoding["input_ids"]
    prompt = render_prompt(turns[:-1], tokenizer)
    if ids[: len(prompt)] != prompt:
        raise UserError(_prefix_fault(row, prompt, ids, tokenizer))
    ends = [position for position in range(len(prompt), len(ids)) if ids[position] == tokenizer.eos_token_id]
    if not ends:
        raise UserError(
            f"{row}: the chat template never writes the end-of-turn token {tokenizer.eos_token!r}; "
            "the model could not learn to stop, so use another template"
        )
    starts = [start for start, _ in encoding["offset_mapping"]]
    answer_start = _answer_start(whole, starts[len(prompt)], reply, row)
    parts = np.full(len(ids), Part.GIVEN, np.uint8)
    learned = slice(len(prompt), ends[-1])
    parts[learned] = np.where(np.asarray(starts[learned]) < answer_start, Part.REASONING, Part.ANSWER)
    parts[ends[-1]] = Part.END
    return Rendered(np.asarray(ids, np.int32), parts, row)


def _answer_start(whole: str, reply_start: int, reply: Turn, row: str) -> int:
    """Where in the text the answer begins; raises UserError where the template left out reasoning or answer."""
    written = whole[reply_start:]
    head, closing, tail = written.partition(CLOSING)
    if reply.reasoning.strip("\n") not in head or reply.content.strip("\n") not in (tail if closing else written):
        raise UserError(
            f"{row}: the chat template does not write the row's reasoning and answer whole; it writes {written[:200]!r}"
        )
    if not closing:
        return reply_start
    return len(whole) - len(tail.lstrip("\n"))


def _prefix_fault(row: str, prompt: list[int], ids: list[int], tokenizer: Any) -> str:
    first = next(
        (at for at, pair in enumerate(zip(prompt, ids, strict=False)) if pair[0] != pair[1]), min(len(prompt), len(ids))
    )
    shown = tokenizer.decode(prompt[first : first + 8]), tokenizer.decode(ids[first : first + 8])
    return (
        f"{row}: the chat template's prompt is no prefix of the whole row: at token {first} the prompt goes on with "
        f"{shown[0]!r}, the row with {shown[1]!r}; what is trained would not be what is asked, so use another template"
    )


def _template(tokenizer: Any, turns: Sequence[Turn], **options: Any) -> str:
    messages = [
        {"role": turn.role, "content": turn.content}
        | ({"reasoning_content": turn.reasoning} if turn.role == "assistant" else {})
        for turn in turns
    ]
    if not tokenizer.chat_template:
        raise UserError(
            "model.name: the tokenizer has no chat template; take an instruction-tuned model such as Qwen/Qwen3-1.7B"
        )
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except TemplateError as error:
        raise UserError(f"model.name: its chat template refuses a row ({brief(error)}); use another template") from None
