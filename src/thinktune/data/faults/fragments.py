"""Answers that break off, and texts that may be cut, judged by how the other rows of their file end."""

from thinktune.data.faults.endings import (
    breaks_off,
    ends_in_open_word,
    is_cut,
    is_form,
    is_mark,
    is_whole_character,
    pauses,
)
from thinktune.data.faults.habits import Habits
from thinktune.data.faults.turn_faults import CheckResult, FieldNames, TurnFault, Turns, trained_replies

SURE_OTHERS, SURE_STOP_SHARE = 20, 0.95  # answers by which a colon or an open word at the end is surely a cut


MIN_COLON_SHARE, MIN_COLON_ANSWERS = 0.1, 3  # of the answers that end in a colon, where that is their form


MIN_COMMA_SHARE, MIN_COMMA_ANSWERS = 0.8, 5  # where all answers end in a comma, none is cut by it


def find_fragments(habits: Habits, turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find answers that surely break off."""
    return [
        TurnFault(index, f"{field}: {what} ({turn.content[-20:]!r})")
        for index, turn, (field, _) in trained_replies(turns, field_names)
        if (what := _fragment(turn.content.strip(), turns[:index], habits))
    ], None


def find_cut_texts(habits: Habits, turns: Turns, field_names: FieldNames) -> CheckResult:
    """Find answers and reasoning that may be cut: what `find_fragments` finds is not found again."""
    faults = list[TurnFault]()
    for index, turn, (field, reasoning_field) in trained_replies(turns, field_names):
        answer, reasoning = turn.content.strip(), turn.reasoning.strip()
        if not _fragment(answer, turns[:index], habits) and (what := _cut(answer, turns[:index], habits)):
            faults.append(TurnFault(index, f"{field}: {what} ({answer[-20:]!r})"))
        if habits.reasoning.expects_stop() and (is_cut(reasoning) or ends_in_open_word(reasoning)):
            faults.append(TurnFault(index, f"{reasoning_field}: {_NO_STOP} ({reasoning[-20:]!r})"))
    return faults, None


_NO_STOP = "ends without a full stop, unlike nearly all others"


def _fragment(answer: str, before: Turns, habits: Habits) -> str | None:
    if len(answer) == 1:
        return "is only a punctuation mark" if is_mark(answer) and not _is_usual(answer, before, habits) else None
    if what := breaks_off(answer):
        return None if _ends_in_usual_comma(answer, habits) else what
    if not habits.answers.expects_stop(SURE_OTHERS, SURE_STOP_SHARE):
        return None
    colon = answer.endswith((":", "：")) and not is_form(answer) and not _is_colon_usual(habits)
    return "breaks off" if colon or ends_in_open_word(answer) else None


def _cut(answer: str, before: Turns, habits: Habits) -> str | None:
    """Say why an answer may be cut; what it may be by its form or its manner is said as well."""
    if len(answer) == 1:
        return None if _is_usual(answer, before, habits) else "is only one character"
    if breaks_off(answer):
        return "ends in a comma, as nearly all answers of the file do"
    if pauses(answer):
        if is_form(answer) or (answer.endswith((":", "：")) and _is_colon_usual(habits)):
            return None
        return "ends in a colon or a dash, which may be its form, or a cut"
    return _NO_STOP if habits.answers.expects_stop() and (is_cut(answer) or ends_in_open_word(answer)) else None


def _is_usual(answer: str, before: Turns, habits: Habits) -> bool:
    """Return True for one character where others are so too, or that the prompt names."""
    asked = "\n".join(turn.content for turn in before)
    return habits.one_character_answers > 1 or is_whole_character(answer, asked)


def _is_colon_usual(habits: Habits) -> bool:
    return habits.colon_answers >= max(MIN_COLON_ANSWERS, MIN_COLON_SHARE * habits.replies)


def _ends_in_usual_comma(answer: str, habits: Habits) -> bool:
    enough = max(MIN_COMMA_ANSWERS, MIN_COMMA_SHARE * habits.replies)
    return habits.comma_answers >= enough and answer.endswith((",", "，", "、"))
