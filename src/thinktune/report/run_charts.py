"""Charts of a run's page, drawn from its metrics."""

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from thinktune.report.html import BilingualText
from thinktune.report.svg_charts import Axes, ChartMarks, Point, Series, line_chart, smooth_points
from thinktune.run import Record

MIN_POINTS_TO_SMOOTH = 50


MAX_EPOCH_MARKS = 12


MAX_NAMED_EPOCH_MARKS = 6


MAX_CLOCK_TICKS = 2000  # steps whose time is known on the page; between them it is interpolated


SMALL_CHART = (360, 220)


STEP_LABEL, LOWER_IS_BETTER = BilingualText("step", "步"), BilingualText("lower is better", "越低越好")


TRAINED_KIND_NAMES = {
    "reasoning": BilingualText("reasoning", "思考"),
    "answer": BilingualText("answer", "回答"),
    "end": BilingualText("end", "结束标记"),
}


SOURCE_STYLES = ("reasoning", "answer", "end", "train", "eval")  # a line's colour, by the source's number


SYSTEM_CHARTS = {
    "learning_rate": (
        BilingualText("Learning rate", "学习率"),
        BilingualText("size of each update", "每次更新的步长"),
        BilingualText(
            "How far one step may move the weights. It usually warms up first and then decays.",
            "每一步更新权重的幅度。通常先预热升高，再逐渐衰减到零。",
        ),
    ),
    "gradient_norm": (
        BilingualText("Gradient norm", "梯度范数"),
        BilingualText("length of the gradient", "梯度的长度"),
        BilingualText(
            "How strongly the rows of a step pull on the weights. Single spikes are normal; steady growth "
            "suggests that the learning rate is too high.",
            "一步数据的梯度大小。偶尔出现尖峰是正常的；持续增长通常说明学习率过高。",
        ),
    ),
    "tokens_per_second": (
        BilingualText("Speed", "速度"),
        BilingualText("tokens per second", "每秒 token"),
        BilingualText(
            "How fast training runs. It should stay level; a lasting drop means that something else is using the "
            "machine.",
            "训练速度。应保持平稳；持续下降说明有其他程序在占用机器。",
        ),
    ),
    "memory_gib": (
        BilingualText("Memory", "内存 / 显存"),
        BilingualText("GiB, peak so far", "GiB，目前为止的峰值"),
        BilingualText(
            "Peak memory so far. It should level off after the first steps; steady growth ends in a full card.",
            "目前为止的显存峰值。最初几步之后应趋于平稳；如果一直增长，最终会耗尽。",
        ),
    ),
    "mfu": (
        BilingualText("MFU", "MFU"),
        BilingualText("share of the card's peak", "占显卡峰值算力的比例"),
        BilingualText(
            "Share of the card's peak compute that training uses; 0.4 to 0.6 is good.",
            "训练实际用到的算力占显卡峰值算力的比例；0.4 到 0.6 就很好。",
        ),
    ),
}


def draw_charts(
    train: Sequence[Record], evals: Sequence[Record], best: Record, *, steps: int | None = None
) -> dict[str, Markup]:
    """Draw all charts of a run, by name; the best evaluation is ringed, epochs are marked.

    With `steps`, those of the plan, the charts of losses leave room for what is still to come.
    """
    epochs = epoch_marks(train, steps)
    charts = {
        "loss": line_chart(
            [
                *train_lines(train),
                Series(BilingualText("eval", "验证"), metric_points(evals, "loss"), "eval", has_markers=True),
            ],
            Axes(
                BilingualText("Loss", "loss"),
                STEP_LABEL,
                BilingualText("train and eval, lower is better", "训练与验证，越低越好"),
                may_be_log=True,
            ),
            marks=ChartMarks(epochs, (best["step"], best["loss"]) if best else None, x_end=steps),
            size=(640, 300),
        ),
        "parts": line_chart(
            list(token_kind_lines(train, evals)),
            Axes(BilingualText("Loss by part", "各部分的 loss"), STEP_LABEL, LOWER_IS_BETTER, may_be_log=True),
            marks=ChartMarks(epochs, x_end=steps),
        ),
    }
    if sources := list(source_lines(train, evals)):
        charts["sources"] = line_chart(
            sources,
            Axes(BilingualText("Loss by source", "各数据来源的 loss"), STEP_LABEL, LOWER_IS_BETTER, may_be_log=True),
            marks=ChartMarks(epochs, x_end=steps),
        )
    unnamed = ChartMarks([(step, "") for step, _ in epochs])
    for key, (title, unit, _) in SYSTEM_CHARTS.items():
        if key in ("memory_gib", "mfu") and not metric_points(train, key):
            continue
        line = Series("", metric_points(train, key), key)
        charts[key] = line_chart(
            [line], Axes(title, STEP_LABEL, unit, y_from_zero=True), marks=unnamed, size=SMALL_CHART
        )
    return charts


def metric_points(records: Iterable[Record], key: str, over: str = "step") -> list[Point]:
    """Return (step, value) of the records that have both."""
    return [(record[over], record[key]) for record in records if _is_number(record, key) and _is_number(record, over)]


def train_lines(train: Sequence[Record]) -> list[Series]:
    """Return the line of the train loss; of many records, the raw line and a smoothed one."""
    line = metric_points(train, "loss")
    if len(line) <= MIN_POINTS_TO_SMOOTH:
        return [Series(BilingualText("train", "训练"), line, "train")]
    return [
        Series(BilingualText("train, each record", "训练，逐条记录"), line, "train raw"),
        Series(BilingualText("train, smoothed", "训练，平滑后"), smooth_points(line), "train", unsmoothed=line),
    ]


def smoothed(line: Sequence[Point]) -> tuple[Sequence[Point], Sequence[Point]]:
    """Return a line as it is drawn, smoothed where it has many points, and then what it was made of."""
    return (smooth_points(line), line) if len(line) > MIN_POINTS_TO_SMOOTH else (line, ())


def token_kind_lines(train: Sequence[Record], evals: Sequence[Record]) -> Iterable[Series]:
    """Yield the lines of train and eval loss of reasoning, answer and end."""
    for part, name in TRAINED_KIND_NAMES.items():
        line, unsmoothed = smoothed(metric_points(train, f"{part}_loss"))
        train_name, eval_name = (
            BilingualText(f"{name.en}, {kind.en}", f"{name.zh}，{kind.zh}")
            for kind in (BilingualText("train", "训练"), BilingualText("eval", "验证"))
        )
        yield Series(train_name, line, f"{part} dotted", unsmoothed=unsmoothed)
        yield Series(eval_name, metric_points(evals, f"{part}_loss"), part, has_markers=True)


def source_lines(train: Sequence[Record], evals: Sequence[Record]) -> Iterable[Series]:
    """Yield the lines of train and eval loss of each of several sources, by its name."""
    for number, name in enumerate(_named_sources([*train, *evals])):
        style = SOURCE_STYLES[number % len(SOURCE_STYLES)]
        for records, kind, dotted in (
            (train, BilingualText("train", "训练"), " dotted"),
            (evals, BilingualText("eval", "验证"), ""),
        ):
            line = [
                (record["step"], loss)
                for record in records
                if isinstance(loss := record.get("source_losses", {}).get(name), int | float)
            ]
            line, unsmoothed = smoothed(line) if dotted else (line, ())
            if line:
                named = BilingualText(f"{name}, {kind.en}", f"{name}，{kind.zh}")
                yield Series(named, line, f"{style}{dotted}", has_markers=not dotted, unsmoothed=unsmoothed)


def _named_sources(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record.get("source_losses") or {}))


def clock(train: Sequence[Record]) -> dict[str, list[float]]:
    """Return at which epoch, second of training and token each recorded step ended, for charts over those."""
    found: dict[str, list[float]] = {"step": [0], "epoch": [0], "seconds": [0], "tokens": [0]}
    tokens = 0.0
    for record in train:
        tokens += record["tokens"] if has_finite_value(record, "tokens") else 0
        values = {"epoch": record.get("epoch"), "seconds": record.get("seconds"), "tokens": tokens}
        found["step"].append(record["step"])
        for key, value in values.items():
            found[key].append(value if isinstance(value, int | float) and math.isfinite(value) else found[key][-1])
    stride = math.ceil(len(train) / MAX_CLOCK_TICKS) or 1
    thinned = {key: [*values[:-1:stride], values[-1]] for key, values in found.items()}
    return {key: values for key, values in thinned.items() if values[-1] > 0}


def epoch_marks(train: Sequence[Record], steps: int | None = None) -> list[tuple[float, BilingualText | str]]:
    """Return the step and label at the end of each epoch except the last; with `steps`, of those to come as well."""
    paced = [record for record in train if has_finite_value(record, "epoch") and record["epoch"] > 0]
    if not paced:
        return []
    step, epochs = paced[-1]["step"], paced[-1]["epoch"]
    if steps and steps > step:
        step, epochs = steps, epochs * steps / step
    stride = math.ceil(epochs / MAX_EPOCH_MARKS)
    numbers = range(stride, math.ceil(epochs), stride)
    every = math.ceil(len(numbers) / MAX_NAMED_EPOCH_MARKS) or 1
    return [
        (
            number * step / epochs,
            BilingualText(f"epoch {number}", f"第 {number} 轮") if place % every == every - 1 else "",
        )
        for place, number in enumerate(numbers)
    ]


def _is_number(record: Record, key: str) -> bool:
    return isinstance(record.get(key), int | float)


def has_finite_value(record: Record, key: str) -> bool:
    """Return True if a record has a finite number under a key."""
    return _is_number(record, key) and math.isfinite(record[key])
