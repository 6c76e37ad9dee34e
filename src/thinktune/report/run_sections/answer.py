"""The answer that a run's page leads with: correct answers, what was forgotten, best step, time and cost."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from thinktune.eval import find_measure
from thinktune.eval.comparison import FORGETTING_TOLERANCE_POINTS, PRIMARY_MEASURES, Forgetting, judge_forgetting
from thinktune.eval.general_probe import PROBE_SET
from thinktune.progress import format_duration
from thinktune.report.html import BilingualText, format_count, format_number
from thinktune.report.run_sections.cost import Price
from thinktune.run import Diagnosis, Record
from thinktune.run.sample_questions import HELD_OUT_SET
from thinktune.run.status import RunState

Direction = Literal["", "better", "worse"]

MEASURE_NAMES = {
    "right": BilingualText("Correct answers", "答对率"),
    "preferred": BilingualText("Preferred by the judge", "裁判模型更喜欢的比例"),
    "chrf": BilingualText("Similarity to the reference", "与参考答案的相似度"),
    "loss": BilingualText("Eval loss", "验证 loss"),
}

_FORGETTING: dict[Forgetting, BilingualText] = {
    "lost": BilingualText("lost", "明显下降"),
    "nothing to lose": BilingualText("the base had almost none", "基座模型本来就几乎答不出"),
    "kept": BilingualText(
        f"kept within {FORGETTING_TOLERANCE_POINTS} points", f"保持住了（{FORGETTING_TOLERANCE_POINTS} 个百分点以内）"
    ),
    "possible": BilingualText("no loss shown", "未见下降"),
    "unknown": BilingualText("not measured", "没有测量"),
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of the answer: its name, value, remark and direction, and the command that measures it."""

    name: BilingualText
    value: BilingualText
    note: BilingualText = BilingualText("", "")  # noqa: RUF009, it is a tuple
    direction: Direction = ""
    command: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class RunTime:
    """Seconds of training and of evaluation, tokens trained on, and the devices that it took."""

    training_seconds: float
    evaluation_seconds: float
    tokens: int
    devices: int
    device_name: str

    @property
    def seconds(self) -> float:
        """Seconds of both together."""
        return self.training_seconds + self.evaluation_seconds


def read_time(train: Sequence[Record], evals: Sequence[Record], environment: Record) -> RunTime:
    """Add up what a run's journal says of its time; loading, samples and checkpoints are not in it."""
    seconds = [record["seconds"] for record in train if isinstance(record.get("seconds"), int | float)]
    spent = sum(record["seconds"] for record in evals if isinstance(record.get("seconds"), int | float))
    tokens = sum(record["tokens"] for record in train if isinstance(record.get("tokens"), int))
    devices = environment.get("world_size")
    return RunTime(
        seconds[-1] if seconds else 0.0,
        spent,
        tokens,
        devices if isinstance(devices, int) and devices > 0 else 1,
        str(environment.get("device_name") or ""),
    )


def answer_figures(
    evaluation: Mapping[str, Any],
    diagnosis: Diagnosis,
    state: RunState,
    time: RunTime,
    *,
    best_of: tuple[float | None, int | None],
    command: str,
) -> list[Figure]:
    """Return the figures of the answer in the order of the page.

    `best_of` are the epochs at the best step, and the steps of the plan. What was not measured yet has the command that
    does.
    """
    sets: dict[str, Any] = {each["name"]: each for each in evaluation.get("sets") or []}
    asked = command if state == "finished" else ""
    return [
        _success(_chosen_set(sets), asked, state),
        _forgotten(sets.get(PROBE_SET), asked, state),
        _best_step(diagnosis, *best_of),
        *_time(time),
    ]


def price_figure(price: Price, time: RunTime) -> Figure:
    """Return what the run's time on its devices costs at a price for an hour of one."""
    hours = time.devices * time.seconds / 3600
    amount = f"{price.currency}{' ' if price.currency else ''}{price.per_hour * hours:,.2f}"
    return Figure(
        BilingualText("Cost", "费用"),
        BilingualText(amount, amount),
        BilingualText(
            f"{format_number(hours, 2)} card-hours at {price.per_hour:g} an hour",
            f"{format_number(hours, 2)} 卡时，每卡时 {price.per_hour:g}",
        ),
        key="cost",
    )


def eval_command(runs_folder: Any, name: str) -> str:
    """Return the command that evaluates a run, as one types it where the run was started."""
    folder = f"{runs_folder}/{name}" if isinstance(runs_folder, str) and runs_folder else name
    return f"thinktune eval {shlex.quote(folder)}"


def figures_record(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """Return the figures as JSON, for the file that the page offers."""
    return [{key: value for key, value in asdict(figure).items() if value} for figure in figures]


def _chosen_set(sets: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the set of the answer: the held-out rows, or the first one that is not of general questions."""
    return sets.get(HELD_OUT_SET) or next((each for name, each in sets.items() if name != PROBE_SET), None)


def _success(task_set: Mapping[str, Any] | None, command: str, state: RunState) -> Figure:
    measures = {each["measure"]: each for each in (task_set or {}).get("measures", [])}
    key = next((key for key in (*PRIMARY_MEASURES, "loss") if key in measures), None)
    if task_set is None or key is None:
        return Figure(
            MEASURE_NAMES["right"],
            BilingualText("not measured yet", "尚未测量"),
            BilingualText("", "") if state == "finished" else _MEASURED_LATER,
            command=command,
            key="right",
        )
    found, measure = measures[key], find_measure(key)
    share = measure.kind == "share"

    def side(value: float) -> str:
        return f"{format_number(100 * value, 1)} %" if share else format_number(value)

    sides = f"{side(found['base']['value'])} → {side(found['tuned']['value'])}"
    change = [(100 if share else 1) * found["difference"][name] for name in ("value", "low", "high")]
    return Figure(
        MEASURE_NAMES[key],
        BilingualText(sides, sides),
        _difference_note(change, found["rows"], share),
        found["verdict"],
        key=key,
    )


_MEASURED_LATER = BilingualText("by thinktune eval, once the run is finished", "训练完成后由 thinktune eval 测量")


def _difference_note(change: Sequence[float], rows: int, share: bool) -> BilingualText:
    value, low, high = (signed(number, 1 if share else 3) for number in change)
    counted = format_count(rows)
    return BilingualText(
        f"{value}{' points' if share else ''} ({low} to {high}), {counted} rows",
        f"{value}{' 个百分点' if share else ''}（{low} 至 {high}），{counted} 行",
    )


def signed(number: float, digits: int) -> str:
    """Format a difference with its sign; zero has none."""
    text = format_number(number, digits)
    if not math.isfinite(number):
        return text
    return (
        text.lstrip("−") if not float(text.replace("−", "-").replace(",", "")) else text if number < 0 else f"+{text}"
    )


def _forgotten(task_set: Mapping[str, Any] | None, command: str, state: RunState) -> Figure:
    name = BilingualText("General ability", "通用能力")
    measures = task_set.get("measures", []) if task_set else []
    judged = judge_forgetting(measures)
    if judged == "unknown":
        note = BilingualText("", "") if state == "finished" else _MEASURED_LATER
        return Figure(name, _FORGETTING[judged], note, command=command, key="general")
    found = next(each for each in measures if each["measure"] == "right")
    sides = " → ".join(f"{format_number(100 * found[side]['value'], 1)} %" for side in ("base", "tuned"))
    change = _difference_note([100 * found["difference"][key] for key in ("value", "low", "high")], found["rows"], True)
    note = BilingualText(f"{sides}, {change.en}", f"{sides}，{change.zh}")
    return Figure(name, _FORGETTING[judged], note, "worse" if judged == "lost" else "", key="general")


def _best_step(diagnosis: Diagnosis, epochs: float | None, steps: int | None) -> Figure:
    name = BilingualText("Best step", "最好的一步")
    if not diagnosis.best_step:
        return Figure(name, BilingualText("–", "–"), BilingualText("not evaluated yet", "尚未评估"), key="best")
    lost = diagnosis.state in ("worse", "no_gain")
    losses = f"{format_number(diagnosis.base_loss)} → {format_number(diagnosis.best_loss)}"
    best = format_count(diagnosis.best_step)
    of, of_zh = ("", "") if steps is None else (f" of {format_count(steps)}", f"（共 {format_count(steps)} 步）")
    passes, passes_zh = ("", "") if epochs is None else (f", {epochs:.1f} epochs", f"，{epochs:.1f} 轮")
    return Figure(
        name,
        BilingualText(
            "none, the base is" if lost else f"step {best}", "没有，基座模型更好" if lost else f"第 {best} 步"
        )
        if diagnosis.state == "worse"
        else BilingualText(f"step {best}{of}", f"第 {best} 步{of_zh}"),
        BilingualText(f"eval loss {losses}{passes}", f"验证 loss {losses}{passes_zh}"),
        "worse" if diagnosis.state == "worse" else "better" if diagnosis.improved else "",
        key="best",
    )


def _time(time: RunTime) -> list[Figure]:
    if not time.seconds:
        return []
    on = f"{time.devices} × {time.device_name}" if time.devices > 1 else time.device_name
    hours = time.devices * time.seconds / 3600
    cards = f", {hours:,.1f} card-hours" if time.devices > 1 else ""
    cards_zh = f"，{hours:,.1f} 卡时" if time.devices > 1 else ""
    length = format_duration(time.seconds)
    return [
        Figure(
            BilingualText("Time", "用时"),
            BilingualText(length, length),
            BilingualText(
                f"{format_count(time.tokens)} tokens{f' on {on}' if on else ''}{cards}; of it evaluation "
                f"{format_duration(time.evaluation_seconds)}",
                f"{format_count(time.tokens)} 个 token{f'，{on}' if on else ''}{cards_zh}；其中评估 "
                f"{format_duration(time.evaluation_seconds)}",
            ),
            key="time",
        )
    ]
