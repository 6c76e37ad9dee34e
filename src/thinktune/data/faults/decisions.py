"""Decisions of a person about single rows, kept in a file beside the rows and held to each row's content."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from thinktune.config import ROW_FAULTS
from thinktune.data.reading.sources import DECISIONS_SUFFIX
from thinktune.errors import UserError
from thinktune.files import name_path

FORMAT = 1
MAX_FAULTS = 20  # named one by one


@dataclass(frozen=True, slots=True)
class RowDecision:
    """What was decided about a row: a policy for each fault, which counts for this row alone while it is unchanged.

    `digest` is that of the row's columns.
    """

    digest: str
    policies: Mapping[str, str]


def decisions_file(rows: Path) -> Path:
    """Return where the decisions about a file of rows are kept."""
    return rows.with_name(f"{rows.name}{DECISIONS_SUFFIX}")


def digest_row(columns: Mapping[str, Any]) -> str:
    """Hash a row's columns and values; their order and the spelling of the file do not matter."""
    text = json.dumps(columns, ensure_ascii=True, sort_keys=True, default=repr)
    return blake2b(text.encode(), digest_size=12).hexdigest()


def read_decisions(rows: Path, display_name: str) -> dict[str, RowDecision]:
    """Read the decisions about a file of rows, by `file:line` as its rows are called; {} where there are none.

    Raises UserError with every mistake in the file.
    """
    file = decisions_file(rows)
    if not file.is_file():
        return {}
    with name_path(file):
        raw = file.read_bytes()
    again = "save it again from the page of doubts (thinktune check RECIPE --doubts FOLDER), or move it away"
    try:
        value: Any = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: is not JSON ({str(error)[:80]}); {again}") from None
    entries: Any = value.get("decisions") if isinstance(value, dict) else None
    if not isinstance(entries, list) or value.get("format") != FORMAT:
        raise UserError(f"{file}: is not a list of decisions in format {FORMAT}; {again}")
    decisions: dict[str, RowDecision] = {}
    faults: list[str] = []
    for place, entry in enumerate(entries):
        mistake = _entry_mistake(entry, rows.name)
        source = "" if mistake else f"{display_name}{entry['row'].removeprefix(rows.name)}"
        if not mistake and source in decisions:
            mistake = f"is a second one about {entry['row']}; keep one"
        if mistake:
            faults.append(f"{file}: decisions[{place}] {mistake}")
        else:
            decisions[source] = RowDecision(entry["digest"], dict(entry["policies"]))
    if faults:
        raise UserError(faults[:MAX_FAULTS])
    return decisions


def _entry_mistake(entry: Any, name: str) -> str:
    """Return what is wrong with one entry, or ""."""
    if not isinstance(entry, dict) or not {"row", "digest", "policies"} <= entry.keys():
        return "lacks row, digest or policies; save the file again from the page of doubts"
    row, policies = entry["row"], entry["policies"]
    if not isinstance(row, str) or not row.removeprefix(name).startswith((":", "[")) or not row.startswith(name):
        return f"is about {str(row)[:60]!r}, which is not a row of {name}; correct it"
    if not isinstance(entry["digest"], str) or not isinstance(policies, dict) or not policies:
        return "has a digest that is not text, or no policies; save the file again from the page of doubts"
    for fault, policy in policies.items():
        allowed = [each for each in ROW_FAULTS[fault].policies if each != "stop"] if fault in ROW_FAULTS else []
        if policy not in allowed:
            known = f"write one of {', '.join(allowed)}" if allowed else "it is not a fault of data.faults"
            return f"says {fault}: {policy!r}; {known}"
    return ""


def format_decisions(decisions: Mapping[str, RowDecision], rows: Path, display_name: str) -> dict[str, Any]:
    """Return the value of a file of decisions, which `read_decisions` reads back."""
    return {
        "format": FORMAT,
        "decisions": [
            {"row": f"{rows.name}{source.removeprefix(display_name)}", "digest": each.digest, "policies": each.policies}
            for source, each in decisions.items()
        ],
    }
