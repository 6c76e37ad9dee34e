"""Settings that a verdict's sentence says to change, as values that a page can offer for a new run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from thinktune.eval.comparison import judge_forgetting, judge_switch
from thinktune.eval.general_probe import PROBE_SET
from thinktune.report.diagnosis_text import epochs_to_keep
from thinktune.report.html import BilingualText
from thinktune.run import Diagnosis
from thinktune.run.status import RunState

_NAMES = {
    "train.epochs": BilingualText("Epochs", "轮数"),
    "train.learning_rate": BilingualText("Learning rate", "学习率"),
    "data.silent_share": BilingualText("Share of rows without reasoning", "不思考的行所占比例"),
}
_TENTH = 0.1  # as the sentence says


@dataclass(frozen=True, slots=True)
class AdvisedSetting:
    """A setting, its value in the run, whether to raise or lower it, and the value that the sentence names, if any."""

    key: str
    name: BilingualText
    direction: Literal["lower", "higher"]
    now: float
    value: float | None = None


def advised_by_diagnosis(
    diagnosis: Diagnosis, run_state: RunState, epochs_at_best: float | None, recipe: Mapping[str, Any]
) -> list[AdvisedSetting]:
    """List the settings that `advice_sentence` says to change in a new run; none while this one still goes on."""
    match diagnosis.state:
        case "learning" if run_state == "finished":
            found = [_advise(recipe, "train.epochs", "higher")]
        case "overfitting" if run_state == "finished":
            epochs = None if epochs_at_best is None else epochs_to_keep(epochs_at_best)
            found = [_advise(recipe, "train.epochs", "lower", epochs)]
        case "worse" if run_state != "running":
            rate = _number(recipe, "train.learning_rate")
            tenth = None if rate is None else float(f"{_TENTH * rate:.6g}")
            found = [_advise(recipe, "train.learning_rate", "lower", tenth), _advise(recipe, "train.epochs", "lower")]
        case "diverging" if run_state != "running":
            found = [_advise(recipe, "train.learning_rate", "lower")]
        case _:
            found = []
    return [one for one in found if one is not None]


def advised_by_evaluation(report: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[AdvisedSetting]:
    """List the settings that an evaluation's verdicts say to change in a new run."""
    found: list[AdvisedSetting | None] = []
    for one in report.get("sets", ()):
        if one["name"] == PROBE_SET and judge_forgetting(one["measures"]) == "lost":
            found += [_advise(recipe, key, "lower") for key in ("train.learning_rate", "train.epochs")]
    for switch in report.get("switches", ()):
        if switch["mode"] == "silent" and judge_switch(switch) == "lost":
            found.append(_advise(recipe, "data.silent_share", "higher"))
    return [one for one in found if one is not None]


def _advise(
    recipe: Mapping[str, Any], key: str, direction: Literal["lower", "higher"], value: float | None = None
) -> AdvisedSetting | None:
    """Return a setting to change; None where the recipe does not tell what it is now."""
    now = _number(recipe, key)
    if now is None:
        return None
    fits = value is not None and (value < now if direction == "lower" else value > now)
    return AdvisedSetting(key, _NAMES[key], direction, now, value if fits else None)


def _number(recipe: Mapping[str, Any], key: str) -> float | None:
    held: Any = recipe
    for part in key.split("."):
        held = held.get(part) if isinstance(held, Mapping) else None
    return held if isinstance(held, int | float) and not isinstance(held, bool) else None
