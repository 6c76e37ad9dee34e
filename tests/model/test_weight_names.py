"""Stored names: experts that are stored one by one are matched, read for faults and saved as they came."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.model_folders import WEIGHTS, set_nan, weights
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

from thinktune.errors import UserError
from thinktune.model.admission import AdmittedModel, meta_model, read_config
from thinktune.model.folder import stored_tensors
from thinktune.model.loading import load_admitted
from thinktune.model.proof import ModelTraits
from thinktune.model.stored_weights import match_weights, refuse_non_finite_files

SIZES = {
    "vocab_size": 96, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 12, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "mlp_only_layers": [0], "decoder_sparse_step": 1,
}  # fmt: skip
EXPERT = "model.layers.1.mlp.experts.2.up_proj.weight"


@pytest.fixture
def folder(tmp_path) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(Qwen3MoeConfig(**SIZES)).save_pretrained(tmp_path)
    return tmp_path


def match(folder):
    return match_weights(meta_model(folder, read_config(folder), torch.float32), stored_tensors(folder), folder)


def test_experts_are_matched_with_what_they_are_made_of(folder):
    matched = match(folder)
    assert EXPERT in load_file(folder / WEIGHTS)
    assert matched.converted == {f"model.layers.1.mlp.experts.{name}" for name in ("gate_up_proj", "down_proj")}
    assert EXPERT in matched.sources
    assert len(matched.sources) == 3 * 4
    assert matched.unread == ()
    assert not matched.names.keys() & matched.converted


def test_a_loaded_mixture_of_experts_is_saved_as_it_came(folder, tmp_path):
    model = load_admitted(
        folder, AdmittedModel(read_config(folder), match(folder), (), ModelTraits()), torch.device("cpu")
    )
    model.save_pretrained(tmp_path / "saved")
    before, after = load_file(folder / WEIGHTS), load_file(tmp_path / "saved" / WEIGHTS)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_experts_saved_as_one_tensor_are_matched_too(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / WEIGHTS)
    assert match(folder).converted == frozenset()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda stored: {name: stored[name] for name in stored if name != EXPERT}, "gate_up_proj do not fit together"),
        (
            lambda stored: {name: stored[name] for name in stored if ".experts.2." not in name},
            r"gate_up_proj is \(3, 32, 48\) instead of \(4, 32, 48\)",
        ),
        (
            lambda stored: {name: stored[name] for name in stored if ".experts." not in name},
            r"2 are missing \(model\.layers\.1\.mlp\.experts\.down_proj",
        ),
        (lambda stored: stored | {EXPERT: stored[EXPERT].to(torch.float8_e4m3fn)}, "is stored as F8_E4M3"),
    ],
)
def test_an_expert_that_is_missing_or_rounded_is_named(folder, change, words):
    weights(change)(folder)
    with pytest.raises(UserError, match=words):
        match(folder)


def test_experts_of_a_base_model_are_matched_without_the_models_prefix(folder):
    weights(lambda stored: {name.removeprefix("model."): tensor for name, tensor in stored.items()})(folder)
    assert len(match(folder).converted) == 2


@pytest.mark.parametrize("layer", [0, 3])
def test_a_layer_that_lacks_an_expert_is_named_among_layers_that_are_alike(layer, tmp_path):
    config = Qwen3MoeConfig(**(SIZES | {"num_hidden_layers": 4, "mlp_only_layers": []}))
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    whole = match(tmp_path)
    assert whole.converted == {
        f"model.layers.{number}.mlp.experts.{name}" for number in range(4) for name in ("gate_up_proj", "down_proj")
    }
    lost = f"model.layers.{layer}.mlp.experts.1.down_proj.weight"
    weights(lambda stored: {name: stored[name] for name in stored if name != lost})(tmp_path)
    with pytest.raises(UserError) as refused:
        match(tmp_path)
    assert f"(model.layers.{layer}.mlp.experts.down_proj is (3, 48, 16) instead of (4, 48, 16))" in str(refused.value)


def test_an_expert_that_is_not_finite_is_named_as_it_is_stored(folder):
    weights(set_nan(EXPERT))(folder)
    with pytest.raises(UserError, match=EXPERT):
        refuse_non_finite_files(match(folder), folder)
