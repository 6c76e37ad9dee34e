"""Types of the data: raw rows, and findings about them."""

from dataclasses import dataclass, field
from typing import Any, Literal

from thinktune.config import ROW_FAULTS

Action = Literal["kept", "repaired", "trimmed", "dropped", "stops"]


EXAMPLES_PER_FAULT = 5


MAX_STOP_SENTENCES = 20  # the rest is only counted


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault of a row: its name in `data.faults`, a sentence `file:line: field: …`, and the action taken."""

    fault: str
    sentence: str
    action: Action = "dropped"


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as read from its file: its `columns`, or None if it is unreadable, and what was found in reading.

    `size` is its length in the file, in bytes or characters.
    """

    source: str
    columns: dict[str, Any] | None
    findings: tuple[Finding, ...] = ()
    size: int = 0


@dataclass(slots=True)
class Tally:
    """Counts of each fault by action, and the first sentences of each fault."""

    counts: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    examples: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    stops: list[Finding] = field(default_factory=list[Finding])

    def add(self, finding: Finding) -> None:
        """Count one finding."""
        counts = self.counts.setdefault(finding.fault, {})
        counts[finding.action] = counts.get(finding.action, 0) + 1
        examples = self.examples.setdefault(finding.fault, [])
        if len(examples) < EXAMPLES_PER_FAULT:
            examples.append(finding.sentence)
        if finding.action == "stops" and len(self.stops) < MAX_STOP_SENTENCES:
            self.stops.append(finding)

    def total(self, action: Action) -> int:
        """Count the findings that led to an action."""
        return sum(counts.get(action, 0) for counts in self.counts.values())


def gentler_policy(fault: str) -> str:
    """Return the policy under which a fault no longer stops the run and what is sure is kept."""
    return "repair" if "repair" in ROW_FAULTS[fault].policies else "drop"


# Where a row is so long that it is not even read, there is nothing to trim.
ACTION_OF_POLICY: dict[str, Action] = {
    **{"drop": "dropped", "keep": "kept", "repair": "repaired", "silent": "kept", "stop": "stops"},
    "trim-reasoning": "dropped",
}
