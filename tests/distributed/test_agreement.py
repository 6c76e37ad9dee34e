"""Ranks that were given different things end before the first step, and say which; what may differ, may."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from support.cli_ranks import command_by_rank
from support.many_ranks import train_here
from support.ranks import run_ranks
from support.runs import settings
from transformers import Qwen3ForCausalLM

from thinktune.run import RunFolder
from thinktune.train import train


@pytest.fixture
def places(tree, tmp_path, start):
    """Write a recipe, and what a second machine may have: copies, and other rows and models."""
    rows = Path(tree["data"]["name"])
    text = rows.read_text(encoding="utf-8")
    (tmp_path / "copy.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "other.jsonl").write_text(text.replace("blood", "water"), encoding="utf-8")
    (tmp_path / "fewer.jsonl").write_text("".join(text.splitlines(keepends=True)[:-2]), encoding="utf-8")
    for name in ("same", "base", "retuned", "sampling"):
        shutil.copytree(start, tmp_path / name)
    model = Qwen3ForCausalLM.from_pretrained(start)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 5] += 1e-3
    model.save_pretrained(tmp_path / "base")
    for name, file, changes in (
        ("retuned", "config.json", {"rms_norm_eps": 1e-4}),
        ("sampling", "generation_config.json", {"do_sample": True}),
    ):
        path = tmp_path / name / file
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    (tmp_path / "elsewhere" / "small").mkdir(parents=True)
    (tmp_path / "mine.yaml").write_text(json.dumps(tree), encoding="utf-8")
    return tmp_path


def start_with(places, *overrides, **variables):
    recipe = str(places / "mine.yaml")
    mine = [text.replace("{here}", str(places)) for text in overrides]
    return run_ranks(2, command_by_rank, [[recipe], [recipe, *mine]], variables)


DIFFERENCES = [
    (("train.learning_rate=0.5",), {}, "train.learning_rate: is 0.5 on rank 1, and 0.001 on rank 0; "),
    (("data.name={here}/other.jsonl",), {}, "data.name: rank 1 read other rows (6 to train on and 2 held out) than "),
    (("model.name={here}/base",), {}, "model.name: model.safetensors: is "),
]
MORE_DIFFERENCES = [
    ((), {"transformers": "5.0.0"}, "loaded 5.0.0' on rank 1, and "),
    (("runs_folder={here}/elsewhere",), {}, "runs_folder: "),
    (("train.epochs=4",), {}, "train.epochs: is 4 on rank 1, and 3 on rank 0; "),
    (("train.evaluate_every_steps=2",), {}, "train.evaluate_every_steps: is 2 on rank 1, and 3 on rank 0; "),
    (("expert.log_every_steps=5",), {}, "expert.log_every_steps: is 5 on rank 1, and 2 on rank 0; "),
    (("expert.bad_numbers=stop",), {}, "expert.bad_numbers: is 'stop' on rank 1, and 'skip' on rank 0; "),
    (("expert.betas=[0.8,0.9]",), {}, "expert.betas: is [0.8, 0.9] on rank 1, and [0.9, 0.999] on rank 0; "),
    (("generate.sample_questions=2",), {}, "generate.sample_questions: is 2 on rank 1, and 1 on rank 0; "),
    (("data.faults={too_long: stop}",), {}, "data.faults.too_long: is 'stop' on rank 1, and "),
    (("data.validation={here}/copy.jsonl",), {}, "data.validation: is 'a file' on rank 1, and 0.3 on rank 0; "),
    (("name=other",), {}, "name: is 'other' on rank 1, and 'small' on rank 0; "),
    (("data.name={here}/fewer.jsonl",), {}, "data.name: rank 1 read other rows ("),
    (("model.name={here}/retuned",), {}, "model.name: rms_norm_eps in config.json: is 0.0001 on rank 1, and 1e-06 "),
    (("model.name={here}/sampling",), {}, "model.name: do_sample in generation_config.json: is True on rank 1, and "),
    ((), {"thinktune": "0.0.9"}, "thinktune: is "),
    ((), {"torch": "2.99"}, "torch: is "),
    ((), {"NVIDIA_TF32_OVERRIDE": "1"}, "the variable NVIDIA_TF32_OVERRIDE: is '1' on rank 1, and None on rank 0; "),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "variables", "message"),
    [*DIFFERENCES, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE_DIFFERENCES)],
)
def test_a_difference_ends_all_ranks_and_is_named_once(places, overrides, variables, message):
    (code, said), (other_code, other) = start_with(places, *overrides, **variables)
    assert (code, other_code) == (2, 2), said + other
    assert said.count("error: ") == 1, said
    assert message in " ".join(said.split())
    assert "rank 1" in said
    assert "error" not in other
    assert "Traceback" not in said + other
    assert not (places / "runs").exists(), "a run that does not start leaves nothing"
    assert message.split(":")[0] in (places / "mine.yaml.0.json").read_text(encoding="utf-8"), "torchrun shows it too"


@pytest.mark.slow
def test_all_differences_are_named_at_once(places):
    (code, said), _ = start_with(places, "train.learning_rate=0.5", "train.epochs=1", "data.system=Be brief.")
    assert code == 2
    assert said.count("error: ") == 3
    assert all(key in said for key in ("train.learning_rate: ", "train.epochs: ", "data.system: "))


@pytest.mark.slow
def test_the_first_row_that_differs_is_named(places):
    (_, said), _ = start_with(places, "data.name={here}/other.jsonl")
    assert "the first that differs is other.jsonl:1, where rank 0 has rows.jsonl:1" in " ".join(said.split())


@pytest.mark.slow
def test_what_may_differ_between_machines_is_not_refused(places):
    (places / "runs").mkdir()
    (places / "link").symlink_to(places / "runs")
    paths = ("runs_folder={here}/link", "data.name={here}/copy.jsonl", "model.name={here}/same")
    others = ("serve.notice=hello", "track.project=other", "plan.card=rtx4090")
    (code, said), (other_code, other) = start_with(
        places, *paths, *others, THINKTUNE_CACHE=str(places / "cache"), THINKTUNE_TIMEOUT_SECONDS="90", HOME="/nowhere"
    )
    assert (code, other_code) == (0, 0), said + other
    assert RunFolder(places / "runs" / "small").final.is_dir()
    assert not list((places / "runs" / "small").glob(".*partial"))


@pytest.mark.slow
def test_a_resumed_run_is_compared_too(places, tree):
    run = train(settings(tree, train={"stop_when_overfitting": None}), lambda _: None, ("test",))
    shutil.rmtree(run)
    run_ranks(2, train_here, {**tree, "train": {**tree["train"], "strategy": "shard"}}, 5)  # stops after step 5
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    shutil.copytree(run, places / "copies" / "small")
    for override, message in (
        ("train.learning_rate=0.5", "train.learning_rate: is 0.5 on rank 1"),
        ("data.name={here}/other.jsonl", "data.name: rank 1 read other rows"),
        ("runs_folder={here}/copies", "is not the folder"),
    ):
        (code, said), (other_code, _) = start_with(places, override)
        assert (code, other_code) == (2, 2), said
        assert message in " ".join(said.split())
    after = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert {path for path in before.keys() ^ after.keys() if path.name != ".lock"} == set()
