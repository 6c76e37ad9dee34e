"""Reasoning trimmed to a length, in whole sentences out of its middle."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from thinktune.tokenization.chat_template import Rendered, prompt_exceeds, render_batch
from thinktune.tokenization.conversation import Example
from thinktune.tokenization.tokenizer import ChatTokenizer

OMISSION_MARK = "\n[…]\n"
SENTENCE_PATTERN = re.compile(r".+?(?:[。！？；!?…]+[”’」』）)\"]*\s*|\.(?=\s)\s*|\n+|$)", re.DOTALL)


def trim_reasoning(
    example: Example, tokenizer: ChatTokenizer, max_tokens: int
) -> tuple[Example, list[Rendered | None]]:
    """Trim an example's reasoning until every reply fits `max_tokens`; a reply is None where it would not even so.

    Sentences are cut from the middle of the reasoning, so that how a thought begins and ends is kept. Question, answer
    and end-of-turn token are never touched.
    """
    turns = list(example.turns)
    replies: list[Rendered | None] = []
    for index, turn in enumerate(turns):
        if not turn.is_trained_reply:
            continue

        sentences = _sentences(turn.reasoning)

        def shortened(kept: int, index: int = index, sentences: list[str] = sentences) -> tuple[Rendered, str] | None:
            reasoning = _without_middle(sentences, kept)
            history = (*turns[:index], replace(example.turns[index], reasoning=reasoning))
            alone = tuple(replace(turn, trained=turn is history[-1]) for turn in history)
            [[rendered]] = render_batch([replace(example, turns=alone)], tokenizer, max_tokens)
            return (rendered, reasoning) if rendered and len(rendered) <= max_tokens else None

        most = _max_fitting_sentences(len(sentences), lambda kept: shortened(kept) is not None)
        found = None if most is None else shortened(most)
        replies.append(found and found[0])
        if found is None and prompt_exceeds(turns[:index], tokenizer, max_tokens):
            break  # and so is every later prompt
        if found is not None:
            turns[index] = replace(turn, reasoning=found[1])
    trained = sum(turn.is_trained_reply for turn in turns)
    return replace(example, turns=tuple(turns)), replies + [None] * (trained - len(replies))


def _max_fitting_sentences(most: int, fits: Callable[[int], bool]) -> int | None:
    """Find the largest number of sentences that fits, at least one at each end; None if there is none."""
    if fits(most):
        return most
    low, high = 2, most - 1
    if high < low or not fits(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _without_middle(sentences: Sequence[str], kept: int) -> str:
    if kept >= len(sentences):
        return "".join(sentences)
    head = (kept + 1) // 2
    tail = len(sentences) - (kept - head)
    return "".join(sentences[:head]).rstrip() + OMISSION_MARK + "".join(sentences[tail:]).lstrip()


def _sentences(text: str) -> list[str]:
    return [found for found in SENTENCE_PATTERN.findall(text) if found]
