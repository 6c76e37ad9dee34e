"""Checks of single texts and of a conversation's form."""

import re
from collections.abc import Callable, Collection
from dataclasses import replace

from thinktune.data.columns.messages import is_blank
from thinktune.data.columns.modes import set_modes, split_switches
from thinktune.data.faults.repairs import (
    describe_literal_newline,
    excerpt,
    find_doubtful_newline,
    unescape_newlines,
)
from thinktune.data.faults.turn_faults import (
    CheckResult,
    FieldNames,
    TurnFault,
    Turns,
)

VISIBLE = re.compile("[^\\s\x00-\x1f\x7f-\x9f\u00ad\u034f\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff]")


_MODE_WORDS = {"thinking": "reasoning", "silent": "no reasoning"}


def any_of(texts: Collection[str], then: str = "") -> re.Pattern[str]:
    """Compile a pattern of the longest of the texts at each place, which matches nothing if there are none."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile(f"(?:{'|'.join(map(re.escape, longest_first)) or '(?!)'}){then}")


def repair_texts(
    repair: Callable[[str], str],
    repair_reasoning: Callable[[str], str],
    describe: Callable[[str], str],
    turns: Turns,
    field_names: FieldNames,
) -> CheckResult:
    """Repair every text by itself; `describe` says what is wrong with a text."""
    faults, repaired = list[TurnFault](), list(turns)
    for index, (turn, (content_field, reasoning_field)) in enumerate(zip(turns, field_names, strict=False)):
        content, reasoning = repair(turn.content), repair_reasoning(turn.reasoning)
        if reasoning != turn.reasoning:
            faults.append(TurnFault(index, f"{reasoning_field}: {describe(turn.reasoning)}"))
        if content != turn.content:
            faults.append(TurnFault(index, f"{content_field}: {describe(turn.content)}"))
        if content != turn.content or reasoning != turn.reasoning:
            repaired[index] = replace(turn, content=content, reasoning=reasoning)
    return faults, tuple(repaired)


def find_literal_newlines(turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find escaped newlines; where one may be meant as it is, its text stays."""
    faults, repaired = repair_texts(unescape_newlines, unescape_newlines, describe_literal_newline, turns, field_names)
    doubtful = [
        TurnFault(index, f"{field}: {describe_literal_newline(text)}")
        for index, (turn, (content_field, reasoning_field)) in enumerate(zip(turns, field_names, strict=False))
        for field, text in ((reasoning_field, turn.reasoning), (content_field, turn.content))
        if "\\n" in text and find_doubtful_newline(text)
    ]
    return faults + doubtful, repaired if faults else turns


def find_last_question(turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find a last user turn without a reply; repaired, it is left out."""
    kept = turns
    while kept and kept[-1].role == "user":
        kept = kept[:-1]
    last = len(turns) - 1
    faults = [TurnFault(last, f"{field_names[last][0]}: is a user turn without a reply")] if kept is not turns else []
    return faults, kept if any(turn.is_trained_reply for turn in kept) else None


def find_blank(turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find questions and trained answers that are empty."""
    return [
        TurnFault(index, f"{field}: is {repr(turn.content) if VISIBLE.search(turn.content) else 'empty'}")
        for index, (turn, (field, _)) in enumerate(zip(turns, field_names, strict=False))
        if (turn.role == "user" or turn.is_trained_reply)
        and (not VISIBLE.search(turn.content) or is_blank(turn.content))
    ], None


def find_control_tokens(tokens: re.Pattern[str], turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find texts that spell one of the control tokens."""
    return [
        TurnFault(index, f"{field}: contains the control token {found[0]} ({excerpt(text, found)})")
        for index, (turn, (content_field, reasoning_field)) in enumerate(zip(turns, field_names, strict=False))
        for field, text in ((reasoning_field, turn.reasoning), (content_field, turn.content))
        if (found := tokens.search(text))
    ], None


def find_soft_switches(turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find `/think` and `/no_think` in users' and system turns; repaired, they are taken off the text."""
    # Read again, because a repair may have brought to light a switch that was hidden when the row was read.
    turns = with_switched_modes(turns)
    faults, repaired = list[TurnFault](), list(turns)
    for index, (turn, (field, _)) in enumerate(zip(turns, field_names, strict=False)):
        content, mode = split_switches(turn.content)
        if turn.role == "assistant" or mode is None:
            continue
        reply = next((later for later in turns[index:] if later.is_trained_reply), None)
        note = ""
        if reply is not None and reply.mode not in (mode, None):
            note = f", but the row's own mode, or a later switch, is {reply.mode}, which counts"
        asked = f"{field}: has a switch that asks for {_MODE_WORDS[mode]} ({turn.content.strip()[-20:]!r}){note}"
        faults.append(TurnFault(index, asked))
        repaired[index] = replace(turn, content=content)
    return faults, tuple(repaired)


def with_switched_modes(turns: Turns) -> Turns:
    """Set the modes that the switches in the turns ask for."""
    return tuple(turn for turn, _ in set_modes([(turn, ("", "")) for turn in turns]))
