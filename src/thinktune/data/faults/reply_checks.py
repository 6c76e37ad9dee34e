"""Checks of trained replies: their reasoning and answer, against each other and by themselves."""

import re
from collections.abc import Sequence

from thinktune.data.columns.modes import silenced
from thinktune.data.faults.language import main_script
from thinktune.data.faults.marks.reply_forms import suggest_think_tags
from thinktune.data.faults.repairs import (
    comparison_key,
    excerpt,
)
from thinktune.data.faults.text_checks import (
    VISIBLE,
)
from thinktune.data.faults.turn_faults import (
    CheckResult,
    FieldNames,
    TurnFault,
    Turns,
    is_trained,
    trained_replies,
)
from thinktune.tokenization import Turn

# No `;`, which ends SQL and C; a hyphen may be an ion's charge (Cl-), so it counts only after a space or a word.
_BREAKS_OFF = re.compile(r"(?:[,，、:：；(（\[【《“‘–—]|(?:^|\s|[a-z]{4})-)\Z")


_ONE_CHARACTER_ANSWERS = frozenset("ABCDEabcde是否对错有无")


_DIGITS = r"[-+−±]?\s*(?:\d+(?:[,，]\d{3})*(?:[.．]\d+)?|[.．]\d+)"


_POWER = r"(?:[eE][-+]?\d+|\s*(?:[×xX*·]|\\times|\\cdot)\s*10(?:[⁻⁰¹²³⁴-⁹]+|\^?\{?[-+−]?\d+\}?))?"


_HAN_DIGITS = "[〇零一二两三四五六七八九十百千万亿]+"


_NUMBER = re.compile(
    rf"[=≈~约*$\s]*(?:\\[(\[])?\s*(?:\\boxed\{{)?\s*(?:{_DIGITS}{_POWER}(?:\s*[/／]\s*{_DIGITS})?"
    rf"|[-+−]?\\[dt]?frac\{{{_DIGITS}\}}\{{{_DIGITS}\}}|负?(?:百分之|{_HAN_DIGITS}分之)?{_HAN_DIGITS}(?:点{_HAN_DIGITS})?)"
    r"\s*(?:\\?[%％]|‰)?\s*\}?\s*(?:\\[)\]])?[*$\s]*[.。．]?[*$\s]*"
)


NOT_CHOICES = r"(?!\s*(?:choice|option|选项))"  # "the given answer choices" do not give the answer


_MAX_NUMBER_CHARACTERS = 80


def find_mode_conflicts(turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find replies with reasoning whose row asks for none; repaired, they are trained without it."""
    return [
        TurnFault(index, f"{reasoning_field}: is reasoning, but the row asks for none")
        for index, (turn, (_, reasoning_field)) in enumerate(zip(turns, field_names, strict=False))
        if is_mode_conflict(turn)
    ], tuple(silenced(turn) if is_mode_conflict(turn) else turn for turn in turns)


def find_no_reasoning(turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find trained replies without reasoning."""
    faults = list[TurnFault]()
    for index, (turn, (content_field, reasoning_field)) in enumerate(zip(turns, field_names, strict=False)):
        if lacks_reasoning(turn):
            why = "has no think block" if reasoning_field == content_field else "is empty or null"
            asked = ", but the row asks for reasoning" if turn.mode == "thinking" else ""
            asked += suggest_think_tags(turn.content)
            faults.append(TurnFault(index, f"{reasoning_field}: {why}{asked}"))
    return faults, None


def lacks_reasoning(turn: Turn) -> bool:
    """Return True for a trained reply without reasoning that is not silent by its row's own word."""
    return is_trained(turn) and turn.mode != "silent" and not VISIBLE.search(turn.reasoning)


def is_mode_conflict(turn: Turn) -> bool:
    """Return True for a trained reply with reasoning whose row asks for none."""
    return is_trained(turn) and turn.mode == "silent" and bool(VISIBLE.search(turn.reasoning))


def find_reasoning_as_answer(turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find replies whose reasoning is their answer once more."""
    return [
        TurnFault(index, f"{reasoning_field}: is the same text as {content_field} ({turn.content[:20]!r})")
        for index, turn, (content_field, reasoning_field) in trained_replies(turns, field_names)
        if turn.reasoning.lstrip()[:1].lower() == turn.content.lstrip()[:1].lower()
        and comparison_key(turn.reasoning) == comparison_key(turn.content) != ""
    ], None


def find_handed_answers(
    latin: Sequence[str], any_latin: re.Pattern[str], any_other: re.Pattern[str], turns: Turns, field_names: FieldNames
) -> CheckResult:
    """Find reasoning that says it was handed the answer.

    Latin phrases begin with such common letters that looking for each by itself first is three times as fast.
    """
    faults = list[TurnFault]()
    for index, turn, (_, field) in trained_replies(turns, field_names):
        text = turn.reasoning.lower()
        found = any_other.search(text)
        if not found and any(map(text.__contains__, latin)):
            found = any_latin.search(text)
        if found:
            faults.append(TurnFault(index, f"{field}: says that it was handed the answer ({excerpt(text, found)})"))
    return faults, None


def find_bare_numbers(turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find answers that are only a number."""
    return [
        TurnFault(index, f"{field}: is only the number {answer!r}")
        for index, turn, (field, _) in trained_replies(turns, field_names)
        if len(turn.content) <= _MAX_NUMBER_CHARACTERS and _NUMBER.fullmatch(answer := " ".join(turn.content.split()))
    ], None


def find_fragments(turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find answers that break off."""
    return [
        TurnFault(index, f"{field}: breaks off ({turn.content[-20:]!r})")
        for index, turn, (field, _) in trained_replies(turns, field_names)
        if _is_fragment(turn.content.strip())
    ], None


def _is_fragment(answer: str) -> bool:
    if len(answer) == 1:
        return not (answer.isnumeric() or answer in _ONE_CHARACTER_ANSWERS)
    return bool(_BREAKS_OFF.search(answer[-6:])) or answer.count("```") % 2 == 1


def find_language_mix(turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find a last reply whose question, reasoning and answer are not in one script."""
    last = max((index for index, turn in enumerate(turns) if is_trained(turn)), default=0)
    question = next((turn.content for turn in reversed(turns[:last]) if turn.role == "user"), "")
    texts = {"question": question, "reasoning": turns[last].reasoning, "answer": turns[last].content}
    scripts = {part: script for part, text in texts.items() if (script := main_script(text))}
    if len(set(scripts.values())) < 2:
        return [], None
    named = ", ".join(f"the {part} is {script}" for part, script in scripts.items())
    return [TurnFault(last, f"{field_names[last][0]}: {named}")], None
