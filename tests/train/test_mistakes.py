"""Mistakes of users and stops at the worst moment: each gives a message, and nothing is overwritten or lost."""

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from support.runs import quiet, settings, without_times, write_rows
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from thinktune.checkpoint import store
from thinktune.cli import main
from thinktune.demo.pipeline import demo
from thinktune.demo.tiny_model import ModelShape, make_model
from thinktune.errors import UserError
from thinktune.eval.runner import evaluate_run
from thinktune.run import journal
from thinktune.train import train


@pytest.mark.slow
def test_a_stop_between_the_two_pointers_loses_no_best_model(tree, monkeypatch):
    overfits = {"learning_rate": 0.01, "epochs": 40, "evaluate_every_steps": 5}
    whole = train(settings(tree, name="whole", train=overfits), quiet)
    best = store.find_checkpoint(whole, "best").step
    assert 5 < best < store.find_checkpoint(whole, "last").step, "the best is at an end, so nothing was tested"
    point_best = store.mark_best
    for stop in (5, best):

        def stopping(run, step, stop=stop):
            if step == stop:
                raise KeyboardInterrupt
            point_best(run, step)

        monkeypatch.setattr(store, "mark_best", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(settings(tree, name=f"cut-{stop}", train=overfits), quiet)
        monkeypatch.setattr(store, "mark_best", point_best)
        cut = train(settings(tree, name=f"cut-{stop}", train=overfits), quiet)
        assert store.find_checkpoint(cut, "best").step == best
        assert without_times(journal.read_metrics(whole)) == without_times(journal.read_metrics(cut))
        assert (cut / "final" / "model.safetensors").read_bytes() == (
            whole / "final" / "model.safetensors"
        ).read_bytes()


def test_another_kind_of_model_is_refused_before_anything_is_written(tree, start, tmp_path):
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 64}
    T5ForConditionalGeneration(T5Config(**shape)).save_pretrained(tmp_path / "t5")
    AutoTokenizer.from_pretrained(start).save_pretrained(tmp_path / "t5")
    with pytest.raises(UserError, match="is of type t5, which is not a causal language model"):
        train(settings(tree, model={"name": str(tmp_path / "t5")}), quiet)
    assert not Path(tree["runs_folder"]).exists()


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tree, start, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(start)
    model = make_model(tokenizer, ModelShape())
    model.resize_token_embeddings(64)
    model.save_pretrained(tmp_path / "narrow")
    tokenizer.save_pretrained(tmp_path / "narrow")
    with pytest.raises(UserError, match="the model has 64 tokens"):
        train(settings(tree, model={"name": str(tmp_path / "narrow")}), quiet)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"system": "Stop at <|im_end|>."}, r"data\.system: contains the control token <\|im_end\|>"),
        ({"validation": "{name}"}, "is also trained on"),
    ],
)
def test_data_that_would_train_something_else_is_refused(tree, change, message):
    change = {key: value.format(name=tree["data"]["name"]) for key, value in change.items()}
    with pytest.raises(UserError, match=message):
        train(settings(tree, data=change), quiet)


def test_out_of_memory_suggests_what_to_change(tree, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("tried to allocate 9 GiB")

    monkeypatch.setattr("thinktune.train.loop.step", full)
    with pytest.raises(UserError, match=r"memory of cpu is full after step 0.*expert\.activation_budget"):
        train(settings(tree), quiet)


def test_evaluation_refuses_other_rows_than_the_runs(tree):
    folder = train(settings(tree), quiet)
    write_rows(Path(tree["data"]["name"]), {"nose": "smell", "tongue": "taste", "skin": "touch", "knee": "bend"})
    with pytest.raises(UserError, match="run with other data"):
        evaluate_run(folder, quiet)


def test_the_demo_overwrites_no_files(tmp_path):
    (tmp_path / "base.yaml").write_text("mine")
    with pytest.raises(UserError, match="is not empty and not a folder of the demo"):
        demo(tmp_path, Console(quiet=True))
    assert [path.name for path in tmp_path.iterdir()] == ["base.yaml"]


def test_an_error_of_the_system_is_a_message_and_exit_code_2(tree, tmp_path, monkeypatch, capsys):
    (tmp_path / "occupied").write_text("a file")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(json.dumps({**tree, "runs_folder": str(tmp_path / "occupied")}), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["thinktune", "train", str(recipe)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "occupied" in capsys.readouterr().err


def test_ctrl_c_explains_how_to_resume(tree, tmp_path, monkeypatch, capsys):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(json.dumps(tree), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["thinktune", "train", str(recipe)])

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("thinktune.train.train", stop)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert "run the same command to resume" in capsys.readouterr().err
