"""What is wrong with an example, and what is done about it: each fault is found, and handled by its policy."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from thinktune.data.language import main_script
from thinktune.data.messages import blank
from thinktune.data.repairs import (
    LOST,
    TAG,
    answer_without_tags,
    bare,
    decoded_anew,
    near,
    reasoning_with_plain_spaces,
    reasoning_without_tags,
    tell_control,
    tell_garbled,
    tell_literal,
    tell_space,
    tell_tag,
    with_line_breaks,
    with_plain_spaces,
    without_controls,
)
from thinktune.data.types import Action, Example, Finding, Turn

Turns = tuple[Turn, ...]


Places = Sequence[tuple[str, str]]


# What is wrong, place by place, each as `field: what`; and the turns as mended, or None where no repair is sure.
Verdict = tuple[list[str], Turns | None]


Check = Callable[[Turns, Places], Verdict]


_VISIBLE = re.compile("[^\\s\x00-\x1f\x7f-\x9f\u00ad\u034f\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff]")


# No `;`, which ends SQL and C; a hyphen may be an ion's charge (Cl-), so it counts only after a space or a word.
_BREAKS_OFF = re.compile(r"(?:[,，、:：；(（\[【《“‘–—]|(?:^|\s|[a-z]{4})-)\Z")


_WHOLE_CHARACTERS = frozenset("ABCDEabcde是否对错有无")


_DIGITS = r"[-+−±]?\s*(?:\d+(?:[,，]\d{3})*(?:[.．]\d+)?|[.．]\d+)"


_POWER = r"(?:[eE][-+]?\d+|\s*(?:[×xX*·]|\\times|\\cdot)\s*10(?:[⁻⁰¹²³⁴-⁹]+|\^?\{?[-+−]?\d+\}?))?"


_HAN_DIGITS = "[〇零一二两三四五六七八九十百千万亿]+"


_NUMBER = re.compile(
    rf"[=≈~约*$\s]*(?:\\[(\[])?\s*(?:\\boxed\{{)?\s*(?:{_DIGITS}{_POWER}(?:\s*[/／]\s*{_DIGITS})?"
    rf"|[-+−]?\\[dt]?frac\{{{_DIGITS}\}}\{{{_DIGITS}\}}|负?(?:百分之|{_HAN_DIGITS}分之)?{_HAN_DIGITS}(?:点{_HAN_DIGITS})?)"
    r"\s*(?:\\?[%％]|‰)?\s*\}?\s*(?:\\[)\]])?[*$\s]*[.。．]?[*$\s]*"
)


_NO_CHOICES = r"(?!\s*(?:choice|option|选项))"  # "the given answer choices" are no answer


_LONGEST_NUMBER = 80


@dataclass(frozen=True, slots=True)
class Judged:
    """An example as it will be learned, or None where its row is dropped or stops the run; and what was found."""

    example: Example | None
    findings: tuple[Finding, ...]


def judge(
    example: Example,
    places: Places,
    policies: Mapping[str, str],
    phrases: Sequence[str],
    control_tokens: Collection[str],
) -> Judged:
    """Judge an example fault by fault, until one drops it; `places` names each turn's content and reasoning fields.

    An example without repairs comes back as the same object, and a judged example, judged again, needs no repair.
    """
    turns, findings = example.turns, list[Finding]()
    for fault, check in _checks(tuple(phrases), frozenset(control_tokens)):
        wrong, mended = check(turns, places)
        if not wrong:
            continue
        action = _action(fault, policies[fault], mended)
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        note = "; the reply is history, not learned" if (fault, action) == ("no_reasoning", "repaired") else ""
        findings.append(Finding(fault, f"{example.source}: {wrong[0]}{note}{more}", action))
        if action in ("dropped", "stops"):
            return Judged(None, tuple(findings))
        if action == "repaired" and mended is not None:
            turns = mended
    if turns is example.turns:
        return Judged(example, tuple(findings))
    # A repair may lay open what none could see before it: text that is garbled behind an odd space.
    again = judge(replace(example, turns=turns), places, policies, phrases, control_tokens)
    told = {finding.fault for finding in findings}
    more = [found for found in again.findings if found.action != "kept" or found.fault not in told]
    return Judged(again.example, (*findings, *more))


def _action(fault: str, policy: str, mended: Turns | None) -> Action:
    match policy:
        case "keep":
            return "kept"
        case "stop":
            return "stops"
        case "repair" if mended is not None:
            return "repaired"
        case "drop" if fault == "no_reasoning" and mended is not None:  # the other replies are still learned
            return "repaired"
        case _:
            return "dropped"


@lru_cache(maxsize=8)
def _checks(phrases: tuple[str, ...], control_tokens: frozenset[str]) -> tuple[tuple[str, Check], ...]:
    """Every fault with its check, in an order in which hardly any repair makes work for an earlier one."""
    tokens = _any_of([token for token in control_tokens if token])  # of the think tags none is left by then
    latin = tuple(phrase.lower() for phrase in phrases if phrase and phrase.isascii())
    other = tuple(phrase.lower() for phrase in phrases if not phrase.isascii())
    return (
        ("garbled", _garbled),
        ("control_character", partial(_mend, without_controls, without_controls, tell_control)),
        ("think_tag", _think_tag),
        ("literal_newline", partial(_mend, with_line_breaks, with_line_breaks, tell_literal)),
        ("odd_space", partial(_mend, with_plain_spaces, reasoning_with_plain_spaces, tell_space)),
        ("ends_on_user", _ends_on_user),
        ("blank", _blank),
        ("control_token", partial(_control_token, tokens)),
        ("no_reasoning", _no_reasoning),
        ("reasoning_is_answer", _reasoning_is_answer),
        ("handed_answer", partial(_handed_answer, latin, _any_of(latin, _NO_CHOICES), _any_of(other, _NO_CHOICES))),
        ("bare_number", _bare_number),
        ("fragment", _fragment),
        ("language_mix", _language_mix),
    )


def _any_of(texts: Collection[str], then: str = "") -> re.Pattern[str]:
    """Finds the longest of the texts at each place; nothing where there are none."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile(f"(?:{'|'.join(map(re.escape, longest_first)) or '(?!)'}){then}")


def _mend(
    mend: Callable[[str], str],
    mend_reasoning: Callable[[str], str],
    tell: Callable[[str], str],
    turns: Turns,
    places: Places,
) -> Verdict:
    """Mend every text by itself; `tell` says what was wrong with one."""
    wrong, mended = list[str](), list(turns)
    for index, (turn, (content_field, reasoning_field)) in enumerate(zip(turns, places, strict=False)):
        content, reasoning = mend(turn.content), mend_reasoning(turn.reasoning)
        if reasoning != turn.reasoning:
            wrong.append(f"{reasoning_field}: {tell(turn.reasoning)}")
        if content != turn.content:
            wrong.append(f"{content_field}: {tell(turn.content)}")
        if content != turn.content or reasoning != turn.reasoning:
            mended[index] = replace(turn, content=content, reasoning=reasoning)
    return wrong, tuple(mended)


def _garbled(turns: Turns, places: Places) -> Verdict:
    wrong, mended = _mend(decoded_anew, decoded_anew, tell_garbled, turns, places)
    lost = [
        f"{field}: {tell_garbled(text)}"
        for turn, (content_field, reasoning_field) in zip(turns, places, strict=False)
        for field, text in ((reasoning_field, turn.reasoning), (content_field, turn.content))
        if LOST in text
    ]
    return lost + wrong, None if lost else mended


def _think_tag(turns: Turns, places: Places) -> Verdict:
    sure, unsure, mended = list[str](), list[str](), list(turns)
    for index, (turn, (content_field, reasoning_field)) in enumerate(zip(turns, places, strict=False)):
        reasoning, content = turn.reasoning, turn.content
        if "<" in reasoning and TAG.search(reasoning):
            reasoning = reasoning_without_tags(reasoning)
            (unsure if TAG.search(reasoning) else sure).append(
                f"{reasoning_field}: {tell_tag(turn.reasoning, turn.role)}"
            )
        if "<" in content and TAG.search(content):
            content = answer_without_tags(content, reasoning) if turn.role == "assistant" else content
            (unsure if TAG.search(content) else sure).append(f"{content_field}: {tell_tag(turn.content, turn.role)}")
        if reasoning is not turn.reasoning or content is not turn.content:
            mended[index] = replace(turn, content=content, reasoning=reasoning)
    return unsure + sure, None if unsure else tuple(mended)


def _ends_on_user(turns: Turns, places: Places) -> Verdict:
    kept = turns
    while kept and kept[-1].role == "user":
        kept = kept[:-1]
    wrong = [f"{places[len(turns) - 1][0]}: is the user's, and no reply follows"] if kept is not turns else []
    return wrong, kept if any(_is_learned(turn) for turn in kept) else None


def _blank(turns: Turns, places: Places) -> Verdict:
    return [
        f"{field}: is {repr(turn.content) if _VISIBLE.search(turn.content) else 'empty'}"
        for turn, (field, _) in zip(turns, places, strict=False)
        if (turn.role == "user" or _is_learned(turn)) and (not _VISIBLE.search(turn.content) or blank(turn.content))
    ], None


def _control_token(tokens: re.Pattern[str], turns: Turns, places: Places) -> Verdict:
    return [
        f"{field}: holds the control token {found[0]} ({near(text, found)})"
        for turn, (content_field, reasoning_field) in zip(turns, places, strict=False)
        for field, text in ((reasoning_field, turn.reasoning), (content_field, turn.content))
        if (found := tokens.search(text))
    ], None


def _no_reasoning(turns: Turns, places: Places) -> Verdict:
    """The mended conversation learns only the replies that have reasoning; None where that is no reply at all."""
    without = [index for index, turn in enumerate(turns) if _is_learned(turn) and not _VISIBLE.search(turn.reasoning)]
    mended = tuple(replace(turn, learned=False) if index in without else turn for index, turn in enumerate(turns))
    told = {index: "holds no think block" if len(set(places[index])) == 1 else "is empty or null" for index in without}
    wrong = [f"{places[index][1]}: {what}" for index, what in told.items()]
    return wrong, mended if any(map(_is_learned, mended)) else None


def _reasoning_is_answer(turns: Turns, places: Places) -> Verdict:
    return [
        f"{reasoning_field}: is the same text as {content_field} ({turn.content[:20]!r})"
        for turn, (content_field, reasoning_field) in _replies(turns, places)
        if turn.reasoning.lstrip()[:1].lower() == turn.content.lstrip()[:1].lower()
        and bare(turn.reasoning) == bare(turn.content) != ""
    ], None


def _handed_answer(
    latin: Sequence[str], any_latin: re.Pattern[str], any_other: re.Pattern[str], turns: Turns, places: Places
) -> Verdict:
    """Latin phrases begin with letters so common that each is sought by itself first: three times as fast."""
    wrong = list[str]()
    for turn, (_, field) in _replies(turns, places):
        text = turn.reasoning.lower()
        found = any_other.search(text)
        if not found and any(map(text.__contains__, latin)):
            found = any_latin.search(text)
        if found:
            wrong.append(f"{field}: says that it was handed the answer ({near(text, found)})")
    return wrong, None


def _bare_number(turns: Turns, places: Places) -> Verdict:
    return [
        f"{field}: is the number {answer!r} alone"
        for turn, (field, _) in _replies(turns, places)
        if len(turn.content) <= _LONGEST_NUMBER and _NUMBER.fullmatch(answer := " ".join(turn.content.split()))
    ], None


def _fragment(turns: Turns, places: Places) -> Verdict:
    return [
        f"{field}: breaks off ({turn.content[-20:]!r})"
        for turn, (field, _) in _replies(turns, places)
        if _is_fragment(turn.content.strip())
    ], None


def _is_fragment(answer: str) -> bool:
    if len(answer) == 1:
        return not (answer.isnumeric() or answer in _WHOLE_CHARACTERS)
    return bool(_BREAKS_OFF.search(answer[-6:])) or answer.count("```") % 2 == 1


def _language_mix(turns: Turns, places: Places) -> Verdict:
    last = max((index for index, turn in enumerate(turns) if _is_learned(turn)), default=0)
    question = next((turn.content for turn in reversed(turns[:last]) if turn.role == "user"), "")
    texts = {"question": question, "reasoning": turns[last].reasoning, "answer": turns[last].content}
    scripts = {part: script for part, text in texts.items() if (script := main_script(text))}
    if len(set(scripts.values())) < 2:
        return [], None
    return [f"{places[last][0]}: {', '.join(f'the {part} is {script}' for part, script in scripts.items())}"], None


def _is_learned(turn: Turn) -> bool:
    return turn.role == "assistant" and turn.learned


def _replies(turns: Turns, places: Places) -> list[tuple[Turn, tuple[str, str]]]:
    return [(turn, place) for turn, place in zip(turns, places, strict=False) if _is_learned(turn)]
