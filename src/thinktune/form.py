"""The form of a reply, whatever it says: its tags, its end, its loops, its language."""

from collections.abc import Mapping
from typing import Any

from thinktune.render import CLOSING, OPENING
from thinktune.script import main_script

LOOPS = 4  # times that the same text stands at the end, one behind the other
LOOP_CHARACTERS = 40  # over all its repeats; shorter ones are emphasis, or rows of dashes
TAIL_CHARACTERS = 4000  # that are searched


def form(question: str, reply: Mapping[str, Any], thinking: bool) -> dict[str, float]:
    """Measures of a saved completion's form: rates as 0 or 1, lengths as numbers.

    `well_formed`: with thinking, the reasoning was opened and closed once; without, there are no tags at all.
    """
    reasoning, answer = str(reply["reasoning"]), str(reply["answer"])
    tags = any(tag in text for tag in (OPENING, CLOSING) for text in (reasoning, answer))
    return {
        "well_formed": not tags and bool(reply["closed"] if thinking else not reasoning.strip()),
        "ended": reply["finish"] in ("end", "stop"),
        "cut": reply["finish"] == "length",
        "empty_answer": not answer.strip(),
        "loops": loops(reasoning) or loops(answer),
        "language_switch": switches(question, reasoning) or switches(question, answer),
        "tokens": reply["tokens"],
        "reasoning_tokens": reply["reasoning_tokens"],
        "answer_characters": len(answer),
    }


def loops(text: str) -> bool:
    """Whether a text ends in the same piece over and over: at least four times, 40 characters in all.

    One pass of Knuth, Morris and Pratt's failure function over the reversed end gives the shortest period of each of
    its beginnings. A last repeat that was cut off in its middle counts by its characters.
    """
    tail = text.rstrip()[-TAIL_CHARACTERS:][::-1]
    border = [0] * len(tail)
    matched = 0
    for place in range(1, len(tail)):
        while matched and tail[place] != tail[matched]:
            matched = border[matched - 1]
        matched += tail[place] == tail[matched]
        border[place] = matched
        length, period = place + 1, place + 1 - matched
        if length >= max(LOOP_CHARACTERS, LOOPS * period) and len(set(tail[:period])) > 1:
            return True
    return False


def switches(question: str, text: str) -> bool:
    """Whether a text is in another script than its question; of short or mixed texts it cannot be told."""
    asked, written = main_script(question), main_script(text)
    return asked is not None and written is not None and asked != written
