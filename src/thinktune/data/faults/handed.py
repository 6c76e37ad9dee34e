"""Replies that speak of what their prompt lacks: an answer, a reference, a passage or tools that they were handed.

A model trained on them learns to speak of material that nobody gave. A phrase alone proves nothing, since the prompt
may hold the material, so each kind also says by which words of the prompt it would be there.
"""

import re
from collections.abc import Sequence

from thinktune.data.faults.handed_phrases import LYING_ANSWER, PASSAGE, REFERENCE, SOLUTION, TOOLS, Handed
from thinktune.data.faults.repairs import excerpt
from thinktune.data.faults.turn_faults import CheckResult, FieldNames, TurnFault, Turns, trained_replies

MAX_BARE_PROMPT_UNITS = 80  # Chinese characters and Latin words: a longer prompt may itself be the passage


_BEFORE, _AFTER = 60, 80  # characters around a cue in which a phrase stands


def find_handed_answers(
    latin: Sequence[str], any_latin: re.Pattern[str], any_other: re.Pattern[str], turns: Turns, field_names: FieldNames
) -> CheckResult:
    """Find reasoning that says it was handed the answer, by the recipe's phrases or in other words.

    Latin phrases begin with such common letters that looking for each by itself first is three times as fast.
    """
    faults = list[TurnFault]()
    for index, turn, (_, field) in trained_replies(turns, field_names):
        text = turn.reasoning.lower()
        found = any_other.search(text)
        if not found and any(map(text.__contains__, latin)):
            found = any_latin.search(text)
        found = found or _find_handed(SOLUTION, text, turns[:index]) or _find_handed(LYING_ANSWER, text, turns[:index])
        if found:
            faults.append(TurnFault(index, f"{field}: says that it was given the answer ({excerpt(text, found)})"))
    return faults, None


def find_handed_context(turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find replies that speak of a reference, a passage or tools that the turns before them lack."""
    faults = list[TurnFault]()
    for index, turn, (content_field, reasoning_field) in trained_replies(turns, field_names):
        for field, text in ((reasoning_field, turn.reasoning.lower()), (content_field, turn.content.lower())):
            for kind in (REFERENCE, PASSAGE, TOOLS):
                if found := _find_handed(kind, text, turns[:index]):
                    what = f"mentions {kind.what} that the prompt does not contain ({excerpt(text, found)})"
                    faults.append(TurnFault(index, f"{field}: {what}"))
                    break
            if faults and faults[-1].index == index:
                break
    return faults, None


def _find_handed(kind: Handed, text: str, before: Turns) -> re.Match[str] | None:
    """Find a phrase of a kind in a text, in lower case, whose prompt does not hold what it speaks of."""
    found = _search_around_cues(kind, text)
    if found is None:
        return None
    prompt = "\n".join(turn.content + turn.reasoning for turn in before if turn.role != "system").lower()
    system = "\n".join(turn.content for turn in before if turn.role == "system").lower()
    if kind.held.search(prompt) or (kind.listed or kind.held).search(system):
        return None
    return None if kind.only_bare and not _is_bare(f"{system}{prompt}") else found


def _search_around_cues(kind: Handed, text: str) -> re.Match[str] | None:
    """Search the phrases around each cue, each part of the text at most about once."""
    start = 0
    while cue := kind.cue.search(text, start):
        end = cue.end() + _AFTER
        if found := kind.phrases.search(text, max(start - _BEFORE, cue.start() - _BEFORE, 0), end):
            return found
        start = end
    return None


_UNITS = re.compile("[a-z0-9]+|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


_EMBEDS = re.compile(r"[:：\"“「『《<`{]|\n[^\n]*\n|\d{3}")


def _is_bare(prompt: str) -> bool:
    """Return True for a prompt that is only a question: short, without a quotation or several lines."""
    return not _EMBEDS.search(prompt) and len(_UNITS.findall(prompt[:2000])) <= MAX_BARE_PROMPT_UNITS
