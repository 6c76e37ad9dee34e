"""What the screens Proof, Take home and Think are told: the report's own figures, and only what is in the folder."""

import json
from functools import partial

import httpx
import pytest
from support.recorded_run import write_run
from support.runs import settings
from support.studio import studio_of

from thinktune.arguments import EXAM_QUESTIONS
from thinktune.config.loading import dump_recipe
from thinktune.export.targets import TARGETS
from thinktune.files import write_json, write_json_lines
from thinktune.run import RunFolder
from thinktune.run.thought_folder import ThoughtFolder
from thinktune.studio.proof_view import (
    DEFAULT_EXAM_QUESTIONS,
    MAX_ROWS,
    evaluation_folder,
    list_rows,
    read_proof,
    rows_of,
    show_row,
)
from thinktune.studio.take_home_view import OFFERED_TARGETS, read_take_home
from thinktune.studio.think_view import read_think


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "runs" / "one", 1e-5)


def test_proof_has_the_reports_figures_in_both_languages(run):
    proof = read_proof(run)
    json.dumps(proof)  # nothing in it is of the server's own kinds
    [mode] = proof["modes"]
    [held_out] = mode["sets"]
    line = held_out["lines"][0]
    assert line["label"] == {"en": "Correct answers", "zh": "答对率"}
    assert [line[side][0]["en"] for side in ("base", "tuned")] == ["25.0 %", "75.0 %"]
    assert line["difference"][1]["zh"] == "（+7.1 至 +71.4）"
    assert line["drawing"].startswith("<svg")
    assert mode["counts"] == {"worse": 1, "better": 1, "same": 1}
    assert [group["name"]["zh"] for group in held_out["group_lines"]] == ["算术"]
    assert {"medical-zh", "general"} <= {exam["name"] for exam in proof["exams"]}
    (run / "eval/report.json").unlink()
    assert read_proof(run)["modes"] == []


def test_rows_are_found_by_outcome_set_and_words_and_read_again_when_they_change(run):
    file = run / "eval/rows.jsonl"
    row = json.loads(file.read_text(encoding="utf-8").splitlines()[0])
    questions = [f"Question {number} of the ward" for number in range(500)]
    outcomes = ("same", "better", "worse")
    rows = [row | {"question": text, "row": f"v:{number}", "outcome": outcomes[number % 3]} for number, text in enumerate(questions)]  # fmt: skip
    write_json_lines(file, rows)
    found = rows_of(evaluation_folder(run, "thinking"))
    page = list_rows(found, "all", "", "", 0, 10_000)
    assert (page["total"], len(page["rows"])) == (500, MAX_ROWS)
    assert {one["outcome"] for one in page["rows"][:166]} == {"worse"}, "those that became worse come first"
    assert list_rows(found, "better", "held-out", "WARD 499 clinic", 0, 9)["rows"] == []
    [only] = list_rows(found, "better", "held-out", "WARD question 499", 0, 9)["rows"]
    assert show_row(found, only["number"])["question"] == "Question 499 of the ward"
    assert list_rows(found, "all", "general", "", 0, 9)["total"] == 0
    assert [show_row(found, number) for number in (-1, 500)] == [None, None]
    assert rows_of(evaluation_folder(run, "thinking")) is found
    write_json_lines(file, rows[:7])
    assert len(rows_of(evaluation_folder(run, "thinking")).rows) == 7
    assert rows_of(evaluation_folder(run, "silent")).rows == ()


def test_take_home_shows_exports_and_never_a_token(tmp_path, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    monkeypatch.delenv("MODELSCOPE_API_TOKEN", raising=False)
    assert set(OFFERED_TARGETS) <= set(TARGETS)
    assert read_take_home(tmp_path, "runs/one")["final"] is None
    folder = RunFolder(run)
    folder.final.mkdir()
    (folder.final / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"]}')
    (folder.final / "model.safetensors").write_bytes(bytes(1000))
    facts = {"made": "2026-11-29", "bytes": 7, "engine": "llama.cpp", "unchecked": None, "notes": [], "seconds": {},
             "model": "one", "files": {"one-q8_0.gguf": {}}, "check": {"questions": 20, "equal": 19, "kl": 0.1, "kl_limit": 0.2}}  # fmt: skip
    write_json(folder.exports / "gguf-q8_0" / "export.json", facts)
    write_json(folder.exports / "hf" / "export.json", {"half": "written"})
    report = json.loads((run / "eval/report.json").read_text(encoding="utf-8"))
    report["settings"]["models"] = {"tuned": {"name": "one", "print": "of another model"}}
    write_json(run / "eval/report.json", report)
    shown = read_take_home(tmp_path, "runs/one")
    made = {one["name"]: one["made"] for one in shown["targets"]}
    assert made["gguf-q8_0"]["command"] == (
        "llama-server -m runs/one/export/gguf-q8_0/one-q8_0.gguf --jinja --alias one"
    )
    assert made["gguf-q8_0"]["check"] == facts["check"]
    assert made["hf"] is None
    assert shown["final"]["bytes"] >= 1000
    card = shown["card"]["text"]
    assert card["en"].startswith("# one\n")
    assert card["zh"].startswith("# 中文说明\n")
    assert "<!--" not in card["zh"]
    assert [each["text"].split()[-1] for each in shown["commands"][:1]] == ["runs/one"]
    assert {each["name"]: each["has_token"] for each in shown["hubs"]} == {"modelscope": False, "huggingface": True}
    assert "secretsecret" not in json.dumps(shown)


def asked(key, prompt, reply):
    return {"event": "asked", "key": key, "reserved": [prompt, reply]}


def replied(key, prompt, reply):
    fields = {
        "reasoning": "So.",
        "answer": "4",
        "tokens": reply,
        "reasoning_tokens": 1,
        "finish": "end",
        "closed": True,
    }
    return {"event": "reply", "key": key, **fields, "prompt_tokens": prompt, "charged": [prompt, reply]}


def test_think_sums_what_was_spent_while_it_goes_on(tmp_path, tree, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    monkeypatch.delenv("THINKTUNE_ENDPOINT_KEY", raising=False)
    recipe = settings(tree | {"runs_folder": "runs"})
    (tmp_path / "small.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    shown = read_think(tmp_path, "small.yaml")
    assert shown["thoughts"] == {"new": None, "short": None}
    assert shown["key"]["set"] == "OPENAI_API_KEY"
    assert "secret" not in json.dumps(shown)
    folder = ThoughtFolder(tmp_path / "thought/small")
    write_json(folder.settings, {"teacher": "expert", "price": [2.0, 8.0, "CNY"]})
    with folder.replies.open("ab", buffering=0) as journal:
        for record in (asked("a", 100, 1000), asked("b", 100, 1000), replied("a", 90, 500)):
            journal.write(json.dumps(record).encode() + b"\n")
        spent = read_think(tmp_path, "small.yaml")["thoughts"]["new"]["spent"]
        assert spent["tokens"] == {"prompt": 90, "reply": 500, "reserved": 1100}
        assert spent["money"] == {"currency": "CNY", "spent": pytest.approx(0.00418), "reserved": pytest.approx(0.0082)}
        line = json.dumps(replied("b", 100, 10)).encode() + b"\n"
        journal.write(line[:30])
        assert read_think(tmp_path, "small.yaml")["thoughts"]["new"]["spent"] == spent, "half a line is no reply yet"
        journal.write(line[30:])
    thought = read_think(tmp_path, "small.yaml")["thoughts"]["new"]
    assert (thought["spent"]["replies"], thought["spent"]["waiting"], thought["spent"]["tokens"]["reply"]) == (
        2,
        0,
        510,
    )
    write_json_lines(folder.rows, [{"question": "2+2?", "think": "So.", "answer": "4"}, {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "reasoning_content": "Greet."}]}, []])  # fmt: skip
    write_json(folder.account, {"kept_replies": 2})
    thought = read_think(tmp_path, "small.yaml")["thoughts"]["new"]
    assert thought["account"] == {"kept_replies": 2}
    assert thought["rows"]["total"] == 3
    assert [row["reasoning"] for row in thought["rows"]["shown"]] == ["So.", "Greet."]


def test_think_reads_nothing_outside_the_folder(tmp_path, tree):
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "out.yaml").write_text(dump_recipe(settings(tree | {"runs_folder": "../runs"})), encoding="utf-8")
    write_json(ThoughtFolder(tmp_path / "thought/small").settings, {"teacher": "expert"})
    (tmp_path / "runs/one/final").mkdir(parents=True)
    shown = read_think(inside, "out.yaml")
    assert shown["thoughts"]["new"] is None
    assert shown["runs"] == []


def test_what_an_evaluation_asks_is_counted_before_it_starts(tmp_path, run):
    (tmp_path / "own.jsonl").write_text('{"question": "2+2?", "answer": "4"}\n', encoding="utf-8")
    (run / "recipe.yaml").write_text(f"model: {{name: {tmp_path}}}\ndata: {{name: rows.jsonl}}\n", encoding="utf-8")
    assert DEFAULT_EXAM_QUESTIONS == EXAM_QUESTIONS
    body = {"verb": "eval", "run": "runs/one", "tasks": ["own.jsonl"], "exam": ["medical-en"], "thinking": False}
    with studio_of(tmp_path) as address:
        ask = partial(httpx.post, f"{address}/studio/workload", trust_env=False)
        told = ask(json=body).json()
        assert [one["questions"] for one in told["sets"]] == [3, 1, *[400] * (len(told["sets"]) - 3), 416]
        assert told["sets"][2]["words"] == "MedQA (USMLE, four options)"
        assert told["sets"][-1]["words"]["zh"] == "通用题"
        assert (told["modes"], told["replies"], told["seconds"]) == ([False], 2 * (3 + 1 + 416), None)
        for side in ("base", "tuned"):
            write_json(RunFolder(run).evaluation().speed(side), {"replies": 10, "seconds": 5.0})
        assert ask(json={"verb": "eval", "run": "runs/one", "probe": False}).json()["seconds"] == 2 * 2 * 3 * 0.5
        refused = ask(json={"verb": "report", "runs": ["runs/one"]})
        assert (refused.status_code, "eval" in refused.text) == (400, True)
