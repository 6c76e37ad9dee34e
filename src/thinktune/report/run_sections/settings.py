"""The settings that decide a run, few and by name, for the head of its page."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from thinktune.report.html import BilingualText, Label, format_count
from thinktune.run import Record


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its name for people, its value, and the recipe's key where it has one."""

    name: BilingualText
    value: Label
    key: str = ""


def head_settings(recipe: Mapping[str, Any], environment: Record, data: Record) -> list[Setting]:
    """Return the settings of a page's head; those that a damaged or old recipe lacks are left out."""
    train = _mapping(recipe.get("train"))
    expert = _mapping(recipe.get("expert"))
    step = (
        ("train.tokens_per_step", BilingualText("Tokens a step", "每步 token"), train.get("tokens_per_step"))
        if expert.get("rows_per_step") is None
        else ("expert.rows_per_step", BilingualText("Rows a step", "每步样本数"), expert.get("rows_per_step"))
    )
    found = [
        ("model.name", BilingualText("Base model", "基座模型"), _last_name(environment.get("model"))),
        ("", BilingualText("Training rows", "训练数据（条）"), data.get("train_rows")),
        ("", BilingualText("Held-out rows", "留出数据（条）"), data.get("validation_rows")),
        ("train.epochs", BilingualText("Epochs", "轮数"), train.get("epochs")),
        step,
        ("", BilingualText("Steps", "步数"), environment.get("steps")),
        ("train.learning_rate", BilingualText("Learning rate", "学习率"), train.get("learning_rate")),
        ("train.schedule", BilingualText("Schedule", "学习率调度"), _schedule(train)),
        ("data.max_tokens", BilingualText("Longest row", "最长样本"), _max_tokens(recipe.get("data"))),
        ("train.memory", BilingualText("Memory tier", "显存档位"), environment.get("memory")),
        ("expert.precision", BilingualText("Precision", "精度"), environment.get("precision")),
        ("train.seed", BilingualText("Seed", "随机种子"), train.get("seed")),
        ("", BilingualText("Parameters", "参数量"), environment.get("parameters")),
    ]
    return [Setting(name, _format(value), key) for key, name, value in found if value is not None and value != ""]


def _schedule(train: Mapping[str, Any]) -> Label | None:
    schedule, warmup = train.get("schedule"), train.get("warmup_fraction")
    if not isinstance(schedule, str):
        return None
    if not isinstance(warmup, int | float):
        return schedule
    return BilingualText(f"{schedule}, {100 * warmup:g} % warm-up", f"{schedule}，预热 {100 * warmup:g} %")


def _max_tokens(data: Any) -> Any:
    """Return the longest row's limit; of several sources that of the first, which sets it."""
    first: Any = data[0] if isinstance(data, list) and data else data
    return _mapping(first).get("max_tokens")


def _last_name(model: Any) -> str:
    """Return a model's name for people: OWNER/NAME of a hub, the last part of a folder."""
    path = PurePosixPath(str(model or ""))
    return "" if not model else path.name if path.is_absolute() or len(path.parts) > 2 else str(path)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _format(value: Any) -> Label:
    if isinstance(value, BilingualText | str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    return format_count(value) if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
