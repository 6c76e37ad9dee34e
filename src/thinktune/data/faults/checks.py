"""Check an example for every fault of `data.faults`, and handle each fault by its policy."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from thinktune.data.columns.messages import is_blank
from thinktune.data.columns.modes import set_modes, silenced, split_switches
from thinktune.data.faults.language import main_script
from thinktune.data.faults.repairs import (
    REPLACEMENT_CHARACTER,
    THINK_TAG,
    comparison_key,
    describe_control_character,
    describe_garbled,
    describe_literal_newline,
    describe_odd_space,
    describe_think_tag,
    excerpt,
    fix_mojibake,
    normalize_reasoning_spaces,
    normalize_spaces,
    remove_control_characters,
    strip_answer_tags,
    strip_reasoning_tags,
    unescape_newlines,
)
from thinktune.data.types import Action, Finding
from thinktune.tokenization import Example, Turn

Turns = tuple[Turn, ...]


FieldNames = Sequence[tuple[str, str]]


# Faults, each as `field: what is wrong`; and the repaired turns, or None where no repair is safe.
CheckResult = tuple[list[str], Turns | None]


RowCheck = Callable[[Turns, FieldNames], CheckResult]


_VISIBLE = re.compile("[^\\s\x00-\x1f\x7f-\x9f\u00ad\u034f\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff]")


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


_NO_CHOICES = r"(?!\s*(?:choice|option|选项))"  # "the given answer choices" do not give the answer


_MAX_NUMBER_CHARACTERS = 80


_NOTES = {
    ("no_reasoning", "repaired"): "; the reply becomes history, not trained",
    ("no_reasoning", "kept"): "; the reply is trained without thinking",
    ("mode_conflict", "repaired"): "; it is left out, and the reply is trained without thinking",
    ("mode_conflict", "kept"): "; the reply is trained with thinking all the same",
    ("soft_switch", "repaired"): "; it is taken off the text",
}


_MODE_WORDS = {"thinking": "reasoning", "silent": "no reasoning"}


@dataclass(frozen=True, slots=True)
class CheckedExample:
    """An example as it will be trained, or None if its row is dropped or stops the run; and what was found."""

    example: Example | None
    findings: tuple[Finding, ...]


def check_example(
    example: Example,
    field_names: FieldNames,
    policies: Mapping[str, str],
    handed_phrases: Sequence[str],
    control_tokens: Collection[str],
) -> CheckedExample:
    """Check an example fault by fault, until one drops it.

    `field_names` holds the names of each turn's content and reasoning fields.

    Without repairs the same object is returned. A checked example needs no repair when it is checked again.
    """
    turns, findings = example.turns, list[Finding]()
    for fault, check in _checks(tuple(handed_phrases), frozenset(control_tokens)):
        faults, repaired = check(turns, field_names)
        if not faults:
            continue
        action = _action(fault, policies[fault], repaired)
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        note = _NOTES.get((fault, action), "")
        findings.append(Finding(fault, f"{example.source}: {faults[0]}{note}{more}", action))
        if action in ("dropped", "stops"):
            return CheckedExample(None, tuple(findings))
        if action == "repaired" and repaired is not None:
            turns = repaired
        elif action == "kept":
            turns = _keep(fault, turns)
    if turns is example.turns:
        return CheckedExample(example, tuple(findings))
    # A repair may reveal a fault that no check could see before, such as garbled text behind an odd space.
    again = check_example(replace(example, turns=turns), field_names, policies, handed_phrases, control_tokens)
    reported = {finding.fault for finding in findings}
    more = [found for found in again.findings if found.action != "kept" or found.fault not in reported]
    return CheckedExample(again.example, (*findings, *more))


def _action(fault: str, policy: str, repaired: Turns | None) -> Action:
    match policy:
        case "keep" | "silent":
            return "kept"
        case "stop":
            return "stops"
        case "repair" if repaired is not None:
            return "repaired"
        case "drop" if fault == "no_reasoning" and repaired is not None:  # the other replies are still trained
            return "repaired"
        case _:
            return "dropped"


def _keep(fault: str, turns: Turns) -> Turns:
    """Give kept replies the mode in which they are trained, where their row asks for the other one."""
    changed = list(_with_switched_modes(turns) if fault == "soft_switch" else turns)
    for index, turn in enumerate(turns):
        if fault == "mode_conflict" and _is_conflict(turn):
            changed[index] = replace(turn, mode="thinking")
        elif fault == "no_reasoning" and turn.mode == "thinking" and _lacks_reasoning(turn):
            changed[index] = silenced(turn)
    return turns if changed == [*turns] else tuple(changed)


@lru_cache(maxsize=8)
def _checks(handed_phrases: tuple[str, ...], control_tokens: frozenset[str]) -> tuple[tuple[str, RowCheck], ...]:
    """List every fault with its check, in an order in which repairs hardly ever make work for earlier checks."""
    tokens = _any_of([token for token in control_tokens if token])  # no think tag is left by then
    latin = tuple(phrase.lower() for phrase in handed_phrases if phrase and phrase.isascii())
    other = tuple(phrase.lower() for phrase in handed_phrases if not phrase.isascii())
    return (
        ("garbled", _garbled),
        (
            "control_character",
            partial(_repair, remove_control_characters, remove_control_characters, describe_control_character),
        ),
        ("think_tag", _think_tag),
        ("literal_newline", partial(_repair, unescape_newlines, unescape_newlines, describe_literal_newline)),
        ("odd_space", partial(_repair, normalize_spaces, normalize_reasoning_spaces, describe_odd_space)),
        ("soft_switch", _soft_switch),
        ("ends_on_user", _ends_on_user),
        ("blank", _blank),
        ("control_token", partial(_control_token, tokens)),
        ("mode_conflict", _mode_conflict),
        ("no_reasoning", _no_reasoning),
        ("reasoning_is_answer", _reasoning_is_answer),
        ("handed_answer", partial(_handed_answer, latin, _any_of(latin, _NO_CHOICES), _any_of(other, _NO_CHOICES))),
        ("bare_number", _bare_number),
        ("fragment", _fragment),
        ("language_mix", _language_mix),
    )


def _any_of(texts: Collection[str], then: str = "") -> re.Pattern[str]:
    """Compile a pattern of the longest of the texts at each place, which matches nothing if there are none."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile(f"(?:{'|'.join(map(re.escape, longest_first)) or '(?!)'}){then}")


def _repair(
    repair: Callable[[str], str],
    repair_reasoning: Callable[[str], str],
    describe: Callable[[str], str],
    turns: Turns,
    field_names: FieldNames,
) -> CheckResult:
    """Repair every text by itself; `describe` says what is wrong with a text."""
    faults, repaired = list[str](), list(turns)
    for index, (turn, (content_field, reasoning_field)) in enumerate(zip(turns, field_names, strict=False)):
        content, reasoning = repair(turn.content), repair_reasoning(turn.reasoning)
        if reasoning != turn.reasoning:
            faults.append(f"{reasoning_field}: {describe(turn.reasoning)}")
        if content != turn.content:
            faults.append(f"{content_field}: {describe(turn.content)}")
        if content != turn.content or reasoning != turn.reasoning:
            repaired[index] = replace(turn, content=content, reasoning=reasoning)
    return faults, tuple(repaired)


def _garbled(turns: Turns, field_names: FieldNames) -> CheckResult:
    faults, repaired = _repair(fix_mojibake, fix_mojibake, describe_garbled, turns, field_names)
    lost = [
        f"{field}: {describe_garbled(text)}"
        for turn, (content_field, reasoning_field) in zip(turns, field_names, strict=False)
        for field, text in ((reasoning_field, turn.reasoning), (content_field, turn.content))
        if REPLACEMENT_CHARACTER in text
    ]
    return lost + faults, None if lost else repaired


def _think_tag(turns: Turns, field_names: FieldNames) -> CheckResult:
    safe, unsafe, repaired = list[str](), list[str](), list(turns)
    for index, (turn, (content_field, reasoning_field)) in enumerate(zip(turns, field_names, strict=False)):
        reasoning, content = turn.reasoning, turn.content
        if "<" in reasoning and THINK_TAG.search(reasoning):
            reasoning = strip_reasoning_tags(reasoning)
            (unsafe if THINK_TAG.search(reasoning) else safe).append(
                f"{reasoning_field}: {describe_think_tag(turn.reasoning, turn.role)}"
            )
        if "<" in content and THINK_TAG.search(content):
            content = strip_answer_tags(content, reasoning) if turn.role == "assistant" else content
            (unsafe if THINK_TAG.search(content) else safe).append(
                f"{content_field}: {describe_think_tag(turn.content, turn.role)}"
            )
        if reasoning is not turn.reasoning or content is not turn.content:
            repaired[index] = replace(turn, content=content, reasoning=reasoning)
    return unsafe + safe, None if unsafe else tuple(repaired)


def _ends_on_user(turns: Turns, field_names: FieldNames) -> CheckResult:
    kept = turns
    while kept and kept[-1].role == "user":
        kept = kept[:-1]
    faults = [f"{field_names[len(turns) - 1][0]}: is a user turn without a reply"] if kept is not turns else []
    return faults, kept if any(_is_trained(turn) for turn in kept) else None


def _blank(turns: Turns, field_names: FieldNames) -> CheckResult:
    return [
        f"{field}: is {repr(turn.content) if _VISIBLE.search(turn.content) else 'empty'}"
        for turn, (field, _) in zip(turns, field_names, strict=False)
        if (turn.role == "user" or _is_trained(turn)) and (not _VISIBLE.search(turn.content) or is_blank(turn.content))
    ], None


def _control_token(tokens: re.Pattern[str], turns: Turns, field_names: FieldNames) -> CheckResult:
    return [
        f"{field}: contains the control token {found[0]} ({excerpt(text, found)})"
        for turn, (content_field, reasoning_field) in zip(turns, field_names, strict=False)
        for field, text in ((reasoning_field, turn.reasoning), (content_field, turn.content))
        if (found := tokens.search(text))
    ], None


def _soft_switch(turns: Turns, field_names: FieldNames) -> CheckResult:
    # Read again, because a repair may have brought to light a switch that was hidden when the row was read.
    turns = _with_switched_modes(turns)
    faults, repaired = list[str](), list(turns)
    for index, (turn, (field, _)) in enumerate(zip(turns, field_names, strict=False)):
        content, mode = split_switches(turn.content)
        if turn.role == "assistant" or mode is None:
            continue
        reply = next((later for later in turns[index:] if _is_trained(later)), None)
        note = ""
        if reply is not None and reply.mode not in (mode, None):
            note = f", but the row's own mode, or a later switch, is {reply.mode}, which counts"
        faults.append(f"{field}: has a switch that asks for {_MODE_WORDS[mode]} ({turn.content.strip()[-20:]!r}){note}")
        repaired[index] = replace(turn, content=content)
    return faults, tuple(repaired)


def _with_switched_modes(turns: Turns) -> Turns:
    return tuple(turn for turn, _ in set_modes([(turn, ("", "")) for turn in turns]))


def _mode_conflict(turns: Turns, field_names: FieldNames) -> CheckResult:
    return [
        f"{reasoning_field}: is reasoning, but the row asks for none"
        for turn, (_, reasoning_field) in zip(turns, field_names, strict=False)
        if _is_conflict(turn)
    ], tuple(silenced(turn) if _is_conflict(turn) else turn for turn in turns)


def _no_reasoning(turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find trained replies without reasoning; repaired, only the others are trained (None without others)."""
    without = [index for index, turn in enumerate(turns) if _lacks_reasoning(turn)]
    repaired = tuple(replace(turn, trained=False) if index in without else turn for index, turn in enumerate(turns))
    faults: list[str] = []
    for index in without:
        content_field, reasoning_field = field_names[index]
        why = "has no think block" if reasoning_field == content_field else "is empty or null"
        asked = ", but the row asks for reasoning" if turns[index].mode == "thinking" else ""
        faults.append(f"{reasoning_field}: {why}{asked}")
    return faults, repaired if any(map(_is_trained, repaired)) else None


def _lacks_reasoning(turn: Turn) -> bool:
    """Return True for a trained reply without reasoning that is not silent by its row's own word."""
    return _is_trained(turn) and turn.mode != "silent" and not _VISIBLE.search(turn.reasoning)


def _is_conflict(turn: Turn) -> bool:
    """Return True for a trained reply with reasoning whose row asks for none."""
    return _is_trained(turn) and turn.mode == "silent" and bool(_VISIBLE.search(turn.reasoning))


def _reasoning_is_answer(turns: Turns, field_names: FieldNames) -> CheckResult:
    return [
        f"{reasoning_field}: is the same text as {content_field} ({turn.content[:20]!r})"
        for turn, (content_field, reasoning_field) in _trained_replies(turns, field_names)
        if turn.reasoning.lstrip()[:1].lower() == turn.content.lstrip()[:1].lower()
        and comparison_key(turn.reasoning) == comparison_key(turn.content) != ""
    ], None


def _handed_answer(
    latin: Sequence[str], any_latin: re.Pattern[str], any_other: re.Pattern[str], turns: Turns, field_names: FieldNames
) -> CheckResult:
    """Find reasoning that says it was handed the answer.

    Latin phrases begin with such common letters that looking for each by itself first is three times as fast.
    """
    faults = list[str]()
    for turn, (_, field) in _trained_replies(turns, field_names):
        text = turn.reasoning.lower()
        found = any_other.search(text)
        if not found and any(map(text.__contains__, latin)):
            found = any_latin.search(text)
        if found:
            faults.append(f"{field}: says that it was handed the answer ({excerpt(text, found)})")
    return faults, None


def _bare_number(turns: Turns, field_names: FieldNames) -> CheckResult:
    return [
        f"{field}: is only the number {answer!r}"
        for turn, (field, _) in _trained_replies(turns, field_names)
        if len(turn.content) <= _MAX_NUMBER_CHARACTERS and _NUMBER.fullmatch(answer := " ".join(turn.content.split()))
    ], None


def _fragment(turns: Turns, field_names: FieldNames) -> CheckResult:
    return [
        f"{field}: breaks off ({turn.content[-20:]!r})"
        for turn, (field, _) in _trained_replies(turns, field_names)
        if _is_fragment(turn.content.strip())
    ], None


def _is_fragment(answer: str) -> bool:
    if len(answer) == 1:
        return not (answer.isnumeric() or answer in _ONE_CHARACTER_ANSWERS)
    return bool(_BREAKS_OFF.search(answer[-6:])) or answer.count("```") % 2 == 1


def _language_mix(turns: Turns, field_names: FieldNames) -> CheckResult:
    last = max((index for index, turn in enumerate(turns) if _is_trained(turn)), default=0)
    question = next((turn.content for turn in reversed(turns[:last]) if turn.role == "user"), "")
    texts = {"question": question, "reasoning": turns[last].reasoning, "answer": turns[last].content}
    scripts = {part: script for part, text in texts.items() if (script := main_script(text))}
    if len(set(scripts.values())) < 2:
        return [], None
    return [f"{field_names[last][0]}: {', '.join(f'the {part} is {script}' for part, script in scripts.items())}"], None


def _is_trained(turn: Turn) -> bool:
    return turn.role == "assistant" and turn.trained


def _trained_replies(turns: Turns, field_names: FieldNames) -> list[tuple[Turn, tuple[str, str]]]:
    return [(turn, fields) for turn, fields in zip(turns, field_names, strict=False) if _is_trained(turn)]
