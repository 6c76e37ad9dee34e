"""Other tools' benchmarks: what is written on the command line, and files in the tools' own forms read back."""

import json
import os
import shutil
from pathlib import Path

import pytest
from support.hub_client import run as run_python
from support.runs import quiet, settings, small_tree_of

from thinktune.commands import harness
from thinktune.commands.harness import parse_benchmarks
from thinktune.commands.harness_results import _lm_eval_samples, describe_result, read_evalscope, read_lm_eval
from thinktune.errors import UserError
from thinktune.report.exam_section import harness_html
from thinktune.run import RunFolder
from thinktune.train.loop import train


def lm_eval_files(folder, right, samples=True):
    """Write what lm-eval 0.4 writes under --output_path with --log_samples."""
    folder = folder / "base"  # the model's name
    folder.mkdir(parents=True)
    value = sum(right) / len(right)
    results = {"alias": "gsm", "exact_match,none": value, "exact_match_stderr,none": 0.1, "sample_len": len(right)}
    text = json.dumps({"results": {"gsm": results}, "versions": {"gsm": 3}})
    (folder / "results_2026-11-29T10-00-00.000000.json").write_text(text, encoding="utf-8")
    lines = [
        json.dumps({"doc_id": number, "filter": "none", "metrics": ["exact_match"], "exact_match": float(each)})
        for number, each in enumerate(right)
    ]
    if samples:
        name = "samples_gsm_2026-11-29T10-00-00.000000.jsonl"
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def test_lm_eval_is_read_back_paired_by_question(tmp_path):
    lm_eval_files(tmp_path / "base", [0, 0, 1, 0, 0, 1, 0, 0])
    lm_eval_files(tmp_path / "tuned", [1, 1, 1, 1, 1, 0, 1, 1])
    [result] = read_lm_eval("gsm", tmp_path / "base", tmp_path / "tuned")
    assert (result.task, result.measure, result.rows) == ("gsm", "exact_match", 8)
    assert (result.base["value"], result.tuned["value"]) == (0.25, 0.875)
    assert result.difference is not None
    assert result.difference["value"] == 0.625
    assert result.difference["low"] < 0.625 < result.difference["high"]
    assert "0.250 → 0.875" in describe_result(result)


def test_without_samples_the_sides_have_the_tool_s_own_errors_and_no_paired_difference(tmp_path):
    lm_eval_files(tmp_path / "base", [0, 1], samples=False)
    lm_eval_files(tmp_path / "tuned", [1, 1], samples=False)
    [result] = read_lm_eval("gsm", tmp_path / "base", tmp_path / "tuned")
    assert result.difference is None
    assert result.base["low"] == pytest.approx(0.5 - 1.96 * 0.1, abs=1e-3)
    assert "not paired" in describe_result(result)


OLD = {"name": "mean_acc"}
NEW = {"identity": {"name": "accuracy", "aggregation": "mean", "dimensions": {}}}  # of EvalScope 1.14


@pytest.mark.parametrize(("form", "measure", "key"), [(OLD, "mean_acc", "acc"), (NEW, "accuracy", "accuracy")])
def test_evalscope_s_report_and_reviews_are_read_back(form, measure, key, tmp_path):
    for side, right in (("base", [0, 0, 1]), ("tuned", [1, 1, 1])):
        report = tmp_path / side / "reports" / side / "cmmlu.json"
        report.parent.mkdir(parents=True)
        text = json.dumps({"metrics": [{**form, "num": 3, "score": sum(right) / 3}]})
        report.write_text(text, encoding="utf-8")
        reviews = tmp_path / side / "reviews" / side / "cmmlu_law.jsonl"
        reviews.parent.mkdir(parents=True)
        lines = [{"index": n, "sample_score": {"score": {"value": {key: float(each)}}}} for n, each in enumerate(right)]
        reviews.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    [result] = read_evalscope("cmmlu", tmp_path / "base", tmp_path / "tuned")
    assert (result.measure, result.rows, result.tuned["value"]) == (measure, 3, 1)
    assert result.difference is not None
    shutil.rmtree(tmp_path / "tuned" / "reviews")
    [result] = read_evalscope("cmmlu", tmp_path / "base", tmp_path / "tuned")
    assert (result.difference, result.rows) == (None, 3)


def test_a_side_without_results_is_told(tmp_path):
    lm_eval_files(tmp_path / "base", [0, 1])
    with pytest.raises(UserError, match=r"tuned has no results_\*\.json"):
        read_lm_eval("gsm", tmp_path / "base", tmp_path / "tuned")


def test_every_mistake_of_the_command_line_is_told_at_once(monkeypatch):
    monkeypatch.setattr(harness, "_find_program", lambda names: None if "evalscope" in names else "lm_eval")
    with pytest.raises(UserError) as refused:
        parse_benchmarks(["lm-eval", "mteb:x", "lm-eval:missing.yaml", "evalscope:gsm8k", "lm-eval:gsm8k"], Path("run"))
    faults = refused.value.faults
    assert len(faults) == 4
    assert "write lm-eval:TASK" in faults[0]
    assert "'missing.yaml' is not a file" in faults[2]
    assert "a separate environment" in faults[3]
    [benchmark] = parse_benchmarks(["lm-eval:gsm8k"], Path("run"))
    assert (benchmark.name, benchmark.is_file) == ("gsm8k", False)


def test_the_page_shows_the_figures_in_both_languages(tmp_path):
    lm_eval_files(tmp_path / "b", [0] * 30)
    lm_eval_files(tmp_path / "t", [1] * 30)
    [result] = read_lm_eval("gsm", tmp_path / "b", tmp_path / "t")
    record = {name: getattr(result, name) for name in result.__slots__}
    RunFolder(tmp_path).harness_results.parent.mkdir(parents=True)
    RunFolder(tmp_path).harness_results.write_text(json.dumps({"results": [record]}), encoding="utf-8")
    html = harness_html(tmp_path)
    for shown in ("gsm, exact_match", "1.000", "其他工具的评测", 'class="better"'):
        assert shown in html
    assert "earlier final model" in html  # nothing says of which these are
    known = {"results": [record], "model": "step 8, 0.7"}
    RunFolder(tmp_path).harness_results.write_text(json.dumps(known), encoding="utf-8")
    RunFolder(tmp_path).final.mkdir()
    state = RunFolder(tmp_path).final / "state.json"
    state.write_text('{"step": 8, "average": {"weight": 0.7}}', encoding="utf-8")
    assert "earlier final model" not in harness_html(tmp_path)
    state.write_text('{"step": 9}', encoding="utf-8")
    assert "earlier final model (step 8, 0.7)" in harness_html(tmp_path)


def test_a_groups_samples_are_not_those_of_a_task_that_begins_with_its_name(tmp_path):
    for name in ("grp", "grp_hard"):
        (tmp_path / f"samples_{name}_2026-11-29T18-31-22.123456.jsonl").write_text(
            json.dumps({"doc_id": 0, "filter": "none", "metrics": ["acc"], "acc": float(name == "grp")}) + "\n"
        )
    assert _lm_eval_samples(tmp_path, "grp") == {"acc,none": {"0": 1.0}}


@pytest.mark.parametrize("task", ["/data/tasks", "../../x", "..", "a/b"])
def test_a_task_names_no_folder(monkeypatch, tmp_path, task):
    monkeypatch.setattr(harness, "_find_program", lambda names: "lm_eval")
    with pytest.raises(UserError, match="is not a task's name"):
        parse_benchmarks([f"lm-eval:{task}"], tmp_path)


TASK = """
task: local_exam
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: [], max_gen_toks: 40, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


@pytest.mark.slow
def test_lm_eval_asks_both_models_over_the_api(tmp_path, start):
    """lm-eval has requirements of its own, so it may be in another environment: THINKTUNE_LM_EVAL is its `bin`."""
    programs = os.environ.get("THINKTUNE_LM_EVAL", "")
    if not shutil.which("lm_eval", path=programs):
        pytest.skip("THINKTUNE_LM_EVAL names no folder with lm_eval")
    tree = small_tree_of(tmp_path, start)
    tree["train"] |= {"epochs": 80, "learning_rate": 3e-3, "evaluate_every_steps": 400}
    tree["data"]["validation"] = 0.0
    tree["generate"] |= {"max_new_tokens": 40, "evaluate_tokens": 8}
    path = train(settings(tree), quiet)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    data = tmp_path / "exam.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = tmp_path / "local_exam.yaml"
    task.write_text(TASK.replace("DATA", str(data)), encoding="utf-8")
    command = ("-m", "thinktune", "eval", path, "--harness", f"lm-eval:{task}", "--tasks", data, "--no-probe", "--json")
    variables = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "THINKTUNE_CACHE": str(tmp_path / "cache")}
    done = run_python(*command, address="http://127.0.0.1:9", caches=tmp_path / "caches", timeout=400, **variables)
    assert done.returncode == 0, done.stderr
    [result] = json.loads(done.stdout)["harness"]
    assert (result["base"]["value"], result["rows"]) == (0, 8)
    assert result["tuned"]["value"] > 0.8
    assert result["difference"]["low"] > 0
    assert "其他工具的评测" in (Path(path) / "report.html").read_text(encoding="utf-8")
