"""The head of a run's page and of two runs says what the records say, with intervals, and no more."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.recorded_run import write_run

from thinktune.errors import UserError
from thinktune.eval.comparison import MEASURES, compare, forgetting_verdict, set_verdict, switch_verdict
from thinktune.report.run_page import read_run, write_run_page
from thinktune.report.run_sections import evaluation_words
from thinktune.report.run_sections.answer import RunTime, answer_figures, price_figure, read_time, signed
from thinktune.report.run_sections.cost import Price, parse_hourly_price
from thinktune.report.run_sections.progress import read_progress
from thinktune.report.run_sections.run_differences import compare_runs
from thinktune.report.run_sections.settings import head_settings
from thinktune.report.svg_charts import LOG_RATIO, Axes, Series, line_chart, log_ticks
from thinktune.run import Diagnosis
from thinktune.run.held_out_texts import MAX_CHARACTERS, RowText, read_held_out_texts, write_held_out_texts

TIME = RunTime(3600.0, 600.0, 1_000_000, 2, "NVIDIA H200")


def task_set(name: str, base: int, tuned: int, rows: int = 40) -> dict[str, Any]:
    scores = [[{"right": float(row < right)} for row in range(rows)] for right in (base, tuned)]
    return {"name": name, "rows": rows, "apart": 0, "ungraded": 0, "measures": compare(*scores), "kinds": [], "languages": []}  # fmt: skip


def figures(sets: list[dict[str, Any]], diagnosis: Diagnosis, state: Any = "finished") -> dict[str, Any]:
    found = answer_figures({"sets": sets}, diagnosis, state, TIME, best_of=(2.0, 240), command="thinktune eval runs/x")
    return {figure.key: figure for figure in found}


def test_the_answer_is_right_answers_what_was_forgotten_the_best_step_and_the_time() -> None:
    learned = Diagnosis("learning", 120, 1.5, 120, 1.5, 120, True, 3.0)
    found = figures([task_set("held-out", 5, 34), task_set("general", 30, 29)], learned)
    assert found["right"].value.en == "12.5 % → 85.0 %"
    assert found["right"].note.en.startswith("+72.5 points (+")
    assert found["right"].direction == "better"
    assert "个百分点（" in found["right"].note.zh
    assert found["general"].value.en == "no loss shown"
    assert found["best"].value == ("step 120 of 240", "第 120 步（共 240 步）")
    assert found["best"].note.en == "eval loss 3.000 → 1.500, 2.0 epochs"
    assert found["time"].value.en == "1:10:00"
    assert "2 × NVIDIA H200, 2.3 card-hours" in found["time"].note.en


def test_what_was_forgotten_and_a_model_worse_than_its_base_are_red() -> None:
    worse = Diagnosis("worse", 24, 422.9, 24, 422.9, 24, False, 7.05)
    found = figures([task_set("held-out", 30, 2), task_set("general", 38, 5)], worse)
    assert [found[key].direction for key in ("right", "general", "best")] == ["worse"] * 3
    assert found["best"].value.en == "none, the base is"
    assert found["general"].value == ("lost", "明显下降")


@pytest.mark.parametrize(("state", "command"), [("finished", "thinktune eval runs/x"), ("running", "")])
def test_what_is_not_measured_has_the_command_that_does_once_the_run_is_finished(state: str, command: str) -> None:
    found = figures([], Diagnosis("waiting"), state)
    assert found["right"].value.en == "not measured yet"
    assert found["right"].command == found["general"].command == command


@pytest.mark.parametrize(
    ("text", "price"),
    [("2.5", Price(2.5, "")), ("$2.5", Price(2.5, "$")), ("12 CNY", Price(12, "CNY")), ("¥12", Price(12, "¥"))],
)
def test_a_price_is_read_as_people_write_it_and_times_every_card(text: str, price: Price) -> None:
    assert parse_hourly_price(text) == price
    cost = price_figure(price, TIME)
    assert cost.value.en.endswith(f"{price.per_hour * 2 * 4200 / 3600:.2f}")
    assert cost.value.en.startswith(price.currency)


@pytest.mark.parametrize("text", ["", "cheap", "1/2", "$5EUR", "-3", "nan"])
def test_what_is_no_price_is_refused_with_how_one_is_written(text: str) -> None:
    with pytest.raises(UserError, match=r"--price: is .* as in 2.5, \$2.5 or 12CNY"):
        parse_hourly_price(text)


def test_time_left_follows_from_the_time_so_far_evaluations_included() -> None:
    train = [{"step": step, "loss": 3.0 - step / 10, "seconds": 2.0 * step, "tokens": 100} for step in (1, 10)]
    evals = [{"step": 0, "loss": 3.5, "seconds": 10.0}, {"step": 10, "loss": 2.0, "seconds": 10.0}]
    time = read_time(train, evals, {"world_size": 2, "device_name": "x"})
    assert (time.seconds, time.tokens, time.devices) == (40.0, 200, 2)
    progress = read_progress(10, 40, train, evals, time)
    assert progress is not None
    assert (progress.percent, progress.elapsed, progress.left) == (25, "0:40", "2:00")
    assert (progress.train_loss, progress.eval_loss) == (2.0, 2.0)
    assert read_progress(10, None, train, evals, time) is None


def test_a_running_page_says_how_far_it_is_and_leaves_room_for_what_is_to_come(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one", 1e-5)
    (run / "environment.json").write_text(json.dumps({"steps": 120}), encoding="utf-8")
    page = write_run_page(run, running=True).read_text(encoding="utf-8")
    assert '<progress max="120" value="30"' in page
    assert "Step 30 of 120, 25 %" in page
    assert "&#34;end&#34;:120" in page
    (run / "final").mkdir()
    assert "<progress" not in write_run_page(run).read_text(encoding="utf-8")


def test_settings_of_the_head_are_those_of_the_recipe_and_lacking_ones_are_left_out() -> None:
    recipe = {"train": {"epochs": 3, "learning_rate": 1e-5, "schedule": "cosine", "warmup_fraction": 0.03, "tokens_per_step": 16384}}  # fmt: skip
    found = {setting.key: setting.value for setting in head_settings(recipe, {"model": "/models/Qwen3-1.7B"}, {})}
    assert found["train.learning_rate"] == "1e-05"
    assert found["train.tokens_per_step"] == "16,384"
    assert found["train.schedule"] == ("cosine, 3 % warm-up", "cosine，预热 3 %")
    assert found["model.name"] == "Qwen3-1.7B"
    assert head_settings({}, {}, {}) == []
    assert head_settings({"train": 3, "data": "x"}, {"model": "a/b"}, {})[0].value == "a/b"


def test_two_runs_are_compared_on_the_rows_that_both_have(tmp_path: Path) -> None:
    first, other = (write_run(tmp_path / name, 1e-5) for name in ("one", "other"))
    rows = {f"val.jsonl:{n}": [n / 10 - 0.05, 40] for n in range(3, 12)} | {"val.jsonl:50": [1.0, 40]}
    with (other / "losses.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": 30, "rows": rows}) + "\n")
    found = compare_runs((first, read_run(first).diagnosis), (other, read_run(other).diagnosis), "other")
    assert found.held_out == (12, 10, 9)
    assert not found.same_rows
    [loss, right] = found.lines
    assert (loss.change, loss.interval.en, loss.direction, loss.rows) == ("−0.050", "−0.050 to −0.050", "better", 9)
    assert (right.change, right.direction, right.rows) == ("0.0", "", 3)


def test_hard_rows_are_shown_with_their_text_and_long_ones_are_cut(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one", 1e-5)
    texts = [(f"val.jsonl:{n}", RowText(f"Question <{n}>", "Because.", "y" * 9000)) for n in range(1, 12)]
    write_held_out_texts(run, texts)
    page = write_run_page(run).read_text(encoding="utf-8")
    assert "Question &lt;11&gt;" in page
    assert "Question &lt;3&gt;" not in page  # not among the hardest
    assert read_held_out_texts(run, {"val.jsonl:2"})["val.jsonl:2"].answer == "y" * MAX_CHARACTERS
    (run / "held-out.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"held-out.jsonl:1: is damaged.*report.html was written without it"):
        write_run_page(run)
    assert "val.jsonl:11" in (run / "report.html").read_text(encoding="utf-8")


def test_every_measure_and_verdict_has_chinese_words() -> None:
    for measure in MEASURES:
        label, meaning = evaluation_words.measure_words(measure.key)
        assert label.en == measure.label
        assert meaning.zh != meaning.en
    sets = [task_set("held-out", 5, 34), *(task_set("general", *counts) for counts in ((30, 29), (38, 5), (0, 0)))]
    for each in sets:
        measures = each["measures"]
        each["verdict"] = forgetting_verdict(measures) if each["name"] == "general" else set_verdict("held-out", measures)  # fmt: skip
    switch = {"mode": "silent", **compare([{"obeyed": 1.0}] * 40, [{"obeyed": 0.0}] * 40)[0]}
    report = {
        "sets": sets,
        "switches": [switch],
        "verdicts": [*(each["verdict"] for each in sets), switch_verdict(switch)],
    }
    found = evaluation_words.verdicts(report)
    assert [each.en for each in found] == report["verdicts"]
    assert all(each.zh != each.en and "points" not in each.zh for each in found)
    assert found[0].zh.startswith("留出数据：变好；答对率 12.5 % → 85.0 %，+72.5 个百分点（")
    assert "明显下降" in found[2].zh
    assert evaluation_words.verdicts({"sets": [], "verdicts": ["other"]})[0] == ("other", "other")


@given(st.floats(1e-9, 1e9), st.floats(1.0, 1e9))
def test_logarithmic_ticks_cover_the_data_and_rise(low: float, ratio: float) -> None:
    high = low * ratio
    ticks = log_ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert ticks == sorted(set(ticks))
    assert len(ticks) <= 3 * math.log10(max(ratio, 1)) + 6


@pytest.mark.parametrize(("lowest", "log"), [(1 / LOG_RATIO, True), (0.5, False), (0.0, False), (-1.0, False)])
def test_a_loss_axis_is_logarithmic_where_that_shows_more(lowest: float, log: bool) -> None:
    chart = line_chart([Series("a", [(0, 1.0), (1, lowest)], "eval")], Axes("", "", "", may_be_log=True))
    assert ("&#34;log&#34;:true" in chart) == log


@pytest.mark.parametrize(
    ("number", "text"), [(0.04, "0.0"), (-0.04, "0.0"), (1234.56, "+1,234.6"), (-2.0, "−2.0"), (math.inf, "–")]
)
def test_a_difference_has_its_sign_and_zero_has_none(number: float, text: str) -> None:
    assert signed(number, 1) == text
