"""Figures of lm-eval and EvalScope, read back: both sides with intervals, paired where the tool kept each question."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

from thinktune.errors import UserError
from thinktune.eval.statistics import CONFIDENCE, Interval, bootstrap_mean, paired_difference, wilson_interval
from thinktune.files import read_json

Values = dict[str, dict[str, float]]  # of each measure, the score by question


@dataclass(frozen=True, slots=True)
class Result:
    """One measure of a benchmark: both sides and their difference, with 95 % intervals, over so many questions.

    `difference` is paired, over the questions that both sides answered; None where the tool kept no score by question.
    """

    tool: str
    task: str
    measure: str
    rows: int
    base: dict[str, float]
    tuned: dict[str, float]
    difference: dict[str, float] | None


def describe_result(result: Result) -> str:
    """Describe a measure in one line, with the interval of the difference, or of both sides where it is not paired."""
    base, tuned = result.base["value"], result.tuned["value"]
    shown = f"{result.tool} {result.task}, {result.measure}: {base:.3f} → {tuned:.3f}"
    if result.difference is None:
        sides = ", ".join(f"{each['low']:.3f} to {each['high']:.3f}" for each in (result.base, result.tuned))
        return f"{shown} (95 %: {sides}; not paired, as the tool kept no score by question)"
    change = result.difference
    interval = f"{change['low']:+.3f} to {change['high']:+.3f}"
    return f"{shown}, difference {change['value']:+.3f} ({interval}), {result.rows:,} questions"


def read_lm_eval(task: str, base: Path, tuned: Path) -> list[Result]:
    """Read what lm-eval wrote for both sides; raises UserError where a side has no results."""
    sides = {"base": base, "tuned": tuned}
    totals = {side: _newest(folder, "results_*.json")["results"] for side, folder in sides.items()}
    found: list[Result] = []
    for name, figures in totals["base"].items():
        values = {side: _lm_eval_samples(folder, name) for side, folder in sides.items()}
        for key, total in figures.items():
            measure, _, kept_filter = key.partition(",")
            if not kept_filter or measure.endswith("_stderr") or not _is_number(total):
                continue
            shown = measure if kept_filter == "none" else f"{measure} ({kept_filter})"
            scores = {side: values[side].get(key, {}) for side in sides}
            if not all(scores.values()):
                other = totals["tuned"].get(name, {})
                error = f"{measure}_stderr,{kept_filter}"
                pair = [_normal(float(each.get(key, "nan")), each.get(error)) for each in (figures, other)]
                found.append(Result("lm-eval", name, shown, 0, asdict(pair[0]), asdict(pair[1]), None))
                continue
            found.append(_paired("lm-eval", name, shown, scores))
    return found


def _lm_eval_samples(folder: Path, task: str) -> Values:
    """Return each measure's scores by question, as `measure,filter`, from the newest samples of a task."""
    # The name and the time of its end: a group's subtasks have names that begin with its own.
    named = re.compile(rf"samples_{re.escape(task)}_\d{{4}}-\d\d-\d\dT[\d.\-]+\.jsonl")
    files = sorted(
        (file for file in folder.rglob("samples_*.jsonl") if named.fullmatch(file.name)),
        key=lambda file: file.stat().st_mtime,
    )
    values: Values = {}
    for line in files[-1].read_text(encoding="utf-8").splitlines() if files else ():
        sample = json.loads(line)
        for measure in sample.get("metrics", ()):
            if _is_number(sample.get(measure)):
                key = f"{measure},{sample.get('filter', 'none')}"
                values.setdefault(key, {})[str(sample["doc_id"])] = float(sample[measure])
    return values


def read_evalscope(task: str, base: Path, tuned: Path) -> list[Result]:
    """Read what EvalScope wrote for both sides; raises UserError where a side has no report."""
    sides = {"base": base, "tuned": tuned}
    reports = {side: _newest(folder / "reports", f"{task}.json") for side, folder in sides.items()}
    values = {side: _evalscope_reviews(folder) for side, folder in sides.items()}
    metrics = {side: {_metric_name(each): each for each in report["metrics"]} for side, report in reports.items()}
    found: list[Result] = []
    for name in metrics["base"].keys() & metrics["tuned"].keys():
        scores = {side: values[side].get(name.removeprefix("mean_"), {}) for side in sides}
        if all(scores.values()):
            found.append(_paired("evalscope", task, name, scores))
            continue
        pair = [metrics[side][name] for side in sides]
        counts = [int(each.get("num", 0)) for each in pair]
        intervals = [asdict(_share(float(each["score"]), count)) for each, count in zip(pair, counts, strict=True)]
        found.append(Result("evalscope", task, name, counts[0], intervals[0], intervals[1], None))
    return sorted(found, key=lambda result: result.measure)


def _metric_name(metric: Mapping[str, Any]) -> str:
    """Return a metric's name: in version 2 of the reports' form it is a part of its identity."""
    return str(metric.get("name") or metric["identity"]["name"])


def _evalscope_reviews(folder: Path) -> Values:
    """Return each measure's scores by question from EvalScope's reviews."""
    values: Values = {}
    for file in sorted(folder.rglob("reviews/**/*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            scores = record.get("sample_score", {}).get("score", {}).get("value", {})
            for measure, score in scores.items() if isinstance(scores, Mapping) else ():
                if _is_number(score):
                    values.setdefault(measure, {})[f"{file.name}:{record.get('index')}"] = float(score)
    return values


def _paired(tool: str, task: str, measure: str, scores: Mapping[str, Mapping[str, float]]) -> Result:
    shared = sorted(scores["base"].keys() & scores["tuned"].keys())
    sides = {side: [scores[side][question] for question in shared] for side in ("base", "tuned")}
    bounded = all(0 <= value <= 1 for values in sides.values() for value in values)
    change = paired_difference(sides["base"], sides["tuned"], bounded=bounded)
    intervals = {side: asdict(_interval(values, bounded)) for side, values in sides.items()}
    return Result(tool, task, measure, len(shared), intervals["base"], intervals["tuned"], asdict(change))


def _interval(values: list[float], bounded: bool) -> Interval:
    if {*values} <= {0.0, 1.0}:
        return wilson_interval(round(sum(values)), len(values))
    return bootstrap_mean(values, (0.0, 1.0) if bounded else None)


def _share(score: float, count: int) -> Interval:
    return wilson_interval(round(score * count), count) if count else Interval(score, score, score)


def _normal(value: float, standard_error: Any) -> Interval:
    half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * float(standard_error) if _is_number(standard_error) else 0.0
    return Interval(value, value - half, value + half)


def _newest(folder: Path, pattern: str) -> dict[str, Any]:
    files = sorted(folder.rglob(pattern), key=lambda file: file.stat().st_mtime)
    if not files:
        raise UserError(f"--harness: {folder} has no {pattern}; read the tool's log.txt there")
    read = read_json(files[-1])
    return read if isinstance(read, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)
