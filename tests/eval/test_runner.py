"""Evaluation of a real small run: resumed after a kill, and scored again without a model, with the same report."""

import json
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file, save_file
from support.card_locks import is_cpu_in_use
from support.chat_server import DONE, part, refuse, reply, serving, usage
from support.runs import quiet, settings, write_rows

from thinktune.checkpoint.manifest import write_manifest
from thinktune.checkpoint.store import model_step
from thinktune.errors import UserError
from thinktune.eval import runner
from thinktune.eval.completion_store import RecordWriter, model_fingerprint, read_records
from thinktune.eval.general_probe import probe_tasks
from thinktune.eval.runner import EvalOptions, evaluate_run, rescore_run
from thinktune.eval.workload import Asked, measure_workload
from thinktune.inference import openai_client
from thinktune.report import write_run_page
from thinktune.report.run_page import read_run
from thinktune.run import RunFolder
from thinktune.run.card_lock import hold_cards
from thinktune.tokenization import read_tokenizer
from thinktune.train.loop import train


@pytest.fixture(scope="module")
def finished(tmp_path_factory, start):
    """Train a small run and evaluate it with a file of tasks, one of whose questions was trained on."""
    folder = tmp_path_factory.mktemp("evaluated")
    rows = write_rows(folder / "rows.jsonl")
    tree = {
        "name": "small",
        "runs_folder": str(folder / "runs"),
        "model": {"name": str(start)},
        "data": {"name": str(rows), "columns": {"reasoning": "think"}, "validation": 0.4, "max_tokens": 200},
        "train": {"rows_per_step": 2, "epochs": 1, "learning_rate": 1e-3},
        "generate": {"max_new_tokens": 12, "sample_questions": 0, "evaluate_tokens": 12},
    }
    run = train(settings(tree), quiet)
    trained = json.loads(rows.read_text(encoding="utf-8").splitlines()[0])["question"]
    tasks = [{"question": "6 x 7?", "answer": "42"}, {"question": "Is it?", "choices": ["yes", "no"], "answer": "B"}]
    tasks += [
        {"question": json.loads(line)["question"], "answer": "x"}
        for line in rows.read_text(encoding="utf-8").splitlines()
    ]
    lines = [json.dumps({"choices": None, "keypoints": None} | task) for task in tasks]
    (folder / "own.jsonl").write_text("\n".join(lines), encoding="utf-8")
    options = EvalOptions(tasks=(folder / "own.jsonl",), probe=False, thinking=True)
    found = evaluate_run(run, quiet, options)
    return run, options, found, trained


@pytest.fixture
def evaluated(finished, tmp_path):
    run, options, found, _ = finished
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run", options, found


def files_of(run):
    return {name: (run / "eval" / name).read_bytes() for name in ("report.json", "rows.jsonl")}


def measures(found, number=0):
    return {row["measure"]: row for row in found["sets"][number]["measures"]}


def test_the_report_has_losses_format_and_content_with_intervals(finished):
    _, _, found, _ = finished
    held_out, own = found["sets"]
    assert (held_out["name"], own["name"]) == ("held-out", "own")
    known = measures(found)
    assert {"loss", "reasoning_loss", "answer_loss", "end_loss", "well_formed", "ended", "cut", "tokens"} <= set(known)
    for row in known.values():
        for side in ("base", "tuned", "difference"):
            assert row[side]["low"] <= row[side]["value"] <= row[side]["high"]
    assert known["tokens"]["base"]["value"] <= 12
    assert found["verdicts"][0].startswith("held-out: ")
    assert found["settings"]["sampling"] == {"max_new_tokens": 12, "temperature": 0.0, "seed": 0, "thinking": True}
    assert {"torch", "sacrebleu", "rouge-score"} <= set(found["settings"]["versions"])


def test_the_loss_is_the_one_that_training_reports(finished):
    run, _, found, _ = finished
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    evals = [line for line in lines if line["kind"] == "eval"]
    best = min(evals[1:], key=lambda line: line["loss"])
    for name in ("loss", "reasoning_loss", "answer_loss", "end_loss"):
        assert measures(found)[name]["base"]["value"] == pytest.approx(evals[0][name], rel=1e-4)
        assert measures(found)[name]["tuned"]["value"] == pytest.approx(best[name], rel=1e-4)


def test_questions_that_were_trained_on_are_excluded(finished):
    _, _, found, _ = finished
    own = found["sets"][1]
    trained = found["settings"]["apart"]
    assert own["apart"] == len(trained) >= 3
    assert own["rows"] + own["apart"] == 10
    assert all(seen["set"] == "own" for seen in trained)


def test_grading_again_gives_the_same_report_without_a_model(evaluated):
    run, _, found = evaluated
    before = files_of(run)
    shutil.rmtree(run / "final")
    shutil.rmtree(run / "checkpoints")
    assert rescore_run(run) == found
    assert files_of(run) == before


def test_blind_votes_of_the_chat_page_are_in_the_report(evaluated):
    run, _, found = evaluated
    step = model_step(run / "final")
    assert step
    votes = [{"id": f"vote-{n:04}", "preferred": "tuned", "question": "Why?", "step": step} for n in range(6)]
    RunFolder(run).votes.write_text("".join(json.dumps(vote) + "\n" for vote in votes), encoding="utf-8")
    report = rescore_run(run)
    counted = report.pop("votes")
    assert report == found
    assert (counted["tuned"], counted["votes"], counted["earlier"]) == (6, 6, 0)
    assert "6 of 6" in write_run_page(run).read_text(encoding="utf-8")


def test_saved_replies_are_not_generated_again(evaluated, monkeypatch):
    run, options, found = evaluated
    monkeypatch.setattr(runner, "load_engine", None)  # nothing is missing, so no model is loaded
    again = evaluate_run(run, quiet, options)
    assert again["sets"] == found["sets"]


def test_a_killed_evaluation_resumes_to_the_same_report(evaluated, monkeypatch):
    run, options, found = evaluated
    file = run / "eval" / "tuned" / "completions.jsonl"
    whole = file.read_bytes()
    shutil.rmtree(run / "eval")

    class Killed(BaseException):
        pass

    real_add = RecordWriter.add
    written = []

    def add(writer, record):
        if len(written) == 14:  # in the middle of the second model
            writer._file.write('{"key": "torn')
            raise Killed
        written.append(record)
        real_add(writer, record)

    with monkeypatch.context() as patched:
        patched.setattr(RecordWriter, "add", add)
        with pytest.raises(Killed):
            evaluate_run(run, quiet, options)
    assert len(read_records(file)) == 14 - len(read_records(run / "eval" / "base" / "completions.jsonl"))
    again = evaluate_run(run, quiet, options)
    assert again["sets"] == found["sets"]
    assert sorted(read_records(file)) == sorted({json.loads(line)["key"] for line in whole.splitlines()})


def test_another_budget_or_model_is_another_reply(evaluated):
    run, options, _ = evaluated
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("evaluate_tokens: 12", "evaluate_tokens: 3"))
    found = evaluate_run(run, quiet, options)
    assert measures(found)["tokens"]["base"]["value"] <= 3
    folder = run / "final"
    before = model_fingerprint(folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert model_fingerprint(folder) != before


def test_an_evaluation_without_thinking_has_its_own_folder(evaluated):
    run, _, _ = evaluated
    before = files_of(run)
    held = {}
    found = evaluate_run(
        run, lambda line: held.setdefault(line[:5], is_cpu_in_use()), EvalOptions(probe=False, thinking=False)
    )
    assert held["base:"], "who waits for the card sees an evaluation"
    assert held["tuned"]
    assert not is_cpu_in_use()
    assert found["settings"]["sampling"]["thinking"] is False
    assert files_of(run) == before
    assert rescore_run(run, thinking=False) == found
    write_run_page(run)
    assert "without thinking" in (run / "report.html").read_text(encoding="utf-8")


def test_both_modes_are_evaluated_and_each_switch_is_counted(finished, tmp_path, monkeypatch):
    run, options, alone, _ = finished
    shutil.copytree(run, tmp_path / "run")
    run, loaded = tmp_path / "run", []
    real_load = runner.load_engine
    monkeypatch.setattr(runner, "load_engine", lambda *a, **k: loaded.append(a) or real_load(*a, **k))
    found = evaluate_run(run, quiet, replace(options, thinking=None))
    assert len(loaded) == 2  # each model once, and only for the replies without thinking
    assert {name: value for name, value in found.items() if name not in ("silent", "settings")} == {
        name: value for name, value in alone.items() if name != "settings"
    }
    silent = found["silent"]
    assert silent["settings"]["sampling"]["thinking"] is False
    assert [each["rows"] for each in silent["sets"]] == [each["rows"] for each in found["sets"]]
    [on], [off] = found["switches"], silent["switches"]
    assert (on["mode"], off["mode"]) == ("thinking", "silent")
    for report, switch in ((found, on), (silent, off)):
        folder = run / "eval" if report is found else run / "eval" / "no-thinking"
        rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
        counted = [row for row in rows if not row["apart"]]
        for side in ("base", "tuned"):
            reasons = [bool(row[side]["reasoning"].strip()) for row in counted]
            tagged = [any(tag in row[side]["answer"] for tag in ("<think>", "</think>")) for row in counted]
            hits = (
                sum(reasons) if report is found else sum(not r and not t for r, t in zip(reasons, tagged, strict=True))
            )
            assert switch["rows"] == len(counted)
            assert switch[side]["value"] == pytest.approx(hits / len(counted))
            assert switch[side]["low"] <= switch[side]["value"] <= switch[side]["high"]
    assert found["verdicts"][-1].startswith("switch on (reasons): ")
    assert silent["verdicts"][-1].startswith("switch off (does not reason): ")
    assert rescore_run(run) == found
    html = write_run_page(run).read_text(encoding="utf-8")
    assert html.count("Switches obeyed") == 2
    assert read_run(run).evaluation["silent"] == silent


def test_a_row_trained_silent_is_asked_silently_and_its_reply_serves_both_modes(tree, monkeypatch):
    file = Path(tree["data"]["name"])
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rows = [
        row if n % 2 else row | {"question": row["question"] + " /no_think", "think": ""} for n, row in enumerate(rows)
    ]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    own = file.with_name("own.jsonl")
    shutil.copyfile(file, own)
    data = {"validation": str(own), "faults": {"leak": "keep"}, "columns": {"reasoning": "think"}}
    run = train(settings(tree, data=data, train={"epochs": 1}, generate={"sample_questions": 0}), quiet)
    asked = []
    real = runner._generate_replies

    def generate(evaluation, side, missing, *rest):
        asked.append((side, evaluation.settings.sampling.thinking, len(missing)))
        real(evaluation, side, missing, *rest)

    monkeypatch.setattr(runner, "_generate_replies", generate)
    found = evaluate_run(run, quiet, EvalOptions(probe=False))
    assert asked == [(side, thinking, 8 if thinking else 4) for side in ("base", "tuned") for thinking in (True, False)]
    keys = [set(read_records(run / "eval" / name / "completions.jsonl")) for name in ("base", "no-thinking/base")]
    assert (len(keys[0]), len(keys[1]), len(keys[0] & keys[1])) == (8, 8, 4)
    assert rescore_run(run) == found


def test_one_mode_is_evaluated_where_the_template_or_a_server_may_have_no_switch(evaluated):
    run, options, _ = evaluated
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}"
        "\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    lines = []
    assert runner._modes(replace(options, thinking=None), templated(run / "final", template), lines.append) == (True,)
    assert lines == ["the chat template has no switch for thinking: there is one mode to evaluate"]
    both, served = (
        replace(options, thinking=None),
        replace(options, thinking=None, endpoints={"base": "a", "tuned": "b"}),
    )
    tokenizer = read_tokenizer(run / "final")
    assert runner._modes(both, tokenizer, quiet) == (True, False)
    assert runner._modes(served, tokenizer, quiet) == (True,)
    assert runner._modes(replace(served, thinking=False), tokenizer, quiet) == (False,)


def templated(folder, template):
    tokenizer = read_tokenizer(folder)
    tokenizer.chat_template = template
    return tokenizer


def test_missing_replies_and_wrong_options_are_reported(evaluated):
    run, _, _ = evaluated
    (run / "eval" / "tuned" / "completions.jsonl").unlink()
    with pytest.raises(UserError, match=r"\d+ of \d+ replies are missing"):
        rescore_run(run)
    shutil.rmtree(run / "eval")
    with pytest.raises(UserError, match="holds no saved replies"):
        rescore_run(run)
    with pytest.raises(UserError, match="--endpoint: name both"):
        evaluate_run(run, quiet, EvalOptions(endpoints={"base": "http://127.0.0.1:1/v1"}))


def test_an_evaluation_that_loads_no_model_waits_for_no_card(evaluated, monkeypatch):
    run, options, found = evaluated

    def wait(_seconds):
        raise AssertionError("waits")

    monkeypatch.setattr("thinktune.run.card_lock.time", SimpleNamespace(sleep=wait, monotonic=time.monotonic))
    with hold_cards(["cpu"], quiet, wait=True):
        assert evaluate_run(run, quiet, replace(options, wait=True))["sets"] == found["sets"]
        (run / "eval" / "tuned" / "completions.jsonl").unlink()
        with pytest.raises(AssertionError, match="waits"):
            evaluate_run(run, quiet, replace(options, wait=True))


def test_the_page_shows_every_row_and_its_markup_is_text(evaluated):
    run, _, found = evaluated
    attack = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    rows = [json.loads(line) for line in (run / "eval" / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row |= {"question": attack, "references": [attack], "keypoints": [attack], "row": attack, "set": attack}
        row["base"] |= {"reasoning": attack, "answer": attack}
    (run / "eval" / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    changed = found | {"verdicts": [attack]}
    (run / "eval" / "report.json").write_text(json.dumps(changed), encoding="utf-8")
    html = write_run_page(run).read_text(encoding="utf-8")
    assert html.count("<script") == 1  # the page's own
    assert "<img" not in html
    assert html.count('class="read ') == len(rows)
    drawn = sum(len(each["measures"]) for each in found["sets"]) + len(found["switches"])
    assert html.count('<svg class="interval') == drawn


def test_excluded_rows_show_both_models_and_only_rows_with_key_points_are_graded_by_them(tree):
    """An overfitted model answers its own rows; they are excluded from the figures, but shown on the page."""
    rows = [json.loads(line) for line in Path(tree["data"]["name"]).read_text(encoding="utf-8").splitlines()]
    keyed = [row | {"key": row["answer"][:-1].split(" - ")[1] if n < 2 else None} for n, row in enumerate(rows)]
    for name in ("rows.jsonl", "own.jsonl"):
        lines = [json.dumps(row, ensure_ascii=False) for row in keyed]
        Path(tree["data"]["name"]).with_name(name).write_text("\n".join(lines), encoding="utf-8")
    data = {"validation": str(Path(tree["data"]["name"]).with_name("own.jsonl")), "faults": {"leak": "keep"}}
    data["columns"] = {"reasoning": "think", "keypoint": "key"}
    changes = {"rows_per_step": 8, "epochs": 80, "learning_rate": 1e-2, "evaluate_every_steps": 80}
    generate = {"sample_questions": 0, "evaluate_tokens": 40}
    run = train(settings(tree, data=data, train=changes, generate=generate), quiet)
    found = evaluate_run(run, quiet, EvalOptions(probe=False, thinking=True))
    [held_out] = found["sets"]
    assert (held_out["rows"], held_out["apart"]) == (0, 8)
    shown = [json.loads(line) for line in (run / "eval" / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    graded = 2 * [(True, "keypoints")] + 6 * [(True, "short")]
    assert [(row["apart"], row["grader"]) for row in shown] == graded
    scores = [row[side]["scores"] for row in shown for side in ("base", "tuned")]
    assert [found["right"] for found in scores] == 8 * [0, 1]
    assert [found.get("keypoint_recall") for found in scores] == [0, 1, 0, 1] + 12 * [None]
    assert all(row["tuned"]["answer"] == kept["answer"] for row, kept in zip(shown, keyed, strict=True))
    assert not any(row["base"]["answer"] == row["tuned"]["answer"] for row in shown)
    assert measures(found)["loss"]["tuned"]["value"] < 0.1 < measures(found)["loss"]["base"]["value"]
    write_run_page(run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count('class="read ') == 8


def two_models_and_a_judge(state, asked):
    """Reply as base, tuned model or judge; one question of the tuned model fails while `state` says so."""
    text = asked["messages"][-1]["content"]
    if asked["model"] == "judge":
        winner = "1" if text.index("right reply") < text.index("wrong reply") else "2"
        verdict = json.dumps({"reason": "it is right", "winner": winner})
        return reply(part(verdict), part(finish="stop"), usage(9, 4), DONE)
    if state["broken"] and asked["model"] == "tuned" and text.startswith("6 x 7"):
        return refuse(500)
    words = "right reply" if asked["model"] == "tuned" else "wrong reply"
    return reply(part(words, reasoning="because"), part(finish="stop"), usage(5, 3), DONE)


def test_no_reply_is_lost_when_an_endpoint_breaks_and_a_judge_compares_them(evaluated, monkeypatch):
    run, options, _ = evaluated
    monkeypatch.setattr(openai_client, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(openai_client, "MAX_ATTEMPTS", 2)
    state = {"broken": True}

    with serving(partial(two_models_and_a_judge, state), models=("base", "tuned", "judge")) as (url, asked):
        sides = {side: f"{url}/v1#{side}" for side in ("base", "tuned")}
        served = replace(options, endpoints=sides, judge=f"{url}/v1#judge")
        with pytest.raises(UserError, match="500"):
            evaluate_run(run, quiet, served)
        assert len([one for one in asked if one["model"] == "base"]) == 10  # two held-out rows are among the tasks, too
        state["broken"], before = False, len(asked)
        found = evaluate_run(run, quiet, served)
        again = [one["model"] for one in asked[before:]]
        assert again.count("base") == 0
        assert 1 <= again.count("tuned") < 10
        assert again.count("judge") == 24
        count = len(asked)
        assert evaluate_run(run, quiet, served)["sets"] == found["sets"]
        assert len(asked) == count
    assert found["judge"] | {"model": ""} == {
        "model": "",
        "pairs": 12,
        "wins": 12,
        "ties": 0,
        "losses": 0,
        "unread": 0,
        "orders_agreed": 12,
        "prompt_tokens": 216,
        "tokens": 96,
    }
    assert "loss" not in measures(found)
    assert measures(found)["well_formed"]["tuned"]["value"] == 1
    assert measures(found)["preferred"]["difference"]["value"] == 1


def test_a_model_that_can_make_no_reply_ends_the_evaluation_with_an_error(evaluated):
    run, options, _ = evaluated
    weights = load_file(run / "final" / "model.safetensors")
    weights["model.norm.weight"].fill_(3e38)  # finite, and its logits are not
    save_file(weights, run / "final" / "model.safetensors", {"format": "pt"})
    write_manifest(run / "final")
    (run / "eval" / "report.json").unlink()
    with pytest.raises(UserError, match="no finite logits"):
        evaluate_run(run, quiet, options)
    assert not (run / "eval" / "report.json").exists()


def test_a_grader_that_fails_costs_its_row_and_the_report_says_how_many(evaluated):
    run, _, found = evaluated
    assert all(each["ungraded"] == 0 for each in found["sets"])
    tasks = [json.loads(line) for line in (run / "eval" / "tasks.jsonl").read_text(encoding="utf-8").splitlines()]
    broken = next(task for task in tasks if task["set"] == "own" and task["references"] == ["42"])
    broken |= {"grader": "format", "rules": {"pattern": "(x+x+)+y"}}  # takes exponential time
    (run / "eval" / "tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)), encoding="utf-8")
    for side in ("base", "tuned"):
        file = run / "eval" / side / "completions.jsonl"
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for line in lines:
            if line["row"] == broken["source"]:
                line["answer"] = "x" * 5000 if side == "tuned" else "xxxy"
        file.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    again = rescore_run(run)
    before, after = found["sets"][1], again["sets"][1]
    assert (after["ungraded"], after["rows"]) == (1, before["rows"])
    assert "1 row is not graded" in after["verdict"]
    assert after["verdict"] in again["verdicts"]
    assert measures(again, 1)["right"]["rows"] == measures(found, 1)["right"]["rows"] - 1
    assert measures(again, 1)["tokens"]["rows"] == measures(found, 1)["tokens"]["rows"]
    rows = [json.loads(line) for line in (run / "eval" / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    [row] = [row for row in rows if "grader_error" in row["tuned"]]
    assert (row["row"], "grader_error" in row["base"], row["outcome"]) == (broken["source"], False, "")
    assert "TimeoutError" in row["tuned"]["grader_error"]
    html = write_run_page(run).read_text(encoding="utf-8")
    assert "1 row is not graded" in html
    assert "not graded</span>" in html


@pytest.mark.slow
def test_the_general_questions_are_asked_in_both_modes(evaluated):
    run, _, _ = evaluated
    found = evaluate_run(run, quiet, EvalOptions())
    for report in (found, found["silent"]):
        [general] = [scored for scored in report["sets"] if scored["name"] == "general"]
        assert (general["rows"], general["ungraded"]) == (416, 0)
        assert [group["rows"] for group in general["kinds"]] == [52] * 8
        assert [group["rows"] for group in general["languages"]] == [208, 208]
        assert report["settings"]["versions"]["general questions"] == "2"
    assert rescore_run(run) == found


def test_the_workload_that_is_told_before_is_what_is_asked(evaluated, tmp_path):
    run, options, _ = evaluated
    shutil.copytree(run, untouched := tmp_path / "untouched", ignore=shutil.ignore_patterns("eval"))
    both = Asked(tasks=options.tasks, probe=False)
    before = measure_workload(untouched, both)
    assert before.seconds is None, "nothing is known of its speed"
    assert [(one.kind, one.name) for one in before.sets] == [("held-out", "held-out"), ("file", "own")]
    assert measure_workload(run, replace(both, thinking=True)).replies == 0, "all are saved"
    told = measure_workload(run, both)
    assert told.modes == (True, False)
    assert measure_workload(untouched, both, [run]).seconds > told.seconds > 0, (
        "a run of the same model tells its speed"
    )
    asked: list[str] = []
    evaluate_run(run, asked.append, replace(options, thinking=None))
    answered = [int(line.split()[2]) for line in asked if ": answered " in line]
    assert sum(answered) == told.replies
    tasks = [json.loads(line)["set"] for line in (run / "eval/tasks.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {one.name: one.questions for one in before.sets} == {name: tasks.count(name) for name in set(tasks)}
    assert before.replies == 2 * 2 * len(tasks), "at most: held-out questions may be among the file's"
    general = measure_workload(run, Asked())
    assert general.sets[-1].questions == len(probe_tasks()) == general.replies / 4
    (run / "eval/tuned/speed.json").write_text("[]", encoding="utf-8")
    assert measure_workload(run, Asked()).seconds > 0, "the other mode's speed serves"
