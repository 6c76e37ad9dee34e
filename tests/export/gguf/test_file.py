"""A GGUF read back by the gguf library: its tensors are the model's weights, its metadata what llama.cpp goes by."""

import numpy as np
import pytest
import torch
from support.gguf_models import FAMILIES, SIZES, make_gguf_model
from transformers import AutoModelForCausalLM

from thinktune.errors import UserError
from thinktune.export.gguf.architecture import list_unknown_options
from thinktune.export.gguf.file import (
    gguf_fault,
    make_gguf,
    plan_gguf,
    unrounded_kind,
    write_gguf,
    write_planned_gguf,
)
from thinktune.files import read_json, write_json

gguf = pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            made[name] = make_gguf_model(tmp_path_factory.mktemp("base") / name.replace(", ", "-"), name)
        return made[name]

    return get


def write(folder, file, kind="f32"):
    done = []
    write_gguf(folder, file, kind, done.append)
    reader = gguf.GGUFReader(file)
    assert sum(done) == sum(int(tensor.n_bytes) for tensor in reader.tensors)
    return reader


@pytest.fixture(scope="module")
def files(folders, tmp_path_factory):
    """Return a function that opens a family's f32 file, written once."""
    written = {}

    def get(family):
        if family not in written:
            written[family] = write(folders(family), tmp_path_factory.mktemp("gguf") / "Doses-v1-f32.gguf")
        return written[family]

    return get


def metadata(reader):
    found = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in found.items()}


def tensors(reader):
    return {each.name: gguf.dequantize(each.data, each.tensor_type) for each in reader.tensors}


NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
}  # fmt: skip


def as_llama_cpp_wants(model, family):
    """Return a model's weights in llama.cpp's names and order, in words of our own."""
    gemma, llama = family.startswith("gemma"), family.startswith(("llama", "smollm"))
    names = NAMES | (
        {
            "post_attention_layernorm": "post_attention_norm",
            "pre_feedforward_layernorm": "ffn_norm",
            "post_feedforward_layernorm": "post_ffw_norm",
        }
        if gemma
        else {"post_attention_layernorm": "ffn_norm"}
    )
    found = {}
    for name, weight in model.named_parameters():
        values = weight.detach().numpy()
        part, _, kind = name.rpartition(".")
        if part.startswith("model.layers."):
            layer, _, inner = part.removeprefix("model.layers.").partition(".")
            known = f"blk.{layer}.{names[inner]}"
        else:
            known = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}[part]
        if llama and part.endswith(("q_proj", "k_proj")):
            heads = model.config.num_attention_heads if part.endswith("q_proj") else model.config.num_key_value_heads
            order = [head * 16 + at for head in range(heads) for pair in range(8) for at in (pair, pair + 8)]
            values = values[order]
        found[f"{known}.{kind}"] = values + 1 if gemma and part.endswith("norm") else values
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_is_in_the_file_under_the_name_and_in_the_order_that_llama_cpp_reads(folders, files, family):
    found = tensors(files(family))
    wanted = as_llama_cpp_wants(AutoModelForCausalLM.from_pretrained(folders(family)), family)
    assert found.keys() - {"rope_freqs.weight"} == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert ("rope_freqs.weight" in found) == (family == "llama")


def test_matrices_are_of_the_kind_and_norms_and_biases_stay_f32(folders, files, tmp_path):
    exact = tensors(files("qwen2"))
    for kind, relative in (("f16", 2**-11), ("bf16", 2**-8), ("q8_0", None)):
        reader = write(folders("qwen2"), tmp_path / f"m-{kind}.gguf", kind)
        forms = {each.name: each.tensor_type.name.lower() for each in reader.tensors}
        assert {form for name, form in forms.items() if exact[name].ndim == 2} == {kind}
        assert {form for name, form in forms.items() if exact[name].ndim == 1} == {"f32"}
        for name, values in tensors(reader).items():
            if relative:
                bound = np.abs(exact[name]) * relative + 1e-7
            else:  # half a step of each block of 32, and what f16 takes from the step
                blocks = np.abs(exact[name].reshape(-1, 32)).max(1) if exact[name].ndim == 2 else np.zeros(1)
                bound = np.repeat(blocks / 127 * 0.57, 32).reshape(exact[name].shape) if exact[name].ndim == 2 else 0
            assert (np.abs(values - exact[name]) <= bound).all(), (kind, name)


def test_rows_that_no_block_fits_are_f16(tmp_path):
    folder = make_gguf_model(tmp_path / "odd", "qwen3", intermediate_size=100)
    forms = {each.name: each.tensor_type.name for each in write(folder, tmp_path / "m.gguf", "q8_0").tensors}
    assert forms["blk.0.ffn_down.weight"] == "F16"
    assert forms["blk.0.ffn_up.weight"] == "Q8_0"


def test_a_bf16_model_is_whole_in_bf16_and_in_f32(tmp_path):
    folder = make_gguf_model(tmp_path / "half", "smollm2", dtype="bfloat16")
    rounded, exact = (tensors(write(folder, tmp_path / f"m-{kind}.gguf", kind)) for kind in ("bf16", "f32"))
    for name, values in exact.items():
        np.testing.assert_array_equal(rounded[name], values)
    assert unrounded_kind(folder) == "bf16"


def test_a_value_that_f16_cannot_hold_is_refused_by_name(tmp_path):
    folder = make_gguf_model(tmp_path / "large", "qwen3")
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = -70000.0
    model.save_pretrained(folder)
    with pytest.raises(UserError, match=r"blk\.1\.ffn_up\.weight holds a value of 70000, .* use bf16 or f32"):
        write(folder, tmp_path / "m.gguf", "f16")
    write(folder, tmp_path / "m.gguf", "bf16")


def test_parts_of_any_size_make_the_same_file(folders, tmp_path, monkeypatch):
    plan = plan_gguf(folders("llama"), "q8_0")
    write_planned_gguf(plan, tmp_path / "m-q8_0.gguf", lambda _: None)
    whole = (tmp_path / "m-q8_0.gguf").read_bytes()
    monkeypatch.setattr("thinktune.export.gguf.tensors.CHUNK_ELEMENTS", 700)
    parts = []
    write_planned_gguf(plan, tmp_path / "m-q8_0.gguf", parts.append)
    assert (tmp_path / "m-q8_0.gguf").read_bytes() == whole
    assert len(parts) > 5 * len(plan.tensors)


SHARED = {
    "block_count": 3, "context_length": 512, "embedding_length": 64, "feed_forward_length": 96,
    "attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 16, "attention.value_length": 16,
    "attention.layer_norm_rms_epsilon": 1e-6, "rope.dimension_count": 16,
}  # fmt: skip
PARAMETERS = {
    "qwen3": {"rope.freq_base": 1e6},
    "qwen3, yarn": {
        "rope.freq_base": 5e5, "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
        "rope.scaling.original_context_length": 128,
    },
    "qwen2": {"rope.freq_base": 1e6},
    "llama": {"rope.freq_base": 5e5},
    "llama, linear": {"rope.freq_base": 1e4, "rope.scaling.type": "linear", "rope.scaling.factor": 2.0},
    "smollm2": {"rope.freq_base": 1e5},
    "gemma3": {
        "rope.freq_base": 1e6, "rope.freq_base_swa": 1e4, "attention.sliding_window": 6,
        "attention.sliding_window_pattern": [True, False, True],
    },
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_and_options_are_those_that_llama_cpp_asks_for(files, family):
    found = metadata(files(family))
    architecture = found["general.architecture"]
    assert architecture == {"smollm2": "llama"}.get(family, family.partition(",")[0])
    rows = found.pop(f"{architecture}.vocab_size")
    assert rows == len(found["tokenizer.ggml.tokens"]) == len(found["tokenizer.ggml.token_type"])
    options = {
        name.removeprefix(f"{architecture}."): value
        for name, value in found.items()
        if name.startswith(f"{architecture}.")
    }
    assert options == SHARED | PARAMETERS[family]
    general = {name: value for name, value in found.items() if name.startswith("general.")}
    assert general == {
        "general.architecture": architecture, "general.type": "model", "general.name": "Doses-v1",
        "general.size_label": general["general.size_label"], "general.file_type": 0,
        "general.quantization_version": 2, "general.sampling.temp": 0.5, "general.sampling.top_k": 20,
        "general.sampling.top_p": 0.75,
    }  # fmt: skip


def test_the_card_gives_licence_base_languages_and_tags_and_the_settings_how_to_sample(folders, tmp_path):
    folder = make_gguf_model(tmp_path / "m", "qwen3")
    card = (
        "---\nlicense: apache-2.0\nbase_model: Qwen/Qwen3-0.6B\nlanguage:\n- en\n- zh\ntags: [medical]\n---\n# Doses\n"
    )
    write_json(folder / "generation_config.json", {"eos_token_id": 2})
    (folder / "README.md").write_text(card, encoding="utf-8")
    found = metadata(write(folder, tmp_path / "m.gguf"))
    assert found["general.license"] == "apache-2.0"
    assert found["general.base_model.0.name"] == "Qwen3-0.6B"
    assert found["general.base_model.0.organization"] == "Qwen"
    assert (found["general.languages"], found["general.tags"]) == (["en", "zh"], ["medical"])
    # A model that does not sample is greedy.
    assert [value for name, value in found.items() if name.startswith("general.sampling.")] == [0.0]


def test_tokens_ends_and_template_are_the_tokenizers(folders, files):
    found = metadata(files("qwen3"))
    tokens, types = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    vocabulary = read_json(folders("qwen3") / "tokenizer.json")
    for token, number in vocabulary["model"]["vocab"].items():
        assert tokens[number] == token
    kinds = {tokens[number]: kind for number, kind in enumerate(types)}
    assert [kinds[text] for text in ("<|im_end|>", "<|endoftext|>", "<think>", "\n\n", "心脏")] == [3, 3, 4, 4, 4]
    assert tokens[-1] == f"[PAD{len(tokens) - 1}]"
    assert types[-1] == 5
    assert found["tokenizer.ggml.merges"] == [" ".join(pair) for pair in vocabulary["model"]["merges"]]
    assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.pre"]) == ("gpt2", "qwen2")
    assert tokens[found["tokenizer.ggml.eos_token_id"]] == "<|im_end|>"
    assert tokens[found["tokenizer.ggml.eot_token_id"]] == "<|endoftext|>"
    assert tokens[found["tokenizer.ggml.padding_token_id"]] == "<|endoftext|>"
    assert found["tokenizer.ggml.add_bos_token"] is False
    # The tokenizer names no bos, and llama.cpp would take its own default for it.
    assert found["tokenizer.chat_template"].startswith('{%- set bos_token = "" -%}{{ bos_token }}')
    llama = metadata(files("llama"))
    assert llama["tokenizer.ggml.add_bos_token"] is True
    assert llama["tokenizer.chat_template"].startswith("{{ bos_token }}")


def test_a_gemma_file_has_scores_in_the_order_of_the_merges(folders, files):
    found = metadata(files("gemma3"))
    tokens, scores = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.scores"]
    by_token = dict(zip(tokens, scores, strict=True))
    merged = ["".join(pair) for pair in read_json(folders("gemma3") / "tokenizer.json")["model"]["merges"]]
    in_order = [by_token[text] for text in dict.fromkeys(merged) if text in by_token]
    assert in_order == sorted(in_order, reverse=True)
    assert found["tokenizer.ggml.model"] == "llama"
    assert found["tokenizer.ggml.add_space_prefix"] is False
    assert tokens[found["tokenizer.ggml.bos_token_id"]] == "<bos>"
    assert found["tokenizer.ggml.token_type"][tokens.index("<0x41>")] == 6


LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip
YARN_16 = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "beta_fast": 16.0, "original_max_position_embeddings": 64}  # fmt: skip
UNTRUNCATED = YARN_16 | {"beta_fast": 32.0, "truncate": False, "original_max_position_embeddings": 100}
PER_KIND = {"full_attention": {"rope_type": "default", "rope_theta": 1e6}, "sliding_attention": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "switches", "named"),
    [
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "sliding_window: 8"),
        ("qwen3", {"hidden_act": "gelu"}, "hidden_act: gelu"),
        ("qwen3", {"rope_parameters": LLAMA3}, "rope_type: llama3"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "rope_type: dynamic"),
        ("llama", {"rope_parameters": YARN_16}, "rope_type: yarn with beta_fast: 16.0"),
        ("qwen3", {"rope_parameters": UNTRUNCATED}, "rope_type: yarn with other frequencies than llama.cpp's"),
        ("qwen3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor: 0.5"),
        ("gemma3", {"query_pre_attn_scalar": 64}, "query_pre_attn_scalar: 64 (it computes with 16)"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention: true"),
        ("gemma3", {"attn_logit_softcapping": 30.0}, "attn_logit_softcapping: 30.0"),
        ("gemma3", {"rope_parameters": PER_KIND}, "rope_type: linear (of sliding_attention)"),
    ],
)  # fmt: skip
def test_an_option_that_llama_cpp_would_leave_out_in_silence_is_refused(family, switches, named):
    made, options, _ = FAMILIES[family]
    config = made(**SIZES | options | switches)
    config.architectures = [
        {"gemma3_text": "Gemma3"}.get(config.model_type, config.model_type.capitalize()) + "ForCausalLM"
    ]
    assert list_unknown_options(config) == [named]
    config = made(**SIZES | options)
    config.architectures = [
        {"gemma3_text": "Gemma3"}.get(config.model_type, config.model_type.capitalize()) + "ForCausalLM"
    ]
    assert list_unknown_options(config) == []


def test_another_class_is_refused_with_the_way_that_makes_it(start, tmp_path, monkeypatch):
    from support.tiny_models import tiny_model

    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    tiny_model("phi3").save_pretrained(tmp_path / "phi3")
    fault = gguf_fault(tmp_path / "phi3")
    assert "Phi3ForCausalLM" in fault
    assert "convert_hf_to_gguf.py" in fault
    with pytest.raises(UserError, match="Phi3ForCausalLM"):
        make_gguf(tmp_path / "phi3", tmp_path / "m.gguf", "f16", lambda _: None)
    with pytest.raises(UserError, match=r"q4_k_m needs llama\.cpp's llama-quantize, which was not found"):
        make_gguf(tmp_path / "phi3", tmp_path / "m.gguf", "q4_k_m", lambda _: None)
    assert not (tmp_path / "m.gguf").exists()
    # The demo's tokenizer takes Chinese characters one by one, which llama.cpp has no name for.
    assert "llama.cpp has no name for how this tokenizer splits text" in gguf_fault(start)


def test_all_mistakes_are_said_at_once(tmp_path):
    folder = make_gguf_model(tmp_path / "m", "qwen3", hidden_act="gelu")
    tree = read_json(folder / "tokenizer.json")
    tree["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{L}+|\p{N}{1,2}"
    write_json(folder / "tokenizer.json", tree)
    with pytest.raises(UserError) as refused:
        plan_gguf(folder, "f32")
    assert [fault.split(";")[-1] for fault in refused.value.faults] == 2 * [
        " export to hf and serve that with vLLM or SGLang"
    ]
    assert "hidden_act: gelu" in refused.value.faults[0]
