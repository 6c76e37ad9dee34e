"""Journal records as every tracker gets them: numbers, texts, one chart of both losses, and the facts of a run."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from thinktune.files import read_json
from thinktune.run import Record

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
    """Figures of one step, each under the name of its chart."""

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
    """Train and eval loss so far, for one chart that shows both: (step, loss) each."""

    step: int
    train: tuple[tuple[int, float], ...]
    eval: tuple[tuple[int, float], ...]


TrackerEntry = Scalars | TextEntries | LossCurves


class RecordConverter:
    """Turns records into entries, in their order; remembers the losses for the chart that shows both."""

    def __init__(self) -> None:
        self._losses: dict[str, list[tuple[int, float]]] = {"train": [], "eval": []}

    def convert_metrics(self, records: Iterable[Record]) -> Iterator[TrackerEntry]:
        """The entries of records of metrics.jsonl."""
        for (kind, step), group in groupby(records, lambda record: (record["kind"], record["step"])):
            same = list(group)
            if kind == "event":  # a tracker keeps one entry a step and name
                yield TextEntries(step, "event", tuple(record["text"] for record in same))
                continue
            record = same[-1]
            yield Scalars(step, {f"{kind}/{key}": value for key, value in record.items() if _is_number(key, value)})
            if kind in self._losses and "loss" in record:
                self._losses[kind].append((step, record["loss"]))
            if kind == "eval":
                yield LossCurves(step, tuple(self._losses["train"]), tuple(self._losses["eval"]))


def sample_entries(records: Iterable[Record]) -> Iterator[TextEntries]:
    """The samples of each step together; records of one step stand side by side in the journal."""
    by_step: dict[int, list[str]] = {}
    for record in records:
        by_step.setdefault(record["step"], []).append(sample_text(record))
    for step, texts in by_step.items():
        yield TextEntries(step, SAMPLES_CHART, tuple(texts))


def sample_text(sample: Record) -> str:
    """A sample as a text, reasoning and answer apart, with its flags."""
    flags = [
        f"{sample['tokens']} tokens",
        "ended by itself" if sample["finish"] != "length" else "cut short",
        "reasoning closed" if sample["reasoning_closed"] else "reasoning not closed",
    ]
    title = f"{sample['row']} ({sample.get('sampling', 'greedy')}; {', '.join(flags)})"
    parts = (("question", "question"), ("reasoning", "reasoning"), ("answer", "answer"))
    return "\n\n".join([title, *(f"[{label}]\n{sample[key]}" for key, label in parts)])


def evaluation_entries(run: Path, step: int) -> Iterator[Scalars]:
    """What `thinktune eval` found, where it was run: every number of its report, named by its place there."""
    if (run / "eval" / "report.json").is_file():
        yield Scalars(step, dict(_flatten_numbers(read_json(run / "eval" / "report.json"), "evaluation")))


def run_config(run: Path, include_machine: bool) -> dict[str, Any]:
    """The resolved recipe, the account of the data and what the run is; the command and the like if `include_machine` says so.

    Of the rows only counts, never their text.
    """
    account, environment = (
        read_json(run / name) if (run / name).is_file() else {} for name in ("data.json", "environment.json")
    )
    chosen = {name: value for name, value in environment.items() if include_machine or name in ENVIRONMENT_KEYS}
    return {
        "recipe": yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8")),
        "data": {name: account[name] for name in SUMMARY_KEYS if name in account},
        "faults": {fault["fault"]: fault["actions"] for fault in account.get("faults", ())},
        "run": chosen,
    }


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
