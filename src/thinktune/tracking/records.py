"""Convert journal records to what every tracker gets: scalars, texts, one chart of both losses, the run's config."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from thinktune.config.strict_yaml import read_values
from thinktune.errors import redact, redact_all
from thinktune.files import read_json
from thinktune.run import Record, RunFolder

SAMPLES_CHART = "Prediction"


LOSS_CHART = "loss/train and eval"


SUMMARY_KEYS = (
    "rows_read", "train_rows", "validation_rows", "dropped_rows", "train_tokens", "train_learned_tokens", "max_tokens",
)  # fmt: skip


ENVIRONMENT_KEYS = (
    "model",
    "model_dtype",
    "parameters",
    "device",
    "precision",
    "memory",
    "steps",
    "thinktune",
    "torch",
)


@dataclass(frozen=True, slots=True)
class Scalars:
    """Numbers of one step, each under the name of its chart."""

    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class TextEntries:
    """Texts of one step under one name."""

    step: int
    name: str
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LossCurves:
    """Train and eval loss so far, as (step, loss), for one chart that shows both."""

    step: int
    train: tuple[tuple[int, float], ...]
    eval: tuple[tuple[int, float], ...]


TrackerEntry = Scalars | TextEntries | LossCurves


class RecordConverter:
    """Convert records to entries, in order; collects the losses for the chart that shows both."""

    def __init__(self) -> None:
        self._losses: dict[str, list[tuple[int, float]]] = {"train": [], "eval": []}

    def convert_metrics(self, records: Iterable[Record]) -> Iterator[TrackerEntry]:
        """Yield the entries of new records of the metrics."""
        for (kind, step), group in groupby(records, lambda record: (record["kind"], record["step"])):
            repeated = list(group)
            if kind == "event":  # trackers keep one entry per step and name
                yield TextEntries(step, "event", tuple(redact(record["text"]) for record in repeated))
                continue
            record = repeated[-1]
            yield Scalars(step, {f"{kind}/{key}": value for key, value in record.items() if _is_number(key, value)})
            if kind in self._losses and "loss" in record:
                self._losses[kind].append((step, record["loss"]))
            if kind == "eval":
                yield LossCurves(step, tuple(self._losses["train"]), tuple(self._losses["eval"]))


def sample_entries(records: Iterable[Record]) -> Iterator[TextEntries]:
    """Yield the samples of each step together; in the journal the records of a step follow each other."""
    by_step: dict[int, list[str]] = {}
    for record in records:
        by_step.setdefault(record["step"], []).append(sample_text(record))
    for step, texts in by_step.items():
        yield TextEntries(step, SAMPLES_CHART, tuple(texts))


def sample_text(sample: Record) -> str:
    """Format a sample as text: its flags, then question, reasoning and answer, each under its name."""
    flags = [
        f"{sample['tokens']} tokens",
        "ended by itself" if sample["finish"] != "length" else "cut short",
        {True: "reasoning closed", False: "reasoning not closed", None: "without reasoning"}[
            sample["reasoning_closed"]
        ],
    ]
    title = f"{sample['row']} ({sample.get('sampling', 'greedy')}; {', '.join(flags)})"
    parts = (("question", "question"), ("reasoning", "reasoning"), ("answer", "answer"))
    return "\n\n".join([title, *(f"[{label}]\n{sample[key]}" for key, label in parts)])


def evaluation_entries(run: Path, step: int) -> Iterator[Scalars]:
    """Yield every number of the evaluation report, named by its place there; nothing without an evaluation."""
    report = RunFolder(run).evaluation().report
    if report.is_file():
        yield Scalars(step, dict(_flatten_numbers(read_json(report), "evaluation")))


def run_config(run: Path, include_machine: bool) -> dict[str, Any]:
    """Collect the resolved recipe, counts of rows (never their text) and facts of the run; secrets are masked.

    Args:
        run: the run's folder.
        include_machine: also collect the command, the libraries and the platform.
    """
    folder = RunFolder(run)
    summary, environment = (
        read_json(file) if file.is_file() else {} for file in (folder.data_summary, folder.environment)
    )
    facts = {name: value for name, value in environment.items() if include_machine or name in ENVIRONMENT_KEYS}
    config = {
        "recipe": read_values(folder.recipe),
        "data": {name: summary[name] for name in SUMMARY_KEYS if name in summary},
        "faults": {fault["fault"]: fault["actions"] for fault in summary.get("faults", ())},
        "run": facts,
    }
    return redact_all(config)


def _is_number(key: str, value: Any) -> bool:
    return key != "step" and isinstance(value, int | float) and not isinstance(value, bool)


def _flatten_numbers(tree: Mapping[str, Any], place: str) -> Iterator[tuple[str, float]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten_numbers(value, f"{place}/{key}")
        elif isinstance(value, list):
            for number, item in enumerate(value):
                if isinstance(item, dict):
                    yield from _flatten_numbers(item, f"{place}/{key}/{item.get('name', number)}")
        elif _is_number(key, value):
            yield f"{place}/{key}", value
