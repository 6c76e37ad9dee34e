"""The report page tells what the run folder holds, safely and whole; its charts stay inside their frame."""

import json
import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from thinktune import report
from thinktune.chart import Marks, Point, Series, line_chart, smoothed, ticks

finite = st.floats(min_value=-1e300, max_value=1e300)
points = st.lists(st.tuples(finite, finite), min_size=1, max_size=30)

ACCOUNT: dict[str, Any] = {
    "files": [{"path": "rows.jsonl", "rows": 241}],
    "rows_read": 241,
    "faults": [
        {"fault": "too_long", "policy": "drop", "actions": {"dropped": 3}, "examples": ["rows.jsonl:17: 3151 tokens"]},
        {"fault": "no_reasoning", "policy": "keep", "actions": {"kept": 7}, "examples": ["rows.jsonl:40: empty"]},
    ],
    "train_rows": 215,
    "validation_rows": 23,
    "lengths": {"prompt": {"mean": 61.2, "median": 55, "p95": 120, "max": 310}},
    "over": {"1024": 22},
}
SAMPLE: dict[str, Any] = {
    "step": 20,
    "row": "val.jsonl:3",
    "question": "夜间咳嗽？",
    "reference_reasoning": "先看病程",
    "reference_answer": "先做胸片",
    "reasoning": "三周属于亚急性\n\n  1. 需要胸片",
    "answer": "排除肺结核",
    "tokens": 123,
    "finish": "end",
    "reasoning_closed": True,
}


def parsed(html: str) -> tuple[list[tuple[str, dict[str, str | None]]], str]:
    """What a browser makes of a page: its tags with their attributes, and the text that it shows."""
    parser, tags, pieces = HTMLParser(), [], []

    def start(tag: str, attributes: list[tuple[str, str | None]]) -> None:
        tags.append((tag, dict(attributes)))
        pieces.append("" if tag == "b" else " ")

    parser.handle_starttag, parser.handle_data = start, pieces.append
    parser.feed(re.sub("<style>.*?</style>", "", html, flags=re.DOTALL))
    return tags, "".join(pieces)


def make_run(folder: Path, **parts: Any) -> Path:
    """A run folder; `metrics` and `samples` are lists of records, every other part a JSON object."""
    run = folder / "run-1"
    (run / "eval").mkdir(parents=True)
    (run / "recipe.yaml").write_text("name: run-1\n", encoding="utf-8")
    places = {"metrics": "metrics.jsonl", "samples": "samples.jsonl", "evaluation": "eval/report.json"}
    for name, value in parts.items():
        text = "".join(json.dumps(line) + "\n" for line in (value if isinstance(value, list) else [value]))
        (run / places.get(name, f"{name}.json")).write_text(text, encoding="utf-8")
    return run


def page_of(run: Path) -> str:
    return report.write(run).read_text(encoding="utf-8")


def text_of(folder: Path, **parts: Any) -> str:
    return words(page_of(make_run(folder, **parts)))


def words(html: str) -> str:
    return " ".join(parsed(html)[1].split())


def evals(losses: dict[int, float]) -> list[dict[str, Any]]:
    return [{"kind": "eval", "step": step, "loss": loss} for step, loss in losses.items()]


def trained(*steps: int) -> list[dict[str, Any]]:
    return [{"kind": "train", "step": step, "epoch": step / 10, "loss": 3 - step / 100} for step in steps]


def test_a_run_with_only_a_recipe_gives_a_page_that_says_not_yet_for_every_part(tmp_path: Path) -> None:
    text = text_of(tmp_path)
    for file in ("eval/report.json", "data.json", "samples.jsonl", "environment.json"):
        assert f"Not yet: {file}" in text
    assert text.count("Not yet: nothing recorded") == 5
    assert "not yet started" in text
    assert "name: run-1" in text


def test_empty_objects_and_records_without_their_keys_give_a_page(tmp_path: Path) -> None:
    bare = [{"kind": kind, "step": 1} for kind in ("train", "eval", "event")]
    parts = {"environment": {}, "data": {"rows_read": 1}, "samples": [{"step": 1}], "evaluation": {"base": None}}
    assert "Last step 1 " in text_of(tmp_path, metrics=bare, **parts)


def test_torn_files_count_as_missing_and_half_a_surrogate_pair_costs_one_character(tmp_path: Path) -> None:
    run = make_run(tmp_path, samples=[SAMPLE | {"answer": "before \ud83d after"}])
    (run / "data.json").write_text('{"rows_read": 24', encoding="utf-8")
    with (run / "samples.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 30, "ques')
    assert "Not yet: data.json" in words(page_of(run))
    assert "before ? after" in words(page_of(run))


def test_markup_in_every_input_is_text(tmp_path: Path) -> None:
    attack = "</pre></details><script>alert('x')</script><img src=x onerror=alert(1)>"
    sample = {key: attack if isinstance(value, str) else value for key, value in SAMPLE.items()}
    fault = {"fault": attack, "policy": "drop", "actions": {"dropped": 1}, "meaning": attack, "examples": [attack]}
    data = ACCOUNT | {"faults": [fault], "ignored": [attack], "shown": [{"row": attack, "pieces": [[1, attack]]}]}
    environment, events = {"command": attack, "model": attack}, [{"kind": "event", "step": 1, "text": attack}]
    run = make_run(tmp_path, environment=environment, data=data, metrics=events, samples=[sample])
    (run / "recipe.yaml").write_text(attack, encoding="utf-8")
    tags, text = parsed(page_of(run))
    assert not {tag for tag, _ in tags} & {"script", "img"}
    assert text.count(attack) >= 14


def test_chinese_text_and_its_line_breaks_are_intact(tmp_path: Path) -> None:
    html = page_of(make_run(tmp_path, samples=[SAMPLE]))
    tags, text = parsed(html)
    assert ".text { white-space: pre-wrap; }" in html
    for key in ("question", "reference_reasoning", "reference_answer", "reasoning", "answer"):
        assert SAMPLE[key] in text
    assert ("meta", {"charset": "utf-8"}) in tags


def test_the_page_asks_for_nothing_outside_itself(tmp_path: Path) -> None:
    html = page_of(make_run(tmp_path, environment={"model": "Qwen/Qwen3-1.7B"}, data=ACCOUNT, samples=[SAMPLE]))
    fetching = {"src", "srcset", "data", "action", "poster", "background", "xlink:href"}
    for tag, attributes in parsed(html)[0]:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        assert not fetching & attributes.keys()
        assert (attributes.get("href") or "#").startswith("#")
    assert not re.search(r"url\(|@import|https?://", html)
    assert "default-src 'none'" in html


def test_every_row_read_is_accounted_for_or_named_as_lost(tmp_path: Path) -> None:
    text = text_of(tmp_path, data=ACCOUNT)
    assert "Training 215 Validation 23 Dropped: too_long 3 Read 241" in text
    assert "215 + 23 + 3 = 241 rows read" in text
    assert "too_long: 3 rows dropped, policy drop rows.jsonl:17: 3151 tokens" in text
    assert "no_reasoning: 7 rows kept, policy keep rows.jsonl:40: empty" in text
    assert "prompt 61 55 120 310" in text
    assert "Over 1024 tokens 22 rows" in text
    lost = text_of(tmp_path / "lost", data=ACCOUNT | {"rows_read": 250})
    assert "Unaccounted for 9" in lost
    assert "215 + 23 + 3 ≠ 250 rows read" in lost


def test_the_best_step_is_ringed_and_named_and_a_later_rise_is_told(tmp_path: Path) -> None:
    html = page_of(make_run(tmp_path, metrics=evals({10: 2.5, 20: 1.75, 30: 2.25})))
    marker = re.findall(r'class="marker eval" cx="(\S+)" cy="(\S+)" r="4"><title>eval, step 20: 1.75<', html)
    ring = re.findall(r'class="ring" cx="(\S+)" cy="(\S+)" r="9"><title>best: step 20, 1.75<', html)
    assert marker == ring != []
    assert "Best at step 20, with an eval loss of 1.750, down from 2.500 at step 10." in words(html)
    assert "has risen to 2.250 since" in words(html)


def test_the_base_model_is_never_the_best_step_and_a_loss_that_still_falls_is_not_memorising(tmp_path: Path) -> None:
    text = text_of(tmp_path, metrics=evals({0: 1.0, 10: 3.0, 20: 2.0}))
    assert "Best at step 20, with an eval loss of 2.000, up from 1.000 before training." in text
    assert "has risen" not in text


@pytest.mark.parametrize(("steps", "state"), [(40, "State not yet finished"), (20, "State finished")])
def test_the_state_follows_from_the_planned_steps(tmp_path: Path, steps: int, state: str) -> None:
    text = text_of(tmp_path, environment={"steps": steps}, metrics=trained(20))
    assert state in text
    assert f"Last step 20 of {steps}" in text


def test_of_records_that_repeat_a_step_the_last_counts_and_steps_are_in_order(tmp_path: Path) -> None:
    again = {"kind": "train", "step": 2, "loss": 9.0}
    facts = report.read(make_run(tmp_path, metrics=[*trained(1, 3, 2), again]))
    assert [record["step"] for record in facts.train] == [1, 2, 3]
    assert facts.train[1] == again


def test_train_loss_is_smoothed_beside_the_raw_line_only_when_there_are_many_records(tmp_path: Path) -> None:
    few = page_of(make_run(tmp_path / "few", metrics=trained(*range(1, 51))))
    many = page_of(make_run(tmp_path / "many", metrics=trained(*range(1, 52))))
    assert "train, smoothed" not in few
    assert "train, each record train, smoothed" in words(many)


def test_a_vertical_line_ends_every_epoch_but_the_last(tmp_path: Path) -> None:
    html = page_of(make_run(tmp_path, metrics=trained(*range(1, 31))))
    assert re.findall(r'vertical-name"[^>]*>(epoch \d+)<', html) == ["epoch 1", "epoch 2"]


def test_samples_stand_together_by_question_with_the_newest_step_first(tmp_path: Path) -> None:
    other = SAMPLE | {"row": "val.jsonl:4", "question": "别的问题"}
    text = text_of(tmp_path, samples=[SAMPLE, other, SAMPLE | {"step": 30}, SAMPLE | {"step": 10}])
    assert text.count("夜间咳嗽？") == 1
    assert text.index("Step 30") < text.index("Step 20") < text.index("Step 10") < text.index("别的问题")


def test_reasoning_is_folded_apart_from_the_answer_and_faults_of_a_sample_are_badged(tmp_path: Path) -> None:
    good = page_of(make_run(tmp_path / "good", samples=[SAMPLE]))
    cut = page_of(make_run(tmp_path / "cut", samples=[SAMPLE | {"finish": "length", "reasoning_closed": False}]))
    folded = re.search(r"<summary>reasoning</summary>(.*?)</details>(.*?)</div>", good, re.DOTALL)
    assert folded
    assert "三周属于亚急性" in folded[1]
    assert "排除肺结核" in folded[2]
    assert "Step 20 · 123 tokens" in words(good)
    assert 'class="badge"' not in good
    assert cut.count('class="badge"') == 2


def test_the_command_that_repeats_the_run_is_shown_once_and_alone(tmp_path: Path) -> None:
    html = page_of(make_run(tmp_path, environment={"command": "thinktune train a.yaml", "memory_gib": 1.5}))
    assert re.search(r"<pre[^>]*>thinktune train a.yaml</pre>", html)
    assert html.count("thinktune train a.yaml") == 1
    assert "memory gib 1.5" in words(html)


@pytest.mark.parametrize("broken", ["report._render", "files.os.fsync", "files.Path.replace"])
def test_a_failure_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    run = make_run(tmp_path)
    old = page_of(run)
    before = sorted(run.iterdir())
    monkeypatch.setattr(f"thinktune.{broken}", Mock(side_effect=RuntimeError("planted")))
    (run / "recipe.yaml").write_text("name: changed\n", encoding="utf-8")
    with pytest.raises(RuntimeError, match="planted"):
        report.write(run)
    assert (run / "report.html").read_text(encoding="utf-8") == old
    assert sorted(run.iterdir()) == before


def drawn_places(svg: str) -> list[Point]:
    drawing = svg.partition('class="plot"')[2]
    paths = " ".join(re.findall(r'<path class="line [^"]*" d="([^"]*)"', drawing))
    places = [place.split() for place in re.split("[ML]", paths) if place.strip()]
    return [(float(x), float(y)) for x, y in [*places, *re.findall(r'<circle [^>]*cx="(.*?)" cy="(.*?)"', drawing)]]


@given(points, st.booleans())
def test_every_finite_point_is_drawn_inside_the_view_box(series: list[Point], y_from_zero: bool) -> None:
    line, marks = Series("a", series, "train", has_markers=True), Marks(ring=series[0])
    places = drawn_places(line_chart([line], title="", x_label="", y_label="", marks=marks, y_from_zero=y_from_zero))
    assert len(places) == max(len(series), 2) + len(series) + 1
    assert all(0 <= x <= 640 and 0 <= y <= 280 for x, y in places)


@example(3.2, 3.5000000000000004, 4)  # both divide to a whole number that is a hair inside the data
@example(-3.2, -3.5000000000000004, 4)
@given(finite, finite, st.integers(min_value=2, max_value=8))
def test_ticks_cover_the_data_evenly_in_a_readable_number(one: float, other: float, count: int) -> None:
    low, high = sorted((one, other))
    made = ticks(low, high, count)
    assert made[0] <= low <= high <= made[-1]
    assert all(first < second for first, second in pairwise(made))
    assert 2 <= len(made) <= count + 3


def test_ticks_are_round_numbers() -> None:
    assert ticks(0, 4.1, 4) == [0, 2, 4, 6]
    assert ticks(0, 2e-4, 4) == pytest.approx([0, 5e-5, 1e-4, 1.5e-4, 2e-4])


@given(points)
def test_smoothing_keeps_the_steps_and_stays_within_the_data(series: list[Point]) -> None:
    smooth = smoothed(series)
    values = [y for _, y in series]
    slack = 1e-9 * max(map(abs, values))
    assert [x for x, _ in smooth] == [x for x, _ in series]
    assert all(min(values) - slack <= y <= max(values) + slack for _, y in smooth)


def test_points_that_are_not_finite_are_left_out_and_counted_and_the_others_stand_in_their_order() -> None:
    series = Series("a", [(1, 2.0), (2, math.nan), (3, math.inf), (4, 1.0)], "train")
    svg = line_chart([series], title="", x_label="", y_label="", y_from_zero=True)
    assert ">0</text>" in svg
    assert "2 points are not finite and not drawn" in svg
    (first_x, high_y), (last_x, low_y) = drawn_places(svg)
    assert first_x < last_x
    assert high_y < low_y  # SVG counts downwards
