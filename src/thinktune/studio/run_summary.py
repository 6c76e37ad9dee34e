"""One line about a run, for lists of many: made from few bytes of its folder, and kept until they change."""

import json
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from thinktune.eval.comparison import PRIMARY_MEASURES
from thinktune.files import read_json
from thinktune.run import RunFolder
from thinktune.run.resume import is_locked
from thinktune.run.sample_questions import HELD_OUT_SET
from thinktune.run.status import ENDING_KEY, RunState

TAIL_BYTES = 2**14
KEPT_SUMMARIES = 20_000
Stamp = tuple[int, int] | None


def quick_state(path: Path) -> RunState:
    """Return a run's state as `run.status` does, from the journal's last line alone."""
    run = RunFolder(path)
    if run.final.is_dir():
        return "finished"
    if is_locked(path):
        return "running"
    return "stopped" if _last_record(run.metrics).get(ENDING_KEY) == "stopped" else "died"


def changed_at(path: Path) -> float:
    """Return when a run's journal last grew, or when the run was made; seconds since 1970."""
    run = RunFolder(path)
    stamp = _stamp(run.metrics) or _stamp(run.recipe)
    return stamp[0] / 1e9 if stamp else 0.0


def read_summary(path: Path) -> dict[str, Any]:
    """Read the line about a run; what cannot be read is left out."""
    run = RunFolder(path)
    files = (run.environment, run.data_summary, run.metrics, run.evaluation().report)
    facts = _read_facts(path, *map(_stamp, files))
    return {**facts, "state": quick_state(path), "changed_at": changed_at(path)}


@lru_cache(maxsize=KEPT_SUMMARIES)
def _read_facts(path: Path, environment: Stamp, data: Stamp, metrics: Stamp, report: Stamp) -> dict[str, Any]:
    run = RunFolder(path)
    told = _object(run.environment) if environment else {}
    counted = _object(run.data_summary) if data else {}
    losses = _eval_losses(run.metrics) if metrics else {}
    trained = [loss for step, loss in losses.items() if step > 0]
    return {
        "model": _last_name(told.get("model")),
        "rows": counted.get("train_rows"),
        "steps": told.get("steps"),
        "step": _last_record(run.metrics).get("step") if metrics else None,
        "best_loss": min(trained, default=None),
        "base_loss": losses.get(0),
        "right": _right(_object(run.evaluation().report)) if report else None,
    }


def _right(report: dict[str, Any]) -> dict[str, Any] | None:
    """Return the shares of right answers of base and tuned on the held-out rows, or what was measured instead."""
    with suppress(KeyError, TypeError, StopIteration):
        sets = {one["name"]: one for one in report["sets"]}
        chosen = sets.get(HELD_OUT_SET) or report["sets"][0]
        measures = {one["measure"]: one for one in chosen["measures"]}
        key = next(key for key in (*PRIMARY_MEASURES, "loss") if key in measures)
        found = measures[key]
        return {
            "measure": key,
            "base": found["base"]["value"],
            "tuned": found["tuned"]["value"],
            "verdict": found["verdict"],
        }
    return None


def _eval_losses(metrics: Path) -> dict[int, float]:
    losses: dict[int, float] = {}
    with suppress(OSError), metrics.open("rb") as lines:
        for line in lines:
            if b'"eval"' not in line:
                continue
            with suppress(ValueError):
                record = json.loads(line)
                loss, step = record.get("loss"), record.get("step")
                if record.get("kind") == "eval" and isinstance(step, int) and isinstance(loss, int | float):
                    losses[step] = loss
    return losses


def _last_record(metrics: Path) -> dict[str, Any]:
    """Return the last whole line of a journal, {} where there is none."""
    with suppress(OSError, ValueError), metrics.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - TAIL_BYTES))
        lines = file.read().split(b"\n")[:-1]
        record = json.loads(lines[-1]) if lines else {}
        return record if isinstance(record, dict) else {}
    return {}


def _last_name(model: Any) -> str:
    return "/".join(str(model or "").rstrip("/").split("/")[-2 if not str(model or "").startswith("/") else -1 :])


def _object(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        found = read_json(path)
        return found if isinstance(found, dict) else {}
    return {}


def _stamp(path: Path) -> Stamp:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size
