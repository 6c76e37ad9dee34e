"""The charts of a run's page, from its metrics."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

from thinktune.report.html import Words
from thinktune.report.svg_charts import Marks, Point, Series, line_chart, smoothed

Record = dict[str, Any]


SMOOTHED_FROM_POINTS = 50


MOST_EPOCH_MARKS = 12


MOST_NAMED_EPOCH_MARKS = 6


SMALL_CHART = (360, 220)


STEP, LOWER = Words("step", "步"), Words("lower is better", "越低越好")


PARTS = {"reasoning": Words("reasoning", "推理"), "answer": Words("answer", "答案"), "end": Words("end", "结束标记")}


MACHINERY = {
    "learning_rate": (
        Words("Learning rate", "学习率"),
        Words("size of each correction", "每次修正的幅度"),
        Words(
            "How far one step may move the model. It usually warms up first and then fades out.",
            "一步最多让模型改变多少。通常先升高，再逐渐降到零。",
        ),
    ),
    "gradient_norm": (
        Words("Gradient norm", "梯度范数"),
        Words("length of each correction", "每次修正的强度"),
        Words(
            "How strongly a step's rows pull at the model. Single peaks are normal; steady growth warns of a learning "
            "rate that is too high.",
            "一步的数据对模型的拉力。偶尔的尖峰是正常的；持续增长说明学习率太高。",
        ),
    ),
    "tokens_per_second": (
        Words("Speed", "速度"),
        Words("tokens per second", "每秒词元"),
        Words(
            "How fast rows are worked through. It should stay level; a lasting drop means that something else slows "
            "the machine.",
            "处理数据的速度。应该平稳；持续下降说明别的程序拖慢了机器。",
        ),
    ),
    "memory_gib": (
        Words("Memory", "内存 / 显存"),
        Words("GiB, the most so far", "GiB，至今的最高值"),
        Words(
            "The most memory held so far. It should stay level after the first steps; growth ends in a full card.",
            "至今占用的最高值。最初几步之后应该持平；一直增长最终会占满。",
        ),
    ),
    "mfu": (
        Words("MFU", "MFU"),
        Words("share of the card's peak", "占显卡峰值的比例"),
        Words(
            "The share of the card's best speed that goes into learning; 0.4 to 0.6 is good.",
            "显卡最高算力中真正用于学习的比例；0.4 到 0.6 就很好。",
        ),
    ),
}


def charts(train: Sequence[Record], evals: Sequence[Record], best: Record) -> dict[str, Markup]:
    """All charts of a run by name; the best evaluation is ringed, epochs are marked."""
    epochs = epoch_marks(train)
    made = {
        "loss": line_chart(
            [*train_lines(train), Series(Words("eval", "验证"), points(evals, "loss"), "eval", has_markers=True)],
            title=Words("Loss", "损失"),
            x_label=STEP,
            y_label=Words("train and eval, lower is better", "训练与验证，越低越好"),
            marks=Marks(epochs, (best["step"], best["loss"]) if best else None),
            size=(640, 300),
        ),
        "parts": line_chart(
            list(part_lines(train, evals)),
            title=Words("Loss by part", "各部分的损失"),
            x_label=STEP,
            y_label=LOWER,
            marks=Marks(epochs),
        ),
    }
    unnamed = Marks([(step, "") for step, _ in epochs])
    for key, (title, unit, _) in MACHINERY.items():
        if key in ("memory_gib", "mfu") and not points(train, key):
            continue
        line = Series("", points(train, key), key)
        made[key] = line_chart(
            [line], title=title, x_label=STEP, y_label=unit, marks=unnamed, size=SMALL_CHART, y_from_zero=True
        )
    return made


def points(records: Iterable[Record], key: str, over: str = "step") -> list[Point]:
    """(step, value) of the records that have both."""
    return [(record[over], record[key]) for record in records if _is_number(record, key) and _is_number(record, over)]


def train_lines(train: Sequence[Record]) -> list[Series]:
    """Train loss; where there are many records, smoothed beside the raw line."""
    line = points(train, "loss")
    if len(line) <= SMOOTHED_FROM_POINTS:
        return [Series(Words("train", "训练"), line, "train")]
    return [
        Series(Words("train, each record", "训练，逐条记录"), line, "train raw"),
        Series(Words("train, smoothed", "训练，平滑后"), smoothed(line), "train"),
    ]


def part_lines(train: Sequence[Record], evals: Sequence[Record]) -> Iterable[Series]:
    """Train and eval loss of reasoning, answer and end."""
    for part, name in PARTS.items():
        line = points(train, f"{part}_loss")
        line = smoothed(line) if len(line) > SMOOTHED_FROM_POINTS else line
        train_name, eval_name = (
            Words(f"{name.en}, {kind.en}", f"{name.zh}，{kind.zh}")
            for kind in (Words("train", "训练"), Words("eval", "验证"))
        )
        yield Series(train_name, line, f"{part} dotted")
        yield Series(eval_name, points(evals, f"{part}_loss"), part, has_markers=True)


def epoch_marks(train: Sequence[Record]) -> list[tuple[float, Words | str]]:
    """Where epochs end, but for the last one."""
    paced = [record for record in train if is_finite(record, "epoch") and record["epoch"] > 0]
    if not paced:
        return []
    step, epochs = paced[-1]["step"], paced[-1]["epoch"]
    stride = math.ceil(epochs / MOST_EPOCH_MARKS)
    numbers = range(stride, math.ceil(epochs), stride)
    named = len(numbers) <= MOST_NAMED_EPOCH_MARKS
    return [
        (number * step / epochs, Words(f"epoch {number}", f"第 {number} 轮") if named else str(number))
        for number in numbers
    ]


def _is_number(record: Record, key: str) -> bool:
    return isinstance(record.get(key), int | float)


def is_finite(record: Record, key: str) -> bool:
    """Whether a record holds a figure under a key."""
    return _is_number(record, key) and math.isfinite(record[key])
