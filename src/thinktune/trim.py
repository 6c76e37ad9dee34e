"""Rows that are too long: whole sentences out of the reasoning's middle, with a visible mark; all else is kept."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from thinktune.data import Example
from thinktune.render import Rendered, render

MARK = "\n[…]\n"
SENTENCE = re.compile(r".+?(?:[。！？；!?…]+[”’」』）)\"]*\s*|\.(?=\s)\s*|\n+|$)", re.DOTALL)


def trim(example: Example, tokenizer: Any, max_tokens: int) -> tuple[Example, list[Rendered]] | None:
    """The example and its tokens with as much reasoning as fits `max_tokens`, or None where none of it would fit.

    Of every reply that is too long, sentences go out of the reasoning's middle: how a thought begins and how it ends
    stay. Question, answer and end-of-turn token are never touched.
    """
    turns = list(example.turns)
    made: list[Rendered] = []
    for index, turn in enumerate(turns):
        if turn.role != "assistant" or not turn.learned:
            continue

        def shortened(kept: int, index: int = index) -> tuple[Rendered, str]:
            reasoning = _without_middle(example.turns[index].reasoning, kept)
            history = (*turns[:index], replace(example.turns[index], reasoning=reasoning))
            alone = tuple(replace(turn, learned=turn is history[-1]) for turn in history)
            return render(replace(example, turns=alone), tokenizer)[0], reasoning

        found = _longest(len(_sentences(turn.reasoning)), lambda kept: len(shortened(kept)[0]) <= max_tokens)
        if found is None:
            return None
        rendered, reasoning = shortened(found)
        turns[index] = replace(turn, reasoning=reasoning)
        made.append(rendered)
    return replace(example, turns=tuple(turns)), made


def _longest(most: int, fits: Callable[[int], bool]) -> int | None:
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
    return "".join(sentences[:head]).rstrip() + MARK + "".join(sentences[tail:]).lstrip()


def _sentences(text: str) -> list[str]:
    return [found for found in SENTENCE.findall(text) if found]
