"""Votes of people between base and tuned with hidden names: counts, and how sure the preference is. Loads no torch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from thinktune.checkpoint import find_checkpoint
from thinktune.checkpoint.store import model_step
from thinktune.errors import UserError
from thinktune.eval.statistics import exact_interval
from thinktune.run import RunFolder
from thinktune.run.feedback import read_votes

VOTE_LABELS = {"tuned": "Tuned preferred", "base": "Base preferred", "tie": "Equally good", "neither": "Both bad"}
EVEN = 0.5  # the share of decided votes that each side gets where nobody can tell them apart


def count_votes(run: Path) -> dict[str, Any] | None:
    """Count the votes about a run's present model; None where nobody voted.

    The share is of decided votes, those that prefer one side, with its exact interval; null without any. Votes about
    another step's model are counted apart, as `earlier`. Raises UserError where votes.jsonl is damaged.
    """
    votes = read_votes(RunFolder(run))
    if not votes:
        return None
    step = _present_step(run)
    counted = [vote for vote in votes if vote.get("step") == step]
    counts = Counter(vote["preferred"] for vote in counted)
    decided = counts["tuned"] + counts["base"]
    result: dict[str, Any] = {
        "votes": len(counted),
        "questions": len({vote.get("question") for vote in counted}),
        **{side: counts[side] for side in VOTE_LABELS},
        "earlier": len(votes) - len(counted),
        "share": asdict(exact_interval(counts["tuned"], decided)) if decided else None,
    }
    return result | {"verdict": votes_verdict(result)}


def judge_votes(share: Mapping[str, float] | None) -> str:
    """Return "better" or "worse" where the interval of the tuned model's share excludes a half, else ""."""
    if share is None or share["low"] <= EVEN <= share["high"]:
        return ""
    return "better" if share["low"] > EVEN else "worse"


def votes_verdict(counted: Mapping[str, Any]) -> str:
    """Write one sentence about the votes, as certain as their interval."""
    share = counted["share"]
    rest = f"{counted['tie']} equally good, {counted['neither']} both bad"
    if counted["earlier"]:
        rest += f"; {counted['earlier']} about the model of another step, not counted"
    if share is None:
        return f"blind votes: none decided; {rest}"
    word = judge_votes(share) or "no difference shown"
    bounds = f"{100 * share['value']:.1f} % ({100 * share['low']:.1f} to {100 * share['high']:.1f})"
    decided = counted["tuned"] + counted["base"]
    asked = f"{counted['questions']} {'question' if counted['questions'] == 1 else 'questions'}"
    return f"blind votes: {word}; tuned preferred in {counted['tuned']} of {decided} decided, {bounds}; {rest}; {asked}"


def votes_parts(counted: Mapping[str, Any] | None) -> Sequence[Table | Text]:
    """Make the table of the votes and its verdict for the terminal; nothing without votes."""
    if counted is None:
        return ()
    table = Table("Blind votes", box=box.SIMPLE_HEAD)
    table.add_column("votes", justify="right")
    for side, label in VOTE_LABELS.items():
        table.add_row(label, str(counted[side]))
    return table, Text(counted["verdict"], style="bold")


def _present_step(run: Path) -> int | None:
    """Return the step of the model that a run serves now: its final one, or its best so far."""
    if RunFolder(run).final.is_dir():
        return model_step(RunFolder(run).final)
    try:
        best = find_checkpoint(run, "best")
    except UserError:
        return None
    return best.step if best else None
