"""The report page shows a run's folder safely, completely, and in two languages."""

import base64
import hashlib
import json
import re
from contextlib import nullcontext
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from thinktune.errors import UserError
from thinktune.eval.comparison import compare
from thinktune.report import run_page as report
from thinktune.report import write_comparison
from thinktune.report.run_charts import MAX_EPOCH_MARKS, epoch_marks
from thinktune.run import lock_run

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


VOID = {"meta", "br", "img", "hr", "input", "link", "line", "rect", "circle", "path"}


def parsed(html: str, language: str = "en") -> tuple[list[tuple[str, dict[str, str | None]]], str]:
    """Parse a page as a browser does: its tags with attributes, and the text shown in a language."""
    parser, tags, pieces = HTMLParser(), [], []
    hidden = 0

    def start(tag: str, attributes: list[tuple[str, str | None]]) -> None:
        nonlocal hidden
        found = dict(attributes)
        tags.append((tag, found))
        other = found.get("class") == ("zh" if language == "en" else "en")
        hidden += (hidden > 0 or other) and tag not in VOID
        pieces.append("" if tag == "b" or found.get("class") in ("en", "zh") else " ")

    def end(tag: str) -> None:
        nonlocal hidden
        hidden -= hidden > 0 and tag not in VOID

    parser.handle_starttag, parser.handle_endtag = start, end
    parser.handle_startendtag = lambda tag, attributes: tags.append((tag, dict(attributes)))
    parser.handle_data = lambda text: None if hidden else pieces.append(text)
    parser.feed(re.sub("<(style|script)>.*?</\\1>", "<\\1></\\1>", html, flags=re.DOTALL))
    return tags, "".join(pieces)


def make_run(folder: Path, **parts: Any) -> Path:
    """Write a run folder; `metrics` and `samples` are lists of records, every other part a JSON object."""
    run = folder / "run-1"
    (run / "eval").mkdir(parents=True)
    (run / "recipe.yaml").write_text("name: run-1\n", encoding="utf-8")
    places = {
        "metrics": "metrics.jsonl",
        "samples": "samples.jsonl",
        "losses": "losses.jsonl",
        "evaluation": "eval/report.json",
    }
    for name, value in parts.items():
        text = "".join(json.dumps(line) + "\n" for line in (value if isinstance(value, list) else [value]))
        (run / places.get(name, f"{name}.json")).write_text(text, encoding="utf-8")
    return run


def page_of(run: Path) -> str:
    return report.write_run_page(run).read_text(encoding="utf-8")


def text_of(folder: Path, **parts: Any) -> str:
    return words(page_of(make_run(folder, **parts)))


def words(html: str, language: str = "en") -> str:
    return " ".join(parsed(html, language)[1].split())


def evals(losses: dict[int, float]) -> list[dict[str, Any]]:
    return [{"kind": "eval", "step": step, "loss": loss} for step, loss in losses.items()]


def trained(*steps: int) -> list[dict[str, Any]]:
    return [{"kind": "train", "step": step, "epoch": step / 10, "loss": 3 - step / 100} for step in steps]


def test_a_run_with_only_a_recipe_gives_a_page_that_says_not_yet_for_every_part(tmp_path: Path) -> None:
    text = text_of(tmp_path)
    for file in ("data.json", "environment.json"):
        assert f"Not yet: {file}" in text
    for part in ("rows are listed", "samples are written", "nothing recorded"):
        assert f"Not yet: {part}" in text
    assert "Not yet. It takes a few minutes, once the run is finished: thinktune eval run-1" in text
    assert text.count("Not yet: nothing recorded") == 5
    assert "died at step 0" in text  # only train makes a recipe.yaml, and nobody trains here
    assert "name: run-1" in text


def test_a_fault_of_a_whole_file_is_not_counted_as_a_row(tmp_path: Path) -> None:
    whole = "rows.csv:1: the whole file is GBK, not UTF-8, and was read as GBK"
    fault = {"fault": "encoding", "policy": "repair", "actions": {"repaired": 1}, "examples": [whole]}
    html = page_of(make_run(tmp_path, data=ACCOUNT | {"faults": [fault, *ACCOUNT["faults"]]}))
    assert "encoding: the whole file, policy repair" in words(html)
    assert "编码错误（encoding）：整个文件，处理策略：修复" in words(html, "zh").replace(" ", "")
    assert "too_long: 3 rows dropped, policy" in words(html)


def test_empty_objects_and_records_without_their_keys_give_a_page(tmp_path: Path) -> None:
    bare = [{"kind": kind, "step": 1} for kind in ("train", "eval", "event")]
    parts = {"environment": {}, "data": {"rows_read": 1}, "samples": [{"step": 1}], "evaluation": {"base": None}}
    assert "Last step 1 " in text_of(tmp_path, metrics=bare, **parts)


def test_torn_files_are_named_and_left_out_and_half_a_surrogate_pair_costs_one_character(tmp_path: Path) -> None:
    run = make_run(tmp_path, samples=[SAMPLE | {"answer": "before \ud83d after"}])
    (run / "data.json").write_text('{"rows_read": 24', encoding="utf-8")
    with (run / "samples.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 30, "ques')
    with pytest.raises(UserError, match=r"data\.json: is damaged .*report\.html was written without it"):
        page_of(run)
    page = words((run / "report.html").read_text(encoding="utf-8"))
    assert "Not yet: data.json" in page
    assert "before ? after" in page


def test_markup_in_every_input_is_text(tmp_path: Path) -> None:
    attack = "</pre></details><script>alert('x')</script><img src=x onerror=alert(1)>"
    sample = {key: attack if isinstance(value, str) else value for key, value in SAMPLE.items()}
    fault = {"fault": attack, "policy": "drop", "actions": {"dropped": 1}, "meaning": attack, "examples": [attack]}
    data = ACCOUNT | {"faults": [fault], "ignored": [attack], "shown": [{"row": attack, "pieces": [[1, attack]]}]}
    environment, events = {"command": attack, "model": attack}, [{"kind": "event", "step": 1, "text": attack}]
    run = make_run(tmp_path, environment=environment, data=data, metrics=events, samples=[sample])
    (run / "recipe.yaml").write_text(attack, encoding="utf-8")
    tags, text = parsed(page_of(run))
    assert [tag for tag, _ in tags if tag in ("script", "img")] == ["script"]  # our own
    assert text.count(attack) >= 14


def test_no_secret_of_the_recipe_the_command_or_an_event_is_on_a_page(tmp_path: Path) -> None:
    address, key = "https://me:hunter2@swan.example", "ghp_" + "aB3d" * 9
    environment, events = {"command": f"x {key}", "model": address}, [{"kind": "event", "step": 1, "text": address}]
    runs = [make_run(tmp_path / name, environment=environment, metrics=events) for name in ("a", "b")]
    for number, run in enumerate(runs):
        recipe = f"track: {{host: '{address}', project: {key}}}\ndata: {{name: 'https://u:hunter2@hub/{number}'}}\n"
        (run / "recipe.yaml").write_text(recipe, encoding="utf-8")
    pages = [page_of(run) for run in runs] + [write_comparison(runs).read_text(encoding="utf-8")]
    for page in pages:
        assert "hunter2" not in page
        assert key not in page
    assert "https://me:***@swan.example" in pages[0]
    assert "https://u:***@hub/1" in pages[2]


def test_several_runs_show_how_often_each_switch_was_obeyed(tmp_path: Path) -> None:
    """A row that was trained silent is asked so in both evaluations; the figure of more rows counts."""

    def switch(mode: str, rows: int, obeyed: int) -> dict[str, Any]:
        scores = [{"obeyed": float(row < obeyed)} for row in range(rows)]
        return {"mode": mode, **compare(scores, scores)[0]}

    sampling = {"max_new_tokens": 9, "temperature": 0, "seed": 0, "thinking": True}
    settings = {"sampling": sampling, "budget": "", "longest_trained_reply": 9, "versions": {}, "made": ""}
    one = {"name": "held-out", "rows": 1, "apart": 0, "measures": [], "kinds": []}
    runs = [make_run(tmp_path / name) for name in ("a", "b")]
    for name, asked in ((".", switch("thinking", 30, 27)), ("no-thinking", switch("silent", 40, 10))):
        folder = runs[0] / "eval" / name
        folder.mkdir(exist_ok=True)
        found = {"verdicts": [], "sets": [one], "switches": [asked, switch("silent", 9, 9)], "settings": settings}
        (folder / "report.json").write_text(json.dumps(found), encoding="utf-8")
        (folder / "rows.jsonl").write_text("", encoding="utf-8")
    text = words(write_comparison(runs).read_text(encoding="utf-8"))
    assert "Thinking switch on, obeyed 90.0% –" in text
    assert "Thinking switch off, obeyed 25.0% –" in text
    assert "Of 40 replies (switch off (does not reason)), 9 replies" in words(page_of(runs[0]))


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
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert not fetching & attributes.keys()
        assert (attributes.get("href") or "#").startswith("#")
    assert not re.search(r"url\(|@import|https?://", html)
    scripts = re.findall("<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert len(scripts) == 1
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in html


def test_every_row_read_is_accounted_for_or_named_as_lost(tmp_path: Path) -> None:
    text = text_of(tmp_path, data=ACCOUNT)
    assert "Training 215 Validation 23 Dropped: too_long 3 Read 241" in text
    assert "215 + 23 + 3 = 241 rows read" in text
    assert "too_long: 3 rows dropped, policy drop the row has more than data.max_tokens tokens" in text
    assert "rows.jsonl:17: 3151 tokens no_reasoning: 7 rows kept, policy keep the reasoning is empty" in text
    assert "prompt 61 55 120 310" in text
    assert "Over 1024 tokens 22 rows" in text
    chinese = words(page_of(make_run(tmp_path / "zh", data=ACCOUNT)), "zh")
    assert "超长（too_long）：丢弃 3 行，处理策略：丢弃（drop） 这一行超过 data.max_tokens 个 token" in chinese
    lost = text_of(tmp_path / "lost", data=ACCOUNT | {"rows_read": 250})
    assert "Unaccounted for 9" in lost
    assert "215 + 23 + 3 ≠ 250 rows read" in lost


def test_the_best_step_is_ringed_and_named_and_a_later_rise_is_told(tmp_path: Path) -> None:
    html = page_of(make_run(tmp_path, metrics=evals({10: 2.5, 20: 1.75, 30: 2.25, 40: 2.3})))
    marker = re.findall(r'class="marker eval" cx="(\S+)" cy="(\S+)" r="4"><title>eval, step 20: 1.75<', html)
    ring = re.findall(r'class="ring" cx="(\S+)" cy="(\S+)" r="9"><title>best: step 20, 1.75<', html)
    assert marker == ring != []
    assert "Best at step 20, with an eval loss of 1.750, down from 2.500 at step 10." in words(html)
    assert "Overfitting since step 20 Best at step 20" in words(html)
    assert "The eval loss has risen from 1.750 at step 20 to 2.300, which is more than chance explains." in words(html)
    assert "自第 20 步起过拟合 最好的是第 20 步，验证 loss 1.750" in words(html, "zh")


@pytest.mark.parametrize("losses", [{0: 1.0, 10: 3.0, 20: 2.0}, {0: 7.047, 24: 422.899}, {0: 1.0, 10: 1.001}])
def test_a_run_that_is_never_below_its_base_is_not_praised(tmp_path: Path, losses: dict[int, float]) -> None:
    html = page_of(make_run(tmp_path, metrics=evals(losses)))
    state = "No better than" if losses == {0: 1.0, 10: 1.001} else "Worse than"
    assert re.search(rf'<span class="state (worse|no_gain)"><span class="en">{state} the base model<', html)
    for praise in ("Best at", "Still learning", "At its best", "Let it continue", "more epochs are likely"):
        assert praise not in words(html)
    for praise in ("最好的是第", "仍在学习", "已到最低点", "增加轮数"):
        assert praise not in words(html, "zh")
    assert f"The eval loss was {losses[0]:.3f} before training" in words(html)
    assert f"<title>best: step 0, {losses[0]:g}<" in html, "the base model is the best one, and ringed"


@pytest.mark.parametrize(("losses", "name"), [({0: 3.0, 10: 4.0}, "Worse than the"), ({0: 3.0, 10: 2.0}, "Still learning")])  # fmt: skip
def test_red_is_for_what_is_bad(tmp_path: Path, losses: dict[int, float], name: str) -> None:
    html = page_of(make_run(tmp_path, metrics=evals(losses)))
    state = re.search(rf'<span class="state (\w+)"><span class="en">{name}', html)
    assert state
    red = re.search(r"([^}]+)\{ background: var\(--badge\); color: var\(--bad\)", html.split("</style>")[0])
    assert red
    assert (f".state.{state[1]}" in red[1]) == (name == "Worse than the")


def ended(step: int, state: str, reason: str) -> dict[str, Any]:
    return {"kind": "event", "step": step, "text": f"{state}: {reason}", "ending": state, "reason": reason}


@pytest.mark.parametrize("steps", [20, 40])
def test_running_stopped_died_and_finished_are_told_apart(tmp_path: Path, steps: int) -> None:
    facts = {"environment": {"steps": steps}}
    learning = [*evals({0: 3.0, 10: 2.0}), *trained(20)]
    killed = make_run(tmp_path / "killed", metrics=learning, **facts)
    stopped = make_run(tmp_path / "stopped", metrics=[*learning, ended(20, "stopped", "SIGTERM")], **facts)
    failed = make_run(tmp_path / "failed", metrics=[*learning, ended(20, "died", "no gradient is finite")], **facts)
    finished = make_run(tmp_path / "finished", metrics=learning, **facts)
    (finished / "final").mkdir()
    with lock_run(killed):
        running = page_of(killed)
    text = {name: words(page_of(run)) for name, run in (("killed", killed), ("stopped", stopped), ("failed", failed), ("finished", finished))}  # fmt: skip
    assert "State running Last step 20" in words(running)
    assert "State died at step 20 Last step 20" in text["killed"]
    assert f"Died at step 20 of {steps} without a message: it was killed, or the machine went down." in text["killed"]
    assert "State stopped at step 20 Last step 20" in text["stopped"]
    assert f"Stopped at step 20 of {steps}: SIGTERM. Run the same command to resume" in text["stopped"]
    assert f"Died at step 20 of {steps}: no gradient is finite. Run the same command" in text["failed"]
    assert f"State {'finished' if steps == 20 else 'stopped early, finished'} Last step 20" in text["finished"]
    assert "Let it continue; if the run ends like this, more epochs" in words(running)
    assert "Resume it; if the run ends like this, more epochs" in text["killed"]
    assert "More epochs are likely to help: start a new run" in text["finished"]
    assert "Let it continue" not in "".join(text.values())
    assert "继续训练即可" not in words(page_of(finished), "zh")
    assert "在第 20 步停止" in words(page_of(stopped), "zh")
    assert "在第 20 步中断" in words(page_of(killed), "zh")


def test_a_run_that_resumes_is_running_though_its_last_line_is_of_a_stop(tmp_path: Path) -> None:
    run = make_run(tmp_path, metrics=[*trained(20), ended(20, "stopped", "SIGTERM")])
    with lock_run(run):
        assert "State running" in words(page_of(run))


def test_a_finished_run_without_held_out_rows_is_not_told_to_wait(tmp_path: Path) -> None:
    run = make_run(tmp_path, metrics=trained(20), environment={"steps": 20})
    (run / "final").mkdir()
    text = words(page_of(run))
    assert "Not evaluated No row was held out, so nothing shows whether the model is better than its base." in text
    assert "no trained step has been evaluated" not in text


def test_of_records_that_repeat_a_step_the_last_counts_and_steps_are_in_order(tmp_path: Path) -> None:
    again = {"kind": "train", "step": 2, "loss": 9.0}
    facts = report.read_run(make_run(tmp_path, metrics=[*trained(1, 3, 2), again]))
    assert [record["step"] for record in facts.train] == [1, 2, 3]
    assert facts.train[1] == again


def test_train_loss_is_smoothed_beside_the_raw_line_only_when_there_are_many_records(tmp_path: Path) -> None:
    few = page_of(make_run(tmp_path / "few", metrics=trained(*range(1, 51))))
    many = page_of(make_run(tmp_path / "many", metrics=trained(*range(1, 52))))
    assert "train, smoothed" not in few
    assert "train, each record train, smoothed" in words(many)


def test_a_vertical_line_ends_every_epoch_but_the_last(tmp_path: Path) -> None:
    html = page_of(make_run(tmp_path, metrics=trained(*range(1, 31))))
    assert re.findall(r'vertical-name"[^>]*><tspan class="en">(epoch \d+)<', html) == ["epoch 1", "epoch 2"]


def test_samples_stand_together_by_question_with_the_newest_step_first(tmp_path: Path) -> None:
    other = SAMPLE | {"row": "val.jsonl:4", "question": "别的问题"}
    text = text_of(tmp_path, samples=[SAMPLE, other, SAMPLE | {"step": 30}, SAMPLE | {"step": 10}])
    assert text.count("夜间咳嗽？") == 1
    assert text.index("Step 30") < text.index("Step 20") < text.index("Step 10") < text.index("别的问题")


def test_the_sample_shown_first_is_of_the_step_that_is_kept_and_says_where_it_was_cut(tmp_path: Path) -> None:
    cut = SAMPLE | {"finish": "length", "limit_tokens": 32}
    measured = [*trained(10, 20, 30), *evals({0: 3.0, 10: 2.5, 20: 2.0, 30: 2.9})]
    text = text_of(tmp_path, metrics=measured, samples=[cut | {"step": step} for step in (10, 20, 30)])
    shown = text[text.index("夜间咳嗽？") :]
    assert shown.index("Step 20") < shown.index("Step 30") < shown.index("Step 10")
    assert "cut after 32 tokens" in shown
    assert "They are cut short to save time" in text


def test_reasoning_is_folded_apart_from_the_answer_and_faults_of_a_sample_are_badged(tmp_path: Path) -> None:
    good = page_of(make_run(tmp_path / "good", samples=[SAMPLE]))
    bad = SAMPLE | {"finish": "length", "reasoning_closed": False, "sampling": "own", "repetition": 0.75}
    cut = page_of(make_run(tmp_path / "cut", samples=[bad]))
    folded = re.search(r"<summary>[^/]*reasoning.*?</summary>(.*?)</details>(.*?)</div>", good, re.DOTALL)
    assert folded
    assert "三周属于亚急性" in folded[1]
    assert "排除肺结核" in folded[2]
    assert 'class="badge"' not in good
    assert cut.count('class="badge"') == 3
    assert "Step 20 · 123 tokens sampled cut short reasoning not closed repeats itself (75 %)" in words(cut)


def test_the_command_that_repeats_the_run_is_shown_once_and_alone(tmp_path: Path) -> None:
    html = page_of(make_run(tmp_path, environment={"command": "thinktune train a.yaml", "memory_gib": 1.5}))
    assert re.search(r"<code[^>]*>thinktune train a.yaml</code>", html)
    assert html.count("thinktune train a.yaml") == 1
    assert "memory gib 1.5" in words(html)


@pytest.mark.parametrize("broken", ["report.html.render_page", "files.os.fsync", "files.Path.replace"])
def test_a_failure_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    run = make_run(tmp_path)
    old = page_of(run)
    before = sorted(run.iterdir())
    monkeypatch.setattr(f"thinktune.{broken}", Mock(side_effect=RuntimeError("planted")))
    (run / "recipe.yaml").write_text("name: changed\n", encoding="utf-8")
    with pytest.raises(RuntimeError, match="planted"):
        report.write_run_page(run)
    assert (run / "report.html").read_text(encoding="utf-8") == old
    assert sorted(run.iterdir()) == before


def test_the_hardest_rows_and_those_known_by_heart_are_listed_at_the_best_step(tmp_path: Path) -> None:
    losses = {f"val.jsonl:{n}": [n / 10, 40] for n in range(1, 21)} | {"val.jsonl:99": [0.01, 7]}
    before = {"step": 0, "rows": {row: [5.0, tokens] for row, (_, tokens) in losses.items()}}
    run = make_run(tmp_path, metrics=evals({0: 5.0, 10: 1.0}), losses=[before, {"step": 10, "rows": losses}])
    text = words(page_of(run))
    assert (
        "Hardest rows Row Loss Before training Probability per token Tokens val.jsonl:20 2.000 5.000 13.5 % 40" in text
    )
    assert (
        "Memorized rows Row Loss Before training Probability per token Tokens val.jsonl:99 0.010 5.000 99.0 % 7" in text
    )
    assert "val.jsonl:12 1.200" not in text  # only the first few
    assert "val.jsonl:2 " not in text  # 82 % per token is not memorized


@pytest.mark.parametrize("running", [True, False])
def test_a_page_refreshes_itself_only_while_its_run_goes_on(tmp_path: Path, running: bool) -> None:
    run = make_run(tmp_path, environment={"steps": 40}, metrics=trained(20))
    with lock_run(run) if running else nullcontext():
        html, refreshed = page_of(run), running
    assert ('data-refresh="30"' in html) == refreshed
    assert ("http-equiv" in html and '"refresh"' in html) == refreshed


def test_every_text_stands_in_both_languages(tmp_path: Path) -> None:
    full = page_of(
        make_run(tmp_path, metrics=[*trained(10, 20), *evals({0: 3.0, 10: 2.0})], data=ACCOUNT, samples=[SAMPLE])
    )
    tags, _ = parsed(full)
    pairs = [
        found.get("class") for tag, found in tags if found.get("class") in ("en", "zh") and tag in ("span", "tspan")
    ]
    assert pairs.count("en") == pairs.count("zh") >= 80
    assert ("学习率" in words(full, "zh"), "学习率" in words(full, "en")) == (True, False)


def test_a_recipe_of_several_sources_stands_beside_one_of_one_setting_by_setting(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in ("one", "two")]
    recipes = (
        "data: {name: own.jsonl, max_tokens: 512}\nexpert: {split: hash, log_every_steps: 5}\n",
        "data: [{name: own.jsonl, max_tokens: 700, split: shuffle}, {name: other.jsonl, share: 0.3}]\n",
    )
    for run, recipe in zip(runs, recipes, strict=True):
        (run / "recipe.yaml").write_text(recipe, encoding="utf-8")
    text = words(write_comparison(runs).read_text(encoding="utf-8"))
    for row in ("data.0.max_tokens 512 700", "data.0.split hash shuffle", "data.1.share – 0.3"):
        assert row in text
    assert "data.0.name" not in text  # which both have
    assert "{" not in text.partition("data.0.max_tokens")[2].partition("data.1.share")[0]


def test_a_run_that_goes_on_marks_the_epochs_of_its_whole_plan():
    """So that names of epochs do not crowd at the beginning of a long axis, and stay where they are."""
    begun, done = ([{"step": step, "epoch": step / 10, "loss": 1.0} for step in (1, last)] for last in (60, 400))
    assert epoch_marks(begun, 400) == epoch_marks(done, 400) == epoch_marks(done)
    assert len(epoch_marks(begun, 400)) <= MAX_EPOCH_MARKS
