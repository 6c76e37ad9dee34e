"""Check an example for every fault of `data.faults`, and handle each fault by its policy."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from thinktune.data.columns.modes import silenced
from thinktune.data.faults.empty_talk import find_echoes, find_no_reasoning
from thinktune.data.faults.fragments import find_cut_texts, find_fragments
from thinktune.data.faults.habits import NO_HABITS, Habits
from thinktune.data.faults.handed import find_handed_answers, find_handed_context
from thinktune.data.faults.handed_phrases import NOT_CHOICES
from thinktune.data.faults.marks.markup import find_markup
from thinktune.data.faults.marks.placeholders import find_blanks_to_fill, find_placeholders
from thinktune.data.faults.marks.reply_forms import find_answer_tags, find_reasoning_tags
from thinktune.data.faults.marks.role_marks import find_role_marks, names_after_repair
from thinktune.data.faults.marks.spreadsheet import find_spreadsheet_damage
from thinktune.data.faults.marks.think_tags import find_think_tags
from thinktune.data.faults.mojibake import find_garbled
from thinktune.data.faults.repairs import (
    describe_control_character,
    describe_odd_space,
    normalize_reasoning_spaces,
    normalize_spaces,
    remove_control_characters,
)
from thinktune.data.faults.reply_checks import (
    find_bare_numbers,
    find_language_mix,
    find_loops,
    find_mode_conflicts,
    find_reasoning_as_answer,
    is_mode_conflict,
)
from thinktune.data.faults.text_checks import (
    any_of,
    find_blank,
    find_control_tokens,
    find_last_question,
    find_literal_newlines,
    find_soft_switches,
    repair_texts,
    with_switched_modes,
)
from thinktune.data.faults.turn_faults import FieldNames, RowCheck, TurnFault, Turns
from thinktune.data.types import Action, Finding
from thinktune.tokenization import Example

_NOTES = {
    ("no_reasoning", "kept"): "; the reply is trained without thinking",
    ("mode_conflict", "repaired"): "; it is left out, and the reply is trained without thinking",
    ("mode_conflict", "kept"): "; the reply is still trained with thinking",
    ("soft_switch", "repaired"): "; it is removed from the text",
}


@dataclass(frozen=True, slots=True)
class CheckRules:
    """What rows are checked by: the policy of each fault, and what some checks look for in texts."""

    policies: Mapping[str, str]
    handed_phrases: tuple[str, ...] = ()
    control_tokens: tuple[str, ...] = ()
    habits: Habits = NO_HABITS
    think_tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckedExample:
    """An example as it will be trained, or None if its row is dropped or stops the run; and what was found."""

    example: Example | None
    findings: tuple[Finding, ...]


def check_example(example: Example, field_names: FieldNames, rules: CheckRules) -> CheckedExample:
    """Check an example fault by fault, until one drops it.

    `field_names` holds the names of each turn's content and reasoning fields. In a conversation, a fault leaves out its
    reply alone, or what comes after it, as long as another reply can be trained.

    Without repairs the same object is returned. A checked example needs no repair when it is checked again.
    """
    turns, findings = example.turns, list[Finding]()
    for fault, check in _checks(rules.handed_phrases, rules.control_tokens, rules.habits, rules.think_tags):
        faults, repaired = check(turns, field_names)
        if not faults:
            continue
        action, note = _action(rules.policies[fault], turns, repaired), ""
        # Of a last question, what its repair would leave is what leaving it out would.
        leaves = action == "dropped" and fault != "ends_on_user"
        if leaves and (left := _without_faulty_replies(turns, field_names, check, faults)):
            action, (repaired, note) = "repaired", left
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        note = note or _NOTES.get((fault, action), "")
        findings.append(Finding(fault, f"{example.source}: {faults[0].sentence}{note}{more}", action))
        if action in ("dropped", "stops"):
            return CheckedExample(None, tuple(findings))
        if action == "repaired" and repaired is not None:
            field_names = names_after_repair(turns, field_names) if fault == "role_mark" else field_names
            turns = repaired
        elif action == "kept":
            turns = _keep(fault, turns, {found.index for found in faults})
    if turns is example.turns:
        return CheckedExample(example, tuple(findings))
    # A repair may reveal a fault that no check could see before, such as garbled text behind an odd space.
    again = check_example(replace(example, turns=turns), field_names, rules)
    reported = {finding.fault for finding in findings}
    more = [found for found in again.findings if found.action != "kept" or found.fault not in reported]
    return CheckedExample(again.example, (*findings, *more))


def _action(policy: str, turns: Turns, repaired: Turns | None) -> Action:
    match policy:
        case "keep" | "silent":
            return "kept"
        case "stop":
            return "stops"
        case "repair" if repaired is not None:
            return "kept" if repaired is turns else "repaired"  # what may be right is told and stays
        case _:
            return "dropped"


def _without_faulty_replies(
    turns: Turns, field_names: FieldNames, check: RowCheck, faults: Sequence[TurnFault]
) -> tuple[Turns, str] | None:
    """Return a conversation without its faulty replies, and a note of what became of them; None if no reply is left.

    A faulty reply becomes history. Where it is faulty even so, because later replies would be trained after a damaged
    text, the conversation ends before it.
    """
    faulty = {fault.index for fault in faults}
    history = tuple(replace(turn, trained=False) if index in faulty else turn for index, turn in enumerate(turns))
    if any(turn.is_trained_reply for turn in history) and not check(history, field_names)[0]:
        return history, "; the reply becomes history, not trained"
    end = min(faulty)
    while end and turns[end - 1].role != "assistant":
        end -= 1
    return (
        (turns[:end], "; the conversation ends before it")
        if any(turn.is_trained_reply for turn in turns[:end])
        else None
    )


def _keep(fault: str, turns: Turns, faulty: Collection[int]) -> Turns:
    """Give kept replies the mode in which they are trained, where their row asks for the other one."""
    changed = list(with_switched_modes(turns) if fault == "soft_switch" else turns)
    for index, turn in enumerate(turns):
        if fault == "mode_conflict" and is_mode_conflict(turn):
            changed[index] = replace(turn, mode="thinking")
        elif fault == "no_reasoning" and index in faulty and (turn.mode == "thinking" or turn.has_reasoning):
            changed[index] = silenced(turn)
    return turns if changed == [*turns] else tuple(changed)


@lru_cache(maxsize=8)
def _checks(
    handed_phrases: tuple[str, ...], control_tokens: tuple[str, ...], habits: Habits, think_tags: tuple[str, ...]
) -> tuple[tuple[str, RowCheck], ...]:
    """List every fault with its check, in an order in which repairs hardly ever make work for earlier checks."""
    forms = habits.reply_forms
    tokens = any_of([token for token in control_tokens if token])  # no think tag is left by then
    latin = tuple(phrase.lower() for phrase in handed_phrases if phrase and phrase.isascii())
    other = tuple(phrase.lower() for phrase in handed_phrases if not phrase.isascii())
    return (
        ("garbled", find_garbled),
        (
            "control_character",
            partial(repair_texts, remove_control_characters, remove_control_characters, describe_control_character),
        ),
        ("think_tag", find_think_tags),
        ("spreadsheet", find_spreadsheet_damage),
        ("reasoning_tag", partial(find_reasoning_tags, think_tags, forms)),
        ("answer_tag", partial(find_answer_tags, forms)),
        ("literal_newline", find_literal_newlines),
        ("odd_space", partial(repair_texts, normalize_spaces, normalize_reasoning_spaces, describe_odd_space)),
        ("markup", find_markup),
        ("soft_switch", find_soft_switches),
        ("role_mark", find_role_marks),
        ("ends_on_user", find_last_question),
        ("blank", find_blank),
        ("control_token", partial(find_control_tokens, tokens)),
        ("placeholder", find_placeholders),
        ("fill_in", find_blanks_to_fill),
        ("mode_conflict", find_mode_conflicts),
        ("no_reasoning", partial(find_no_reasoning, habits)),
        ("reasoning_is_answer", find_reasoning_as_answer),
        ("answer_is_question", find_echoes),
        ("loop", partial(find_loops, True)),
        ("repetition", partial(find_loops, False)),
        ("handed_answer", partial(find_handed_answers, latin, any_of(latin, NOT_CHOICES), any_of(other, NOT_CHOICES))),
        ("handed_context", find_handed_context),
        ("bare_number", find_bare_numbers),
        ("fragment", partial(find_fragments, habits)),
        ("cut_text", partial(find_cut_texts, habits)),
        ("language_mix", find_language_mix),
    )
