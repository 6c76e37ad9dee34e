"""Runs learn, end in a plain model, resume bit for bit where they stopped, and keep the best."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.prepared_rows import prose
from support.runs import FACTS, quiet, settings, stop_after, stop_in_step, without_times, write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from thinktune.checkpoint import store
from thinktune.checkpoint.manifest import manifest_mismatches
from thinktune.data.pipeline import prepare
from thinktune.errors import Stopped, UserError
from thinktune.files import read_json
from thinktune.inference.engine import Engine
from thinktune.inference.requests import Request, SamplingParams
from thinktune.model.loading import load_model
from thinktune.run import RunFolder, journal, lock_run
from thinktune.run.status import RunStatus, read_status
from thinktune.tokenization import read_tokenizer
from thinktune.train import train


@pytest.mark.parametrize("stop", [3, 6])
def test_a_stopped_run_resumes_bit_for_bit(tree, stop):
    whole = train(settings(tree, name="whole"), quiet)
    with pytest.raises(KeyboardInterrupt):
        train(settings(tree, name="cut"), stop_after(stop))
    assert not (Path(tree["runs_folder"]) / "cut" / "final").exists()
    cut = train(settings(tree, name="cut"), quiet)
    last = store.find_checkpoint(whole, "last")
    for file in ("model.safetensors", "state/state.safetensors"):
        mine, theirs = load_file(last.folder / file), load_file(cut / "checkpoints" / last.folder.name / file)
        assert mine.keys() == theirs.keys()
        assert all(mine[name].equal(theirs[name]) for name in mine)
    assert without_times(journal.read_metrics(whole)) == without_times(journal.read_metrics(cut))
    assert journal.read_samples(whole) == journal.read_samples(cut)


def test_partial_files_of_a_crash_are_ignored(tree):
    whole = train(settings(tree, name="whole"), quiet)
    with pytest.raises(KeyboardInterrupt):
        train(settings(tree, name="cut"), stop_after(3))
    cut = Path(tree["runs_folder"]) / "cut"
    with RunFolder(cut).metrics.open("a") as file:
        file.write('{"kind": "train", "step": 4, "loss": 9}\n{"kind": "tr')
    (cut / "checkpoints" / ".step-000006.1.partial").mkdir()
    (cut / "checkpoints" / "step-000006").mkdir()  # complete, but the pointer was not moved yet
    train(settings(tree, name="cut"), quiet)
    assert without_times(journal.read_metrics(whole)) == without_times(journal.read_metrics(cut))
    assert {folder.name for folder in (cut / "checkpoints").iterdir()} == {
        folder.name for folder in (whole / "checkpoints").iterdir()
    }


def test_a_finished_run_started_again_changes_nothing(tree):
    folder = train(settings(tree), quiet)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "report.html"}
    train(settings(tree), quiet)
    assert before == {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "report.html"
    }


def test_the_best_model_is_kept_and_is_the_final_one(tree):
    folder = train(settings(tree, train={"learning_rate": 0.01, "epochs": 40, "evaluate_every_steps": 20}), quiet)
    evals = {record["step"]: record["loss"] for record in journal.read_metrics(folder) if record["kind"] == "eval"}
    best = min((step for step in evals if step), key=lambda step: evals[step])
    last = max(evals)
    assert best != last, "the run did not overfit, so nothing was tested"
    assert store.find_checkpoint(folder, "best").step == best
    assert store.find_checkpoint(folder, "last").step == last
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {f"step-{best:06}", f"step-{last:06}"}
    assert not (folder / "checkpoints" / f"step-{best:06}" / store.STATE_FOLDER).exists()
    assert read_json(folder / "final" / store.TRAINER_STATE_FILE)["step"] == best
    final = load_file(folder / "final" / "model.safetensors")
    kept = load_file(folder / "checkpoints" / f"step-{best:06}" / "model.safetensors")
    assert all(final[name].equal(kept[name]) for name in kept)


def test_final_is_a_plain_transformers_folder_with_the_same_logits(tree):
    folder = train(settings(tree), quiet)
    plain = AutoModelForCausalLM.from_pretrained(folder / "final", dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(folder / "final")
    assert "thinktune" not in (folder / "final" / "config.json").read_text()
    ours = load_model(store.find_checkpoint(folder, "best").folder, torch.device("cpu"))
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "心脏?"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    torch.testing.assert_close(plain(**prompt).logits, ours(**prompt).logits)
    assert plain.generation_config.eos_token_id == [tokenizer.eos_token_id, tokenizer.pad_token_id]


def test_a_bf16_base_trains_in_fp32_and_ends_in_bf16(tree, start, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "bf16")
    AutoTokenizer.from_pretrained(start).save_pretrained(tmp_path / "bf16")
    folder = train(settings(tree, model={"name": str(tmp_path / "bf16")}), quiet)
    assert {tensor.dtype for tensor in load_file(folder / "final" / "model.safetensors").values()} == {torch.bfloat16}
    kept = load_file(store.find_checkpoint(folder, "last").folder / "model.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32}


def test_a_small_model_learns_eight_rows_and_answers_them(tree):
    changes = {
        "rows_per_step": 8,
        "epochs": 150,
        "learning_rate": 5e-3,
        "evaluate_every_steps": 150,
        "log_every_steps": 50,
    }
    loaded = settings(tree, data={"validation": 0.0}, train=changes)
    folder = train(loaded, quiet)
    losses = [record["loss"] for record in journal.read_metrics(folder) if record["kind"] == "train"]
    assert losses[-1] < 0.1 < 1 < losses[0]
    tokenizer = read_tokenizer(folder / "final")
    engine = Engine(load_model(folder / "final", torch.device("cpu")), tokenizer)
    examples = prepare(loaded, tokenizer).train.examples()
    replies = dict(engine.complete([Request(example.turns[:-1], SamplingParams(40)) for example in examples], 8))
    assert len(replies) == 8
    for index, example in enumerate(examples):
        reply = replies[index]
        assert (reply.reasoning, reply.answer) == (example.turns[-1].reasoning, example.turns[-1].content)
        assert (reply.finish, reply.closed) == ("end", True)


def test_every_row_read_is_accounted_for_and_the_rounds_that_it_came_from(tree):
    rows = Path(tree["data"]["name"])
    rows = rows.rename(rows.with_name("thought.jsonl"))  # as `think` leaves rows, with its account beside them
    tree["data"]["name"] = str(rows)
    rounds = [{"teacher": "start", "graded_questions": 8, "pass_at": {"1": [0.5, 0.25, 0.75]}}]
    rows.with_name("account.json").write_text(json.dumps({"rounds": rounds}), encoding="utf-8")
    bad = [{"question": "", "think": "t", "answer": "a"}, {"question": "q", "think": f"{prose(900)}. ", "answer": "a"}]
    rows.write_text(rows.read_text() + "".join(json.dumps(row) + "\n" for row in bad))
    run = RunFolder(train(settings(tree), quiet))
    assert read_json(run.rounds) == rounds
    summary = read_json(run.data_summary)
    found = {fault["fault"]: fault["actions"] for fault in summary["faults"]}
    assert found == {"blank": {"dropped": 1}, "odd_space": {"repaired": 1}, "too_long": {"dropped": 1}}
    assert summary["rows_read"] == summary["train_rows"] + summary["validation_rows"] + 2 == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"learning_rate": 2e-3}}, r"changed: train.learning_rate \(was 0.001, is 0.002\).*name=small-2"),
        ({"data": {"seed": 7}}, "changed: expert.split_seed"),
    ],
)
def test_a_run_of_another_recipe_is_not_written_over(tree, changes, message):
    folder = train(settings(tree), quiet)
    before = RunFolder(folder).metrics.read_bytes()
    with pytest.raises(UserError, match=message):
        train(settings(tree, **changes), quiet)
    assert RunFolder(folder).metrics.read_bytes() == before


def test_a_run_of_other_data_is_not_written_over(tree):
    train(settings(tree), quiet)
    write_rows(Path(tree["data"]["name"]), {**FACTS, "ear": "noise"})
    with pytest.raises(UserError, match="run with other data"):
        train(settings(tree), quiet)


def test_a_folder_that_is_no_run_is_not_touched(tree):
    folder = Path(tree["runs_folder"]) / "small"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and not a run of thinktune"):
        train(settings(tree), quiet)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_a_run_whose_gradients_are_all_bad_stops_and_names_the_rows(tree):
    said = []
    with pytest.raises(UserError, match="no gradient of the last"):
        train(settings(tree, train={"learning_rate": 1e30, "warmup_fraction": 0, "rows_per_step": 1}), said.append)
    events = [
        record for record in journal.read_metrics(Path(tree["runs_folder"]) / "small") if record["kind"] == "event"
    ]
    assert all("rows.jsonl:" in event["text"] for event in events[:-1])
    assert events[-1]["text"].startswith("died: train.learning_rate: is 1e+30, and no gradient")
    assert not [
        value for record in events for value in record.values() if isinstance(value, float) and not math.isfinite(value)
    ]


def page_text(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_is_there_before_the_first_step_and_says_running(tree):
    folder, pages = Path(tree["runs_folder"]) / "small", []

    def say(line):
        if line.startswith("step 0/") and "eval loss" in line:
            pages.append(page_text(folder))

    train(settings(tree, train={"evaluate_every_steps": 1000}), say)
    assert 'data-refresh="30"' in pages[0]
    assert "running" in pages[0]


def test_a_stopped_run_says_where_and_why_until_it_resumes(tree, monkeypatch):
    whole = train(settings(tree, name="whole"), quiet)
    with monkeypatch.context() as patch:
        stop_in_step(patch, 4)
        with pytest.raises(Stopped):
            train(settings(tree), quiet)
    folder = Path(tree["runs_folder"]) / "small"
    assert "Stopped at step 4 of 9: SIGTERM. Run the same command to resume" in page_text(folder)
    assert "data-refresh" not in page_text(folder)
    assert read_status(folder) == RunStatus("stopped", 4, "SIGTERM")
    with lock_run(folder):
        assert read_status(folder).state == "running"
    train(settings(tree), quiet)
    assert read_status(folder) == RunStatus("finished", 9)
    assert without_times(journal.read_metrics(folder)) == without_times(journal.read_metrics(whole))


def test_a_run_that_ends_by_an_error_says_which_and_one_that_is_cut_off_died(tree, monkeypatch):
    monkeypatch.setattr("thinktune.train.loop.SLOW_SAVE_SECONDS", 0)

    def say(line):
        if line.startswith("step 6/") and "saved" in line:
            raise RuntimeError("planted, with hf_abcdefghijklmnopqrstuvwxyz")

    with pytest.raises(RuntimeError):
        train(settings(tree), say)
    folder = Path(tree["runs_folder"]) / "small"
    assert read_status(folder) == RunStatus("died", 6, "RuntimeError: planted, with ***")
    assert "Died at step 6 of 9: RuntimeError: planted, with ***. Run the same command" in page_text(folder)
    with pytest.raises(KeyboardInterrupt):
        train(settings(tree, name="cut"), stop_after(6))
    assert read_status(folder.with_name("cut")) == RunStatus("died", 6)


def test_a_start_that_is_refused_leaves_the_page_of_the_run_that_holds_the_folder(tree):
    folder = train(settings(tree), quiet)
    before = page_text(folder)
    with lock_run(folder), pytest.raises(UserError, match="another process is training in it"):
        train(settings(tree), quiet)
    assert page_text(folder) == before


def test_a_destroyed_model_is_called_so_wherever_it_is_met(tree, capsys):
    said: list[str] = []
    folder = train(settings(tree, train={"learning_rate": 3.0}, data={"validation": 0.5}), said.append)
    losses = [record["loss"] for record in journal.read_metrics(folder) if record["kind"] == "eval"]
    assert min(losses[1:]) > 2 * losses[0], "the learning rate did not destroy it, so nothing was tested"
    evaluated = [line for line in said if "eval loss" in line and "held-out rows" in line][1:]
    assert evaluated
    assert all("worse than the base model. The eval loss was" in line for line in evaluated)
    assert all("lower train.learning_rate" in line for line in evaluated)
    assert "Keep using the base model" in said[-2]
    assert said[-1].endswith(", worse than the base model)")
    for praise in ("still learning", "at its best", "the best of those", "more epochs"):
        assert praise not in "\n".join(said).lower()
    note = (folder / "final" / "README.md").read_text(encoding="utf-8")
    assert "**Worse than the base model.** The eval loss was" in note
    assert "**比基座模型更差。**" in note
    assert not manifest_mismatches(folder / "final")
    for place in (folder, folder / "final"):
        assert store.model_warning(place).startswith("this model is worse than its base: the eval loss was")
    RunFolder(folder).metrics.write_text("damaged\n", encoding="utf-8")
    assert store.model_warning(folder), "the final model says it by itself"


def test_a_model_that_learned_carries_no_warning(tree):
    said: list[str] = []
    folder = train(settings(tree, data={"validation": 0.5}), said.append)
    assert said[-1].endswith(", the best of those evaluated)")
    assert "than the base model" not in (folder / "final" / "README.md").read_text(encoding="utf-8")
    assert store.model_warning(folder) is store.model_warning(folder / "final") is None


def test_without_held_out_rows_nothing_is_called_the_best(tree):
    said: list[str] = []
    folder = train(settings(tree, data={"validation": 0.0}), said.append)
    assert said[-1].endswith("(step 12, the last; no row is held out, so it was not evaluated)")
    assert "No row was held out" in said[-2]
    assert "no trained step has been evaluated" not in page_text(folder)
