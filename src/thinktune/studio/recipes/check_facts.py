"""Facts of `check --json` as the screens show them: names in both languages, remedies that can be written at once."""

import json
from pathlib import Path
from typing import Any

from thinktune.config import ROW_FAULTS
from thinktune.config.proposals import read_changes
from thinktune.config.strict_yaml import YamlSyntaxError, parse_yaml
from thinktune.data.reading.raw_rows import is_of_file
from thinktune.report.run_sections.data_words import action_name, fault_meaning, fault_name, policy_name
from thinktune.studio.acts import Act, Acts

ADVICE = ("stops", "warnings", "notes")


def newest_facts(acts: Acts, recipe: str) -> tuple[Act, dict[str, Any]] | None:
    """Return the newest act that has the facts of a recipe, with these as the screens show them; None without one."""
    checks = (act for act in acts.of_verb("check") if act.verb == "check" and act.about.get("recipe") == recipe)
    ended = (act for act in checks if act.state in ("finished", "failed"))
    read = ((act, _parse(acts.read_output(act.id))) for act in ended)
    return next(((act, annotate_facts(facts)) for act, facts in read if facts is not None), None)


def annotate_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Return facts with faults named in both languages, and each sentence with the settings that it says to write."""
    faults = [fault | describe_fault(fault["fault"], fault.get("meaning", "")) for fault in facts.get("faults", ())]
    for fault in faults:
        fault["of_file"] = [sentence for sentence in fault.get("examples", ()) if is_of_file(fault["fault"], sentence)]
        fault["actions"] = [
            {"action": action, "count": count, "name": _both(action_name(action))}
            for action, count in fault["actions"].items()
        ]
    files = [file | {"mapping": _mapping(file.get("columns", ""))} for file in facts.get("files", ())]
    advice = {kind: [advise(sentence) for sentence in facts.get(kind, ())] for kind in ADVICE}
    return {key: value for key, value in facts.items() if key != "shown"} | {"faults": faults, "files": files} | advice


def describe_fault(fault: str, meaning: str = "") -> dict[str, Any]:
    """Return a fault's name, meaning, policies and default policy, in both languages."""
    known = ROW_FAULTS.get(fault)
    return {
        "name": _both(fault_name(fault)),
        "meaning": _both(fault_meaning(fault, meaning)),
        "policies": [{"policy": each} | _both(policy_name(each)) for each in (known.policies if known else ())],
        "default": known.default if known else None,
    }


def advise(sentence: str) -> dict[str, Any]:
    """Return a sentence, the setting that it begins with, and the changes that it proposes, each as settings."""
    key = sentence.split(":", 1)[0]
    changes = [dict(change.values) for change in read_changes(sentence) if "…" not in repr(change.values)]
    return {"text": sentence, "key": key if "." in key and " " not in key else "", "changes": changes}


def is_stale(act: Act, files: list[Path]) -> bool:
    """Return True if any of the files was written since an act began, or is gone."""
    try:
        return any(path.stat().st_mtime > act.started_at for path in files)
    except OSError:
        return True


def _mapping(columns: str) -> dict[str, Any]:
    """Return the parts that a file's columns are read as, of the text that a recipe's `data.columns` would have."""
    try:
        held = parse_yaml(columns).value
    except YamlSyntaxError:
        return {}
    return held if isinstance(held, dict) else {}


def _parse(output: bytes) -> dict[str, Any] | None:
    try:
        facts = json.loads(output)
    except ValueError:
        return None
    return facts if isinstance(facts, dict) and "verdict" in facts else None


def _both(text: Any) -> dict[str, str]:
    return {"en": text.en, "zh": text.zh}
