"""Text parts: a model of several modalities is trained, and written, as the language model inside it."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.first_steps import ONE_STEP, check_and_train
from support.model_folders import WEIGHTS, edit
from support.runs import quiet, settings
from support.wrappers import HEAD, WRAPPERS, make_wrapper, store_under, text_logits, transpose_experts
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM, Qwen3MoeConfig
from transformers.conversion_mapping import get_model_conversion_mapping

from thinktune.commands.check import check_recipe
from thinktune.errors import UserError
from thinktune.model.admission import AdmittedModel, meta_model, read_config
from thinktune.model.folder import stored_tensors
from thinktune.model.loading import load_admitted
from thinktune.model.proof import ModelTraits
from thinktune.model.stored_weights import match_weights
from thinktune.model.text_part import left_out_note
from thinktune.train import train

CPU = torch.device("cpu")
SLOW = ("qwen3_vl_moe", "qwen3_5_moe", "internvl", "llava", "qwen2_5_vl")
KINDS = [pytest.param(kind, marks=[pytest.mark.slow] if kind in SLOW else []) for kind in WRAPPERS]
# Where hubs, earlier releases and other tools keep a text part, and its head.
PATHS = [("model.language_model.", HEAD), ("language_model.model.", f"language_model.{HEAD}"), ("model.", HEAD)]


@pytest.fixture
def ids(tokenizer):
    return torch.randint(len(tokenizer), (2, 20), generator=torch.Generator().manual_seed(1))


def load_part(folder):
    """Load a folder's text part, whatever its class: whether it keeps packed rows apart is not asked here."""
    config = read_config(folder)
    weights = match_weights(meta_model(folder, config, torch.float32), stored_tensors(folder), folder, is_part=True)
    model = load_admitted(folder, AdmittedModel(config, weights, (), ModelTraits()), CPU)
    model.set_attn_implementation("eager")
    return model, weights


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_part_says_what_the_wrapper_says_and_is_saved_as_a_text_model(kind, tokenizer, ids, tmp_path):
    whole = make_wrapper(tmp_path / "whole", kind, tokenizer)
    whole.set_attn_implementation("eager")
    part, weights = load_part(tmp_path / "whole")
    assert type(part).__name__ == WRAPPERS[kind][2]
    assert weights.unread, "nothing of the other modality is left out"
    assert all("language_model" not in name for name in weights.unread)
    torch.testing.assert_close(text_logits(part, ids), text_logits(whole, ids), atol=1e-5, rtol=1e-5)

    part.save_pretrained(tmp_path / "part")
    stored = load_file(tmp_path / "part" / WEIGHTS)
    assert all(name == HEAD or name.startswith("model.") for name in stored)
    assert not any("language_model" in name or "vis" in name for name in stored)
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path / "part", output_loading_info=True)
    assert not any(report.values())
    again.set_attn_implementation("eager")
    torch.testing.assert_close(text_logits(again, ids), text_logits(part, ids), atol=1e-5, rtol=1e-5)
    if "Moe" in WRAPPERS[kind][2]:
        assert "model.layers.0.mlp.experts.3.gate_proj.weight" in stored, "experts one by one, as engines read them"
    written = json.loads((tmp_path / "part" / "config.json").read_text())
    assert written["architectures"] == [WRAPPERS[kind][2]]
    assert not any(key in written for key in ("vision_config", "text_config", "audio_config"))


@pytest.mark.parametrize("kind", ["qwen3_vl", "mistral3"])
@pytest.mark.parametrize(("path", "head"), PATHS)
def test_a_text_part_is_found_under_any_path(kind, path, head, tokenizer, ids, tmp_path):
    whole = make_wrapper(tmp_path / "whole", kind, tokenizer)
    whole.set_attn_implementation("eager")
    store_under(path, tmp_path / "whole", head=head)
    part, weights = load_part(tmp_path / "whole")
    assert torch.allclose(text_logits(part, ids), text_logits(whole, ids), atol=1e-5)
    assert len(weights.names) + len(weights.unread) == len(load_file(tmp_path / "whole" / WEIGHTS))


@pytest.mark.slow
@pytest.mark.parametrize("transposed", [False, True])
def test_experts_of_a_wrapper_are_read_as_transformers_reads_the_wrappers(transposed, tokenizer, ids, tmp_path, tree):
    folder = tmp_path / "whole"
    make_wrapper(folder, "qwen3_vl_moe", tokenizer)
    own = AutoModelForCausalLM.from_config(Qwen3MoeConfig(num_hidden_layers=1, hidden_size=64))
    before = repr(get_model_conversion_mapping(own))
    if transposed:
        assert transpose_experts(folder) == 8
    whole = AutoModelForMultimodalLM.from_pretrained(folder, attn_implementation="eager").eval()
    still = ONE_STEP | {"learning_rate": 1e-12}
    refused, run, _ = check_and_train(settings(tree, model={"name": str(folder)}, train=still))
    assert refused is None
    final = AutoModelForCausalLM.from_pretrained(run / "final", attn_implementation="eager")
    torch.testing.assert_close(text_logits(final, ids), text_logits(whole, ids), atol=1e-5, rtol=1e-5)
    assert "model.layers.0.mlp.experts.3.gate_proj.weight" in stored_tensors(run / "final"), "as engines read the class"
    assert repr(get_model_conversion_mapping(own)) == before, "the rules of the class itself are as they were"


@pytest.mark.parametrize("says_tied", [True, False])
@pytest.mark.parametrize("stored", ["no head", "the embedding", "a head of its own"])
def test_whether_a_head_is_tied_is_read_from_the_weights(says_tied, stored, tokenizer, ids, tmp_path):
    folder = tmp_path / "whole"
    whole = make_wrapper(folder, "mistral3", tokenizer, tied=stored != "a head of its own")
    whole.set_attn_implementation("eager")
    edit(folder, "config.json", tie_word_embeddings=says_tied)
    held = load_file(folder / WEIGHTS)
    if stored == "the embedding":
        held[f"language_model.{HEAD}"] = held["language_model.model.embed_tokens.weight"].clone()
        save_file(held, folder / WEIGHTS, {"format": "pt"})
    assert (f"language_model.{HEAD}" in held) == (stored != "no head")
    part, _ = load_part(folder)
    assert part.config.tie_word_embeddings == (stored != "a head of its own")
    assert torch.allclose(text_logits(part, ids), text_logits(whole, ids), atol=1e-5)


def test_weights_of_the_other_modality_are_never_read(tokenizer, tmp_path):
    make_wrapper(tmp_path / "whole", "gemma3", tokenizer)
    held = load_file(tmp_path / "whole" / WEIGHTS)
    for name, tensor in held.items():
        if "vision" in name:
            tensor.fill_(float("nan"))  # a tensor that is read is refused for it
    save_file(held, tmp_path / "whole" / WEIGHTS, {"format": "pt"})
    part, _ = load_part(tmp_path / "whole")
    assert not any("vision" in name for name, _ in part.named_modules())


END_TO_END = [pytest.param(kind, marks=[] if kind == "qwen3_vl" else pytest.mark.slow) for kind in WRAPPERS]


@pytest.mark.parametrize("kind", END_TO_END)
def test_every_wrapper_is_ready_and_trains_and_its_final_is_a_text_model(kind, tokenizer, ids, tmp_path, tree):
    whole = make_wrapper(tmp_path / "whole", kind, tokenizer)
    whole.set_attn_implementation("eager")
    still = ONE_STEP | {"learning_rate": 1e-12}  # a step that leaves the logits as they are
    refused, run, notes = check_and_train(settings(tree, model={"name": str(tmp_path / "whole")}, train=still))
    assert refused is None
    class_name = WRAPPERS[kind][2]
    assert f"only its text part is trained and saved, as {class_name}: " in notes[0]
    assert "tensors are left out (" in notes[0]
    assert kind != "qwen3_vl" or "(27 of model.visual)" in notes[0]
    assert (run / "samples.jsonl").read_text(), "no reply was made"

    final, report = AutoModelForCausalLM.from_pretrained(
        run / "final", output_loading_info=True, attn_implementation="eager"
    )
    assert type(final).__name__ == class_name
    assert not any(report.values())
    torch.testing.assert_close(text_logits(final, ids), text_logits(whole, ids), atol=1e-5, rtol=1e-5)
    written = json.loads((run / "final" / "config.json").read_text())
    assert written["model_type"] == type(final).config_class.model_type
    assert written["architectures"] == [class_name]
    assert "mrope" not in json.dumps(written)
    assert not {"text_config", "vision_config", "audio_config", "image_token_id"} & written.keys()
    stored = stored_tensors(run / "final")
    assert all(name == HEAD or name.startswith("model.") for name in stored)
    assert not any("language_model" in name or "vis" in name for name in stored)


def test_a_model_without_a_text_part_of_a_known_class_is_refused_in_both(start, tmp_path, tree):
    from transformers import CLIPConfig, CLIPModel

    CLIPModel(
        CLIPConfig(
            text_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
            vision_config={
                "hidden_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 32,
            },
        )
    ).save_pretrained(tmp_path / "clip")
    said = []
    for verb in (check_recipe, train):
        with pytest.raises(UserError) as refused:
            verb(settings(tree, model={"name": str(tmp_path / "clip")}), quiet)
        said.append(refused.value.faults)
    assert said[0] == said[1]
    assert "is a model of images or sound (clip), and transformers" in said[0][0]


def test_what_is_left_out_is_counted_by_its_place(tmp_path):
    names = [f"model.visual.{number}.weight" for number in range(1200)] + ["mtp.norm.weight", "mtp.fc.weight"]
    note = left_out_note("qwen3_5", "Qwen3_5ForCausalLM", names, tmp_path)
    assert "as Qwen3_5ForCausalLM: 1,202 tensors are left out (1200 of model.visual, 2 of mtp)" in note
