"""Exams of a whole run, by the command line and from a hub: figures, what is set apart, the curve, page and JSON."""

import json

import pytest
from support.exam_sets import ZH, write_repository
from support.hub_client import run
from support.hub_server import HubServer
from support.runs import quiet, settings, small_tree_of

from thinktune.report import write_run_page
from thinktune.train.loop import train


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, start):
    """Train a small run on one of CMExam's questions, and ask two sets; returns the run, the report and the output."""
    folder = tmp_path_factory.mktemp("exams")
    tree = small_tree_of(folder, start)
    rows = [{"question": f"请回答：{ZH[0][0]}", "think": "想", "answer": "60 到 100"}]
    file = folder / "rows.jsonl"
    file.write_text(
        file.read_text(encoding="utf-8") + "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        encoding="utf-8",
    )
    tree["data"]["validation"] = 0.0
    tree["train"]["epochs"] = 1
    tree["generate"] |= {"evaluate_tokens": 24}
    path = train(settings(tree), quiet)
    names = ("fzkuji/CMExam", "cais/mmlu")
    with HubServer({f"datasets/{name}": write_repository(folder / "hub" / name, name) for name in names}) as hub:
        command = (
            "-m",
            "thinktune",
            "eval",
            path,
            "--exam",
            "cmexam",
            "--exam",
            "mmlu-medical",
            "--no-probe",
            "--json",
        )
        variables = {"THINKTUNE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        done = run(*command, address=hub.address, caches=folder / "caches", timeout=300, **variables)
        assert done.returncode == 0, done.stderr
        hub.forget()
        again = run(*command, "--regrade", address=hub.address, caches=folder / "caches", timeout=300, **variables)
        assert again.returncode == 0, again.stderr
        assert hub.requests == []
    return path, json.loads(done.stdout), done.stderr, json.loads(again.stdout)


@pytest.mark.slow
def test_an_exam_is_scored_with_its_licence_what_is_set_apart_and_a_curve(evaluated):
    _, report, told, again = evaluated
    cmexam, mmlu = report["exams"]
    assert (cmexam["name"], cmexam["asked"], cmexam["available"]) == ("cmexam", 3, 3)
    assert cmexam["apart"] == {"whole": 1, "near": 0}
    assert cmexam["accuracy"]["rows"] == 2
    assert mmlu["accuracy"]["rows"] == 2
    for side in ("base", "tuned", "difference"):
        assert cmexam["accuracy"][side]["low"] <= cmexam["accuracy"][side]["value"] <= cmexam["accuracy"][side]["high"]
    assert [point["budget_tokens"] for point in mmlu["budgets"]] == [1, 2, 4, 8, 16, 24]
    assert "cmexam: 3 of 3 test questions, zero-shot, from fzkuji/CMExam on huggingface" in told
    assert "licence: mit (others say apache-2.0)" in told
    assert "exams" in report
    assert report["silent"]["exams"][0]["budgets"] == []  # without thinking there is no reasoning to cut
    assert again == report


@pytest.mark.slow
def test_the_page_has_a_section_for_each_set_in_both_languages(evaluated):
    path, *_ = evaluated
    page = write_run_page(path).read_text(encoding="utf-8")
    for shown in ("Public exams", "公开考试", "MMLU (medicine)", "Correct answers by reasoning budget", "许可证"):
        assert shown in page
    assert page.count("Correct answers of base and tuned by reasoning budget") == 2
    record = json.loads((path / "eval" / "exams.json").read_text(encoding="utf-8"))
    assert {*record["sets"]} == {"cmexam", "mmlu-medical"}
