"""The charts of a run's page, from its metrics."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

from thinktune.report.html import BilingualText
from thinktune.report.svg_charts import ChartMarks, Point, Series, line_chart, smooth_points

Record = dict[str, Any]


MIN_POINTS_TO_SMOOTH = 50


MAX_EPOCH_MARKS = 12


MAX_NAMED_EPOCH_MARKS = 6


SMALL_CHART = (360, 220)


STEP_LABEL, LOWER_IS_BETTER = BilingualText("step", "步"), BilingualText("lower is better", "越低越好")


TOKEN_KIND_NAMES = {
    "reasoning": BilingualText("reasoning", "推理"),
    "answer": BilingualText("answer", "答案"),
    "end": BilingualText("end", "结束标记"),
}


SYSTEM_CHARTS = {
    "learning_rate": (
        BilingualText("Learning rate", "学习率"),
        BilingualText("size of each correction", "每次修正的幅度"),
        BilingualText(
            "How far one step may move the model. It usually warms up first and then fades out.",
            "一步最多让模型改变多少。通常先升高，再逐渐降到零。",
        ),
    ),
    "gradient_norm": (
        BilingualText("Gradient norm", "梯度范数"),
        BilingualText("length of each correction", "每次修正的强度"),
        BilingualText(
            "How strongly a step's rows pull at the model. Single peaks are normal; steady growth warns of a learning "
            "rate that is too high.",
            "一步的数据对模型的拉力。偶尔的尖峰是正常的；持续增长说明学习率太高。",
        ),
    ),
    "tokens_per_second": (
        BilingualText("Speed", "速度"),
        BilingualText("tokens per second", "每秒词元"),
        BilingualText(
            "How fast rows are worked through. It should stay level; a lasting drop means that something else slows "
            "the machine.",
            "处理数据的速度。应该平稳；持续下降说明别的程序拖慢了机器。",
        ),
    ),
    "memory_gib": (
        BilingualText("Memory", "内存 / 显存"),
        BilingualText("GiB, the most so far", "GiB，至今的最高值"),
        BilingualText(
            "The most memory held so far. It should stay level after the first steps; growth ends in a full card.",
            "至今占用的最高值。最初几步之后应该持平；一直增长最终会占满。",
        ),
    ),
    "mfu": (
        BilingualText("MFU", "MFU"),
        BilingualText("share of the card's peak", "占显卡峰值的比例"),
        BilingualText(
            "The share of the card's best speed that goes into learning; 0.4 to 0.6 is good.",
            "显卡最高算力中真正用于学习的比例；0.4 到 0.6 就很好。",
        ),
    ),
}


def draw_charts(train: Sequence[Record], evals: Sequence[Record], best: Record) -> dict[str, Markup]:
    """All charts of a run by name; the best evaluation is ringed, epochs are marked."""
    epochs = epoch_marks(train)
    made = {
        "loss": line_chart(
            [
                *train_lines(train),
                Series(BilingualText("eval", "验证"), metric_points(evals, "loss"), "eval", has_markers=True),
            ],
            title=BilingualText("Loss", "损失"),
            x_label=STEP_LABEL,
            y_label=BilingualText("train and eval, lower is better", "训练与验证，越低越好"),
            marks=ChartMarks(epochs, (best["step"], best["loss"]) if best else None),
            size=(640, 300),
        ),
        "parts": line_chart(
            list(token_kind_lines(train, evals)),
            title=BilingualText("Loss by part", "各部分的损失"),
            x_label=STEP_LABEL,
            y_label=LOWER_IS_BETTER,
            marks=ChartMarks(epochs),
        ),
    }
    unnamed = ChartMarks([(step, "") for step, _ in epochs])
    for key, (title, unit, _) in SYSTEM_CHARTS.items():
        if key in ("memory_gib", "mfu") and not metric_points(train, key):
            continue
        line = Series("", metric_points(train, key), key)
        made[key] = line_chart(
            [line], title=title, x_label=STEP_LABEL, y_label=unit, marks=unnamed, size=SMALL_CHART, y_from_zero=True
        )
    return made


def metric_points(records: Iterable[Record], key: str, over: str = "step") -> list[Point]:
    """(step, value) of the records that have both."""
    return [(record[over], record[key]) for record in records if _is_number(record, key) and _is_number(record, over)]


def train_lines(train: Sequence[Record]) -> list[Series]:
    """Train loss; where there are many records, smoothed beside the raw line."""
    line = metric_points(train, "loss")
    if len(line) <= MIN_POINTS_TO_SMOOTH:
        return [Series(BilingualText("train", "训练"), line, "train")]
    return [
        Series(BilingualText("train, each record", "训练，逐条记录"), line, "train raw"),
        Series(BilingualText("train, smoothed", "训练，平滑后"), smooth_points(line), "train"),
    ]


def token_kind_lines(train: Sequence[Record], evals: Sequence[Record]) -> Iterable[Series]:
    """Train and eval loss of reasoning, answer and end."""
    for part, name in TOKEN_KIND_NAMES.items():
        line = metric_points(train, f"{part}_loss")
        line = smooth_points(line) if len(line) > MIN_POINTS_TO_SMOOTH else line
        train_name, eval_name = (
            BilingualText(f"{name.en}, {kind.en}", f"{name.zh}，{kind.zh}")
            for kind in (BilingualText("train", "训练"), BilingualText("eval", "验证"))
        )
        yield Series(train_name, line, f"{part} dotted")
        yield Series(eval_name, metric_points(evals, f"{part}_loss"), part, has_markers=True)


def epoch_marks(train: Sequence[Record]) -> list[tuple[float, BilingualText | str]]:
    """Where epochs end, but for the last one."""
    paced = [record for record in train if has_finite_value(record, "epoch") and record["epoch"] > 0]
    if not paced:
        return []
    step, epochs = paced[-1]["step"], paced[-1]["epoch"]
    stride = math.ceil(epochs / MAX_EPOCH_MARKS)
    numbers = range(stride, math.ceil(epochs), stride)
    named = len(numbers) <= MAX_NAMED_EPOCH_MARKS
    return [
        (number * step / epochs, BilingualText(f"epoch {number}", f"第 {number} 轮") if named else str(number))
        for number in numbers
    ]


def _is_number(record: Record, key: str) -> bool:
    return isinstance(record.get(key), int | float)


def has_finite_value(record: Record, key: str) -> bool:
    """Whether a record holds a figure under a key."""
    return _is_number(record, key) and math.isfinite(record[key])
