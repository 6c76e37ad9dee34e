"""Ready means that the first step is taken: what check says of a folder or a setting, train does."""

from contextlib import closing

import pytest
import torch
from safetensors.torch import load_file
from support.first_steps import ONE_STEP, check_and_train, save_kind
from support.model_folders import ADMITTED, REFUSED, WEIGHTS, WRITTEN_BY, make_folder
from support.runs import equal, quiet, settings, stop_in_step
from support.tiny_models import KINDS
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from thinktune.errors import Stopped
from thinktune.inference import Request, SamplingParams
from thinktune.inference.session import load_engine
from thinktune.tokenization import Turn
from thinktune.train import train

QUICK = ("qwen3_moe",)
KNOWN = [name for name, kind in KINDS.items() if kind.type in CONFIG_MAPPING]  # older releases lack some
FOLDERS = {f"refused: {name}": change for name, (change, _) in REFUSED.items()}
FOLDERS |= {f"admitted: {name}": change for name, (change, _) in ADMITTED.items()}
FOLDERS |= {f"written by {name}": change for name, change in WRITTEN_BY.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_ready_means_a_first_step_for_every_class_of_folder(name, start, tmp_path, tree):
    folder = make_folder(start, tmp_path / "model", FOLDERS[name])
    refused, _, _ = check_and_train(settings(tree, model={"name": str(folder)}, train=ONE_STEP))
    assert (refused is not None) == name.startswith("refused")


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=[] if each in QUICK else pytest.mark.slow) for each in KNOWN]
)
def test_every_kind_of_model_is_ready_takes_its_first_step_and_samples(name, start, tmp_path, tree):
    folder = make_folder(start, tmp_path / "model", lambda folder: save_kind(name, folder))
    refused, run, notes = check_and_train(settings(tree, model={"name": str(folder)}, train=ONE_STEP))
    assert refused is None
    assert [f"is of type {KINDS[name].type}, which does not keep packed rows apart" in note for note in notes] == (
        [True] if KINDS[name].rows == "apart" else []
    )
    assert (run / "samples.jsonl").read_text(), "no reply was made"
    final, report = AutoModelForCausalLM.from_pretrained(run / "final", output_loading_info=True)
    assert not any(report.values())
    base = AutoModelForCausalLM.from_pretrained(folder)
    assert type(final) is type(base)
    moved = [name for name, weight in final.named_parameters() if not torch.equal(weight, base.get_parameter(name))]
    assert len(moved) > 0.8 * len([*final.named_parameters()])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"precision": "fp8"}, "precision: is fp8, which needs an NVIDIA card"),
        ({"update_in_backward": True, "batch_tokens": 60}, "update_in_backward: a step of"),
        ({"activation_budget": 0.5}, None),
        ({"memory": "8bit"}, None),
        ({"memory": "exact"}, None),
    ],
)
def test_ready_means_a_first_step_whatever_the_recipe_sets(changes, words, tree):
    refused, _, _ = check_and_train(settings(tree, data={"max_tokens": 60}, train=ONE_STEP | changes))
    assert [words in sentence for sentence in refused or []] == ([True] if words else [])


@pytest.mark.slow
def test_a_mixture_of_experts_resumes_to_the_bit_and_its_final_answers(start, tmp_path, tree, monkeypatch):
    folder = make_folder(start, tmp_path / "model", lambda folder: save_kind("qwen3_moe", folder))
    chosen = {"model": {"name": str(folder)}, "train": {"epochs": 2}}
    whole = train(settings(tree, name="whole", **chosen), quiet)
    stopped = settings(tree, name="stopped", **chosen)
    with monkeypatch.context() as patch:
        stop_in_step(patch, 2)
        with pytest.raises(Stopped):
            train(stopped, quiet)
    equal(train(stopped, quiet), whole)
    stored = load_file(whole / "final" / WEIGHTS)
    assert stored.keys() == load_file(folder / WEIGHTS).keys(), "experts one by one, as the base has them"
    with closing(load_engine(whole / "final")) as engine:
        [reply] = engine.complete_all([Request((Turn("user", "heart?"),), SamplingParams(6), thinking=True)])
    assert 0 < reply.tokens <= 6
