"""Settings of an evaluation: everything but the questions that decides its figures, as in `settings.json`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from thinktune.eval.completion_store import completion_key
from thinktune.eval.tasks import Task

SIDES = ("base", "tuned")


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """One side's model."""

    name: str
    print: str  # fingerprint of its folder, or the address of the endpoint that replies


@dataclass(frozen=True, slots=True)
class EvalSampling:
    """How both models write their replies."""

    max_new_tokens: int
    temperature: float
    seed: int
    thinking: bool


@dataclass(frozen=True, slots=True)
class ContaminatedTask:
    """A question that the training rows ask as well: excluded from the figures."""

    set: str
    row: str  # source of the task, `file:line`
    trained: str  # source of the training row
    match: str = ""  # of an exam's question: exact or near


@dataclass(frozen=True, slots=True)
class EvalSettings:
    """Models, sampling, exclusions, judge, exams, seeds and versions of one evaluation.

    The fields are the keys of settings.json. Scoring needs the models, the sampling, `apart`, the judge, the exams and
    their budgets; the rest is there to be read by people.
    """

    models: Mapping[str, EvaluatedModel]
    sampling: EvalSampling
    budget: str = ""  # where `max_new_tokens` comes from
    longest_trained_reply: int = 0  # tokens
    apart: tuple[ContaminatedTask, ...] = ()
    judge: str | None = None
    confidence: float = 0.0
    resamples: int = 0
    seeds: Mapping[str, int] = field(default_factory=dict[str, int])
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    data_fingerprint: str = ""
    made: str = ""  # ISO 8601, UTC
    think_tags: Sequence[str] = ("<think>", "</think>")  # of the model: opening and closing
    exams: Sequence[Mapping[str, Any]] = ()  # facts of each set, as `eval.exams.exam` has them
    reasoning_budgets: Sequence[int] = ()  # tokens, at which the exams' replies are cut
    choosing_rows: int = 0  # held-out rows that chose the weight of an average, and are asked by no evaluation

    def completion_key(self, task: Task, side: str) -> str:
        """Return the key under which a side's reply to a task is saved."""
        sampling = asdict(self.sampling) | {"thinking": self.thinks(task)}
        return completion_key(task.key, self.models[side].print, sampling)

    def thinks(self, task: Task) -> bool:
        """Return True if both models are asked a task in the mode with thinking."""
        return self.sampling.thinking and task.may_reason


def find_lacking(
    asked: Sequence[tuple[EvalSettings, Sequence[Task]]], side: str, saved: Iterable[str]
) -> list[dict[str, Task]]:
    """Return for each evaluation the tasks by key that no saved reply is of and no evaluation before it will ask."""
    known = set(saved)
    lacking: list[dict[str, Task]] = []
    for settings, tasks in asked:
        keys = {settings.completion_key(task, side): task for task in tasks}
        lacking.append({key: task for key, task in keys.items() if key not in known})
        known |= keys.keys()
    return lacking


def asked_modes(thinking: bool | None, *, has_switch: bool) -> tuple[bool, ...]:
    """List the modes to ask in, the one with thinking first; `thinking` None means both, if a template has a switch."""
    if thinking is not None:
        return (thinking,)
    return (True, False) if has_switch else (True,)


def settings_to_record(settings: EvalSettings) -> dict[str, Any]:
    """Convert settings to plain values, from which `settings_from_record` makes equal ones.

    What belongs to exams is left out where there are none, so that a report without them is as it always was.
    """
    record = asdict(settings)
    record["apart"] = [
        {name: value for name, value in each.items() if value or name != "match"} for each in record["apart"]
    ]
    return {name: value for name, value in record.items() if value or name not in ("exams", "reasoning_budgets")}


def settings_from_record(record: Mapping[str, Any]) -> EvalSettings:
    """Make the settings of a record; keys that are unknown are ignored."""
    known = {each.name for each in fields(EvalSettings)}
    return EvalSettings(
        **{name: value for name, value in record.items() if name in known - {"models", "sampling", "apart"}},
        models={side: EvaluatedModel(**model) for side, model in record["models"].items()},
        sampling=EvalSampling(**record["sampling"]),
        apart=tuple(ContaminatedTask(**task) for task in record["apart"]),
    )
