"""Checks of trained replies: their reasoning and answer, against each other and by themselves."""

import re

from thinktune.data.columns.modes import silenced
from thinktune.data.faults.language import main_script
from thinktune.data.faults.loops import find_loop
from thinktune.data.faults.repairs import (
    comparison_key,
)
from thinktune.data.faults.text_checks import (
    VISIBLE,
)
from thinktune.data.faults.turn_faults import (
    CheckResult,
    FieldNames,
    TurnFault,
    Turns,
    trained_replies,
)
from thinktune.tokenization import Turn

_DIGITS = r"[-+−±]?\s*(?:\d+(?:[,，]\d{3})*(?:[.．]\d+)?|[.．]\d+)"


_POWER = r"(?:[eE][-+]?\d+|\s*(?:[×xX*·]|\\times|\\cdot)\s*10(?:[⁻⁰¹²³⁴-⁹]+|\^?\{?[-+−]?\d+\}?))?"


_HAN_DIGITS = "[〇零一二两三四五六七八九十百千万亿]+"


_NUMBER = re.compile(
    rf"[=≈~约*$\s]*(?:\\[(\[])?\s*(?:\\boxed\{{)?\s*(?:{_DIGITS}{_POWER}(?:\s*[/／]\s*{_DIGITS})?"
    rf"|[-+−]?\\[dt]?frac\{{{_DIGITS}\}}\{{{_DIGITS}\}}|负?(?:百分之|{_HAN_DIGITS}分之)?{_HAN_DIGITS}(?:点{_HAN_DIGITS})?)"
    r"\s*(?:\\?[%％]|‰)?\s*\}?\s*(?:\\[)\]])?[*$\s]*[.。．]?[*$\s]*"
)


_MAX_NUMBER_CHARACTERS = 80


def find_mode_conflicts(turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find replies with reasoning whose row asks for none; repaired, they are trained without it."""
    return [
        TurnFault(index, f"{reasoning_field}: is reasoning, but the row asks for none")
        for index, (turn, (_, reasoning_field)) in enumerate(zip(turns, field_names, strict=False))
        if is_mode_conflict(turn)
    ], tuple(silenced(turn) if is_mode_conflict(turn) else turn for turn in turns)


def is_mode_conflict(turn: Turn) -> bool:
    """Return True for a trained reply with reasoning whose row asks for none."""
    return turn.is_trained_reply and turn.mode == "silent" and bool(VISIBLE.search(turn.reasoning))


def find_reasoning_as_answer(turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find replies whose reasoning is their answer once more."""
    return [
        TurnFault(index, f"{reasoning_field}: is the same text as {content_field} ({turn.content[:20]!r})")
        for index, turn, (content_field, reasoning_field) in trained_replies(turns, field_names)
        if turn.reasoning.lstrip()[:1].lower() == turn.content.lstrip()[:1].lower()
        and comparison_key(turn.reasoning) == comparison_key(turn.content) != ""
    ], None


def find_bare_numbers(turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find answers that are only a number."""
    return [
        TurnFault(index, f"{field}: is only the number {answer!r}")
        for index, turn, (field, _) in trained_replies(turns, field_names)
        if len(turn.content) <= _MAX_NUMBER_CHARACTERS and _NUMBER.fullmatch(answer := " ".join(turn.content.split()))
    ], None


def find_loops(sure: bool, turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find replies whose reasoning or answer repeats itself, surely by accident or not."""
    return [
        TurnFault(index, f"{field}: repeats {loop.unit.strip()[:40]!r} {loop.repeats} times")
        for index, turn, (content_field, reasoning_field) in trained_replies(turns, field_names)
        for field, text in ((reasoning_field, turn.reasoning), (content_field, turn.content))
        if (loop := find_loop(text)) and loop.is_sure is sure
    ], None


def find_language_mix(turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find a last reply whose question, reasoning and answer are not in one script."""
    last = max((index for index, turn in enumerate(turns) if turn.is_trained_reply), default=0)
    question = next((turn.content for turn in reversed(turns[:last]) if turn.role == "user"), "")
    texts = {"question": question, "reasoning": turns[last].reasoning, "answer": turns[last].content}
    scripts = {part: script for part, text in texts.items() if (script := main_script(text))}
    if len(set(scripts.values())) < 2:
        return [], None
    named = ", ".join(f"the {part} is {script}" for part, script in scripts.items())
    return [TurnFault(last, f"{field_names[last][0]}: {named}")], None
