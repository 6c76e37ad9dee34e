"""Rounds of rejection sampling: what a teacher's tries were worth, after those of the rounds that its run came from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thinktune.files import expand_home, read_json
from thinktune.run import RunFolder
from thinktune.run.thought_folder import Rounds
from thinktune.synthesis.pass_rate import pass_rate

SHOWN_TRIES = (1, 2, 4, 8, 16, 32)


def round_record(teacher: str, verdicts: Sequence[Mapping[str, Any]], questions: int, kept: int) -> dict[str, Any]:
    """Return what the tries of one round were worth: pass@n with its interval for each n that all questions allow.

    Only tries without a hint count, and of those only the ones that a grader could decide on.
    """
    counts: dict[str, list[int]] = {}
    for verdict in verdicts:
        if verdict["kind"] == "plain" and verdict["right"] is not None:
            tries = counts.setdefault(verdict["row"], [0, 0])
            tries[0] += 1
            tries[1] += verdict["right"]
    pairs = [(tries, right) for tries, right in counts.values()]
    least = max((tries for tries, _ in pairs), default=0)
    rates = {n: pass_rate(pairs, n) for n in SHOWN_TRIES if n <= least}
    return {
        "teacher": teacher,
        "questions": questions,
        "kept_questions": kept,
        "graded_questions": len(pairs),
        "pass_at": {str(n): [rate.value, rate.low, rate.high] for n, rate in rates.items()},
    }


def earlier_rounds(teacher: str | None) -> list[dict[str, Any]]:
    """Return the rounds before a teacher's: those of the rows that its run was trained on, as the run recorded them.

    None for a server, a model folder, or a run that was trained on other rows.
    """
    if teacher is None or "://" in teacher:
        return []
    file = RunFolder(expand_home(Path(teacher))).rounds
    try:
        rounds = read_json(file) if file.is_file() else []
        Rounds.validate_python(rounds)
    except (OSError, ValueError):  # edited since then
        return []
    return rounds


def round_lines(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Describe each round in a line."""
    lines: list[str] = []
    for number, each in enumerate(rounds, 1):
        rates = ", ".join(
            f"pass@{n} {value:.1%} ({low:.1%} to {high:.1%})" for n, (value, low, high) in each["pass_at"].items()
        )
        if rates:
            lines.append(f"round {number}, {each['teacher']}: {rates} of {each['graded_questions']:,} questions")
    return lines
