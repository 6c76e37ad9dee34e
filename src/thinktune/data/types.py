"""What rows become: the nouns of the data (rows, turns, examples, findings), and how rows are held out."""

from dataclasses import dataclass, field
from typing import Any, Literal

from thinktune.config import ROW_FAULTS

Role = Literal["system", "user", "assistant"]


Action = Literal["kept", "repaired", "trimmed", "dropped", "stops"]


EXAMPLES_PER_FAULT = 5


MAX_STOP_SENTENCES = 20  # sentences; the rest is counted


@dataclass(frozen=True, slots=True)
class Turn:
    """One message; only an assistant's carries reasoning, and one that is not `trained` is history alone."""

    role: Role
    content: str
    reasoning: str = ""
    trained: bool = True


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation, where it stands (`file:line`), and what a right answer holds, where the rows say so."""

    turns: tuple[Turn, ...]
    source: str
    keypoint: str | None = None

    @property
    def question(self) -> str:
        """What the last user turn asks."""
        return next(turn.content for turn in reversed(self.turns) if turn.role == "user")


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault of a row: its name in `data.faults`, a sentence that begins with `file:line: field`, what was done."""

    fault: str
    sentence: str
    action: Action = "dropped"


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as it stands in its file: `columns`, or none where it could not be read, and what was found in reading."""

    source: str
    columns: dict[str, Any] | None
    findings: tuple[Finding, ...] = ()


@dataclass(slots=True)
class Tally:
    """What was found in the rows: how often each fault led to each action, and the first sentences of each."""

    counts: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    examples: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    stop_sentences: list[str] = field(default_factory=list[str])

    def add(self, finding: Finding) -> None:
        """Count one finding."""
        counts = self.counts.setdefault(finding.fault, {})
        counts[finding.action] = counts.get(finding.action, 0) + 1
        kept = self.examples.setdefault(finding.fault, [])
        if len(kept) < EXAMPLES_PER_FAULT:
            kept.append(finding.sentence)
        if finding.action == "stops" and len(self.stop_sentences) < MAX_STOP_SENTENCES:
            self.stop_sentences.append(f"{finding.sentence}; mend the row, or {suggest_policy(finding.fault)}")

    def total(self, action: Action) -> int:
        """How many findings led to an action."""
        return sum(counts.get(action, 0) for counts in self.counts.values())


def suggest_policy(fault: str) -> str:
    """What to write so that a fault no longer stops the run."""
    policy = "repair" if "repair" in ROW_FAULTS[fault].policies else "drop"
    return f"write data.faults: {{{fault}: {policy}}}"


ACTION_OF_POLICY: dict[str, Action] = {"drop": "dropped", "keep": "kept", "repair": "repaired", "stop": "stops"}
