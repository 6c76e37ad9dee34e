"""Doubts that `check --doubts` found, as the rows screen shows them, and the decisions about them."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thinktune.config import ROW_FAULTS
from thinktune.data.faults.decisions import RowDecision, decisions_file, format_decisions, read_decisions
from thinktune.errors import UserError
from thinktune.files import read_json, write_json
from thinktune.http import ApiError
from thinktune.report.doubts_page import FACTS, POLICY_NAMES
from thinktune.report.run_sections.data_words import fault_meaning, fault_name
from thinktune.studio.folder import StudioFolder

MAX_SHOWN_CHARACTERS = 4000  # of a text before or after a repair
_WRITING = threading.Lock()


def doubts_folder(recipe: str) -> str:
    """Return the name of the folder for the doubts about a recipe's rows."""
    return f"doubts/{Path(recipe).with_suffix('').as_posix().replace('/', '-')}"


def read_doubts(folder: StudioFolder, recipe: str) -> dict[str, Any]:
    """Return the doubts about a recipe's rows, with names in both languages and what was decided about each.

    `made_at` is None where `check --doubts` has not been asked.
    """
    facts = _read_facts(folder, recipe)
    if facts is None:
        return {"rows": [], "counts": {}, "made_at": None}
    decided: dict[str, Mapping[str, RowDecision]] = {}
    rows: list[dict[str, Any]] = []
    for row in facts["rows"]:
        if row["path"] not in decided:
            decided[row["path"]] = _read_decided(folder, row["path"], row["file"])
        decision = decided[row["path"]].get(row["row"])
        counts = decision is not None and decision.digest == row["digest"]
        choices = [{"policy": policy, **_both(POLICY_NAMES[policy])} for policy in row["outcomes"]]
        rows.append(
            {name: row[name] for name in ("row", "fault", "sentence", "policy", "action")}
            | {"name": _both(fault_name(row["fault"])), "meaning": _both(fault_meaning(row["fault"], row["meaning"]))}
            | {"before": _turns(row["turns"]), "after": {key: _turns(one) for key, one in row["outcomes"].items()}}
            | {"choices": choices, "decided": decision.policies.get(row["fault"]) if counts and decision else None}
        )
    return {"rows": rows, "counts": facts["counts"], "made_at": _facts_file(folder, recipe).stat().st_mtime}


def decide(folder: StudioFolder, recipe: str, place: str, fault: str, policy: str | None) -> None:
    """Keep what was decided about a fault of a row, in the file beside the rows; None takes it back.

    Raises ApiError: 404 where this is none of the doubts, 400 for a policy that it cannot have, and where the file of
    rows is not below the studio's folder.
    """
    doubts = _read_facts(folder, recipe) or {"rows": []}
    row = next((one for one in doubts["rows"] if one["row"] == place and one["fault"] == fault), None)
    if row is None:
        raise ApiError(404, f"{place}: {fault} is not among the doubtful rows that were found; check the rows again")
    if policy is not None and (policy not in row["outcomes"] or policy not in ROW_FAULTS[fault].policies):
        raise ApiError(400, f"{place}: {fault} cannot be {policy!r}; choose one of {', '.join(row['outcomes'])}")
    path = _rows_path(folder, row["path"])
    if path is None:
        raise ApiError(400, f"{row['file']} is outside this folder, so nothing is written beside it; copy it here")
    with _WRITING:
        try:
            decisions = read_decisions(path, row["file"])
        except UserError as error:
            raise ApiError(409, "; ".join(error.faults)) from None
        held = decisions.get(place)
        policies = dict(held.policies) if held and held.digest == row["digest"] else {}
        policies.pop(fault, None)
        policies |= {fault: policy} if policy else {}
        decisions.pop(place, None)
        decisions |= {place: RowDecision(row["digest"], policies)} if policies else {}
        write_json(decisions_file(path), format_decisions(decisions, path, row["file"]))


def _facts_file(folder: StudioFolder, recipe: str) -> Path:
    return folder.resolve(doubts_folder(recipe), new=True) / FACTS


def _read_facts(folder: StudioFolder, recipe: str) -> dict[str, Any] | None:
    try:
        facts = read_json(_facts_file(folder, recipe))
        known = [
            row for row in facts["rows"] if row["fault"] in ROW_FAULTS and set(row["outcomes"]) <= set(POLICY_NAMES)
        ]
        return {"rows": known, "counts": facts["counts"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _rows_path(folder: StudioFolder, path: str) -> Path | None:
    """Return where a file of rows is, None for one that is not below the studio's folder."""
    found = (folder.path / path).resolve()
    return found if found.is_relative_to(folder.path) and found.is_file() else None


def _read_decided(folder: StudioFolder, path: str, name: str) -> Mapping[str, RowDecision]:
    found = _rows_path(folder, path)
    try:
        return read_decisions(found, name) if found else {}
    except (UserError, OSError):
        return {}


def _turns(turns: list[dict[str, str]] | None) -> list[dict[str, str]] | None:
    """Return turns with texts of a length that a page shows; None where the row would be left out."""
    return turns if turns is None else [{name: _shorten(text) for name, text in turn.items()} for turn in turns]


def _shorten(text: str) -> str:
    half = MAX_SHOWN_CHARACTERS // 2
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:half]}\n[…]\n{text[-half:]}"


def _both(text: Any) -> dict[str, str]:
    return {"en": text.en, "zh": text.zh}
