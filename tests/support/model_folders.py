"""Odd model folders as people have them: each is made from a small whole one, and what is said of it is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4063515640\n"
LORA = {"peft_type": "LORA", "base_model_name_or_path": "Qwen/Qwen3-1.7B", "r": 8, "target_modules": ["q_proj"]}
YARN_BAD = {"rope_type": "yarn", "rope_theta": 1e6}


def edit(folder: Path, file: str, **changes: object) -> None:
    """Change keys of a JSON file; None removes one."""
    values = json.loads((folder / file).read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in values.items() if value is not None}
    (folder / file).write_text(json.dumps(kept), encoding="utf-8")


def config(**changes: object) -> Callable[[Path], None]:
    return lambda folder: edit(folder, "config.json", **changes)


def sampling(**values: object) -> Callable[[Path], None]:
    return lambda folder: (folder / "generation_config.json").write_text(json.dumps(values), encoding="utf-8")


def quantization_config_null(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(values | {"quantization_config": None}), encoding="utf-8")


def text(file: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_text(content, encoding="utf-8")


def weights(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Change the stored weights, in place or by returning others."""

    def changing(folder: Path) -> None:
        stored = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
        changed = change(stored)
        save_file(changed if isinstance(changed, dict) else stored, folder / WEIGHTS, {"format": "pt"})

    return changing


def remove(*names: str) -> Callable[[Path], None]:
    return lambda folder: [path.unlink() for name in names for path in folder.glob(name)] and None


def both(*changes: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda folder: [change(folder) for change in changes] and None


def sharded(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / WEIGHTS).unlink()
    model.save_pretrained(folder, max_shard_size="100KB")


def without_shard(folder: Path) -> None:
    sharded(folder)
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def truncated(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-5000])


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def two_models(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    sharded(folder)
    (folder / WEIGHTS).write_bytes(whole)


def lora(folder: Path) -> None:
    for name in (WEIGHTS, "config.json", "generation_config.json"):
        (folder / name).unlink()
    lora_beside_base(folder)


def lora_beside_base(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(LORA))
    save_file({"base_model.model.q_proj.lora_A.weight": torch.zeros(8, 64)}, folder / "adapter_model.safetensors")


def deepspeed(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "global_step10").mkdir()
    (folder / "zero_to_fp32.py").write_text("1")


def trainer_output(folder: Path) -> None:
    inner = folder / "checkpoint-500"
    inner.mkdir()
    for path in [*folder.iterdir()]:
        if path.is_file():
            path.rename(inner / path.name)


def swift_output(folder: Path) -> None:
    """Lay out what ms-swift leaves: a folder for each start, and in it one for each checkpoint."""
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    remove("*")(folder)
    for step in (90, 500):
        inner = folder / "v0-20260801-120000" / f"checkpoint-{step}"
        inner.mkdir(parents=True)
        for name, body in whole.items():
            (inner / name).write_bytes(body)
    (folder / "v0-20260801-120000" / "args.json").write_text("{}")


def lora_output(folder: Path) -> None:
    remove("*")(folder)
    (folder / "checkpoint-60").mkdir()
    lora_beside_base(folder / "checkpoint-60")


def loop(file: str) -> Callable[[Path], None]:
    def changing(folder: Path) -> None:
        (folder / file).unlink()
        (folder / file).symlink_to(file)

    return changing


def remote_code(folder: Path) -> None:
    code = {"AutoConfig": "configuration_odd.Config", "AutoModelForCausalLM": "modeling_odd.Model"}
    edit(folder, "config.json", model_type="odd", auto_map=code, architectures=["OddForCausalLM"])
    for module in ("configuration_odd", "modeling_odd"):
        (folder / f"{module}.py").write_text("raise RuntimeError('this code ran')\n")


def more_tokens(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<extra{number}>" for number in range(200)], special_tokens=True)
    tokenizer.save_pretrained(folder)


def newline_tokens(folder: Path) -> None:
    """Make newlines added tokens that are not special, as in Gemma's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in ("\n", "\n\n")])
    tokenizer.save_pretrained(folder)


def unsloth(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<|vision_pad|>"})
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(folder)
    edit(folder, "config.json", unsloth_version="2026.8.1", unsloth_fixed=True, torch_dtype="bfloat16")


def template_in_tokenizer_config(folder: Path, *, listed: bool = False) -> None:
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").unlink()
    names = ("default", "tool_use")
    written = [{"name": name, "template": template} for name in names] if listed else template
    edit(folder, "tokenizer_config.json", chat_template=written)


def resized(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(model.config.vocab_size + 3)
    model.save_pretrained(folder)


def beside(*names: str) -> Callable[[Path], None]:
    return both(*(text(name, "{}") for name in names))


def rounded(stored: dict) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    stored[name] = stored[name].to(torch.float8_e4m3fn)


def set_nan(name: str, value: float = float("nan")) -> Callable[[dict], None]:
    def change(stored: dict) -> None:
        stored[name].view(-1)[5] = value

    return change


def other_head(stored: dict) -> None:
    stored["lm_head.weight"] = torch.randn_like(stored["model.embed_tokens.weight"])


UP = "model.layers.1.mlp.up_proj.weight"
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
ADDED = {"model.layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(8, 64)}

# What a folder is, how it is made, and words of the sentence that check and train both say of it.
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickles only": (pickled, "holds PyTorch pickles (pytorch_model.bin)"),
    "GGUF only": (both(remove("*"), text("m-Q4_K_M.gguf", "GGUF")), "holds GGUF files"),
    "GGUF beside a tokenizer": (both(remove(WEIGHTS), text("m.gguf", "GGUF")), "holds GGUF files"),
    "LFS pointer": (text(WEIGHTS, LFS_POINTER), "Git LFS pointers instead of files (model.safetensors)"),
    "LFS pointer as tokenizer": (text("tokenizer.json", LFS_POINTER), "(tokenizer.json); run git lfs pull"),
    "missing shard": (without_shard, "lacks model-00002-of-"),
    "shards without index": (both(sharded, remove(INDEX)), f"without {INDEX}"),
    "damaged index": (both(sharded, text(INDEX, '{"weight_map": 3}')), f"{INDEX} cannot be read"),
    "index without a weight's shard": (both(sharded, text(INDEX, '{"weight_map": {}}')), "0 tensors"),
    "single file and shards": (two_models, "holds two models"),
    "truncated": (truncated, f"{WEIGHTS} is not a complete safetensors file"),
    "empty file": (text(WEIGHTS, ""), "is not a complete safetensors file"),
    "a page of HTML as weights": (text(WEIGHTS, "<html>Not found</html>" * 99), "is not a complete safetensors file"),
    "link to nowhere": (loop(WEIGHTS), f"lacks {WEIGHTS}"),
    "AWQ": (config(quantization_config={"quant_method": "awq", "bits": 4}), "is quantized (awq)"),
    "GPTQ": (config(quantization_config={"quant_method": "gptq", "bits": 4}), "is quantized (gptq)"),
    "bitsandbytes": (config(quantization_config={"quant_method": "bitsandbytes"}), "is quantized (bitsandbytes)"),
    "FP8": (config(quantization_config=FP8), "is quantized (fp8)"),
    "MXFP4": (config(quantization_config={"quant_method": "mxfp4"}), "is quantized (mxfp4)"),
    "FP8 that its config does not name": (weights(rounded), "is stored as F8_E4M3"),
    "LoRA adapter": (lora, "is a LoRA adapter of Qwen/Qwen3-1.7B"),
    "adapter beside a base": (lora_beside_base, "has an adapter of Qwen/Qwen3-1.7B beside a model"),
    "adapter's weights inside": (weights(lambda stored: stored | ADDED), "the weights of an adapter"),
    "no text part": (config(model_type="clip", vision_config={}, text_config={}), "images or sound (clip)"),
    "FP8 in the text part": (
        config(model_type="qwen3_vl", vision_config={}, text_config={"quantization_config": FP8}),
        "is quantized (fp8)",
    ),
    "remote code": (remote_code, "of type odd, which has its own Python code; set model.trust_remote_code: true"),
    "unknown model_type": (config(model_type="qwen5"), "of type qwen5, which transformers "),
    "no model_type": (config(model_type=None), "names no model_type"),
    "sliding layers without a window": (config(layer_types=["sliding_attention"] * 2), "not a working configuration"),
    "untied head missing": (config(tie_word_embeddings=False), "has no lm_head.weight"),
    "head that is not tied": (weights(other_head), "holds lm_head.weight, but its config.json ties it"),
    "torch.compile's prefix": (
        weights(lambda stored: {f"_orig_mod.{name}": tensor for name, tensor in stored.items()}),
        "begin with '_orig_mod.'",
    ),
    "DDP's prefix": (
        weights(lambda stored: {f"module.{name}": tensor for name, tensor in stored.items()}),
        "begin with 'module.'",
    ),
    "missing weight": (weights(lambda stored: stored.pop(UP) is None), f"are incomplete: 1 are missing ({UP})"),
    "other shape": (weights(lambda stored: stored | {UP: torch.zeros(8, 64)}), f"{UP} is (8, 64) instead of"),
    "DeepSpeed's shards": (deepspeed, "holds DeepSpeed's shards"),
    "no weights": (remove(WEIGHTS), "holds no weights"),
    "empty folder": (remove("*"), "holds no weights"),
    "output of a trainer": (trainer_output, "folders that do (checkpoint-500)"),
    "output of ms-swift": (
        swift_output,
        "folders that do (v0-20260801-120000/checkpoint-500, v0-20260801-120000/checkpoint-90); name one of those",
    ),
    "output of a LoRA trainer": (lora_output, "holds LoRA adapters (checkpoint-60) and no whole model"),
    "no config.json": (remove("config.json"), "has no config.json"),
    "config.json a loop": (loop("config.json"), "config.json cannot be read"),
    "config.json damaged": (text("config.json", '{"model_type": '), "config.json cannot be read"),
    "config.json a list": (text("config.json", "[]"), "is not a JSON object"),
    "config.json too deep": (text("config.json", "[" * 100_000), "config.json cannot be read"),
    "negative heads": (config(num_attention_heads=-4), "num_attention_heads is -4"),
    "heads that do not divide": (config(num_key_value_heads=3), "config.json"),
    "a text as a size": (config(hidden_size="64"), "hidden_size is '64'"),
    "a million layers": (config(num_hidden_layers=10**12, layer_types=None), "no model has more than 10,000"),
    "more layers than weights": (config(num_hidden_layers=2000, layer_types=None), "says 2,000 layers"),
    "negative epsilon": (config(rms_norm_eps=-1.0), "rms_norm_eps is -1.0"),
    "epsilon NaN": (config(rms_norm_eps=float("nan")), "rms_norm_eps is nan"),
    "negative rotary base": (
        config(rope_parameters={"rope_type": "default", "rope_theta": -1.0}),
        "its rotary embeddings are not finite",
    ),
    "dtype fp8": (config(dtype="float8_e4m3fn"), "config.json: dtype is float8_e4m3fn; thinktune trains"),
    "other file of weights": (config(transformers_weights="other.safetensors"), "names 'other.safetensors'"),
    "unknown activation": (config(hidden_act="swoosh"), "config.json is not a working configuration"),
    "a text as epsilon": (config(rms_norm_eps="tiny"), "config.json is not a working configuration"),
    "yarn without factor": (config(rope_parameters=YARN_BAD), "config.json is not a working configuration"),
    "no end-of-turn token": (
        lambda folder: edit(folder, "tokenizer_config.json", eos_token=None),
        "has no end-of-turn token",
    ),
    "no tokenizer": (remove("token*", "chat*"), "has no tokenizer (tokenizer.json)"),
    "tokenizer_config.json alone": (remove("tokenizer.json"), "has no tokenizer (tokenizer.json)"),
    "vocabulary without merges": (
        both(remove("tokenizer.json"), text("vocab.json", "{}")),
        "has vocab.json without merges.txt",
    ),
    "damaged tokenizer": (text("tokenizer.json", "{}"), "has no tokenizer that can be loaded"),
    "slow tokenizer": (
        both(remove("tokenizer.json"), text("tokenizer.model", "abc")),
        "has its tokenizer only as tokenizer.model",
    ),
    "tekken": (both(remove("token*", "chat*"), text("tekken.json", "{}")), "has its tokenizer only as tekken.json"),
    "tokens beyond the vocabulary": (more_tokens, "tokens, so they do not belong together"),
    "top_k -1": (sampling(do_sample=True, top_k=-1), "top_k is -1; it must be"),
    "top_p 2": (sampling(do_sample=True, top_p=2), "top_p is 2; it must be"),
    "temperature -1": (sampling(do_sample=True, temperature=-1), "temperature is -1; it must be"),
    "temperature a text": (sampling(temperature="warm"), "temperature is 'warm'; it must be"),
    "eos_token_id a text": (sampling(eos_token_id="<|im_end|>"), "eos_token_id is '<|im_end|>'"),
    "do_sample a text": (sampling(do_sample="yes"), "do_sample is 'yes'; it must be"),
    "generation_config.json damaged": (text("generation_config.json", "{"), "generation_config.json cannot be read"),
    "settings that transformers refuses": (sampling(max_new_tokens=-3), "is rejected by transformers"),
    "NaN": (weights(set_nan(UP)), f"NaN or infinity in {UP}"),
    "infinity in a norm": (weights(set_nan("model.norm.weight", float("inf"))), "NaN or infinity in model.norm.weight"),
}

# What is trained all the same, and words of the line that says what is not used of it; "" where nothing is to say.
ADMITTED: dict[str, tuple[Callable[[Path], object], str]] = {
    "whole": (lambda folder: None, ""),
    "sharded": (sharded, ""),
    "bf16": (weights(lambda stored: {name: tensor.bfloat16() for name, tensor in stored.items()}), ""),
    "no generation_config.json": (remove("generation_config.json"), ""),
    "tied head saved": (
        weights(lambda stored: stored | {"lm_head.weight": stored["model.embed_tokens.weight"].clone()}),
        "",
    ),
    "head saved as the twin": (
        weights(lambda stored: stored | {"lm_head.weight": stored.pop("model.embed_tokens.weight")}),
        "",
    ),
    "old rotary buffer": (
        weights(lambda stored: stored | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}),
        "",
    ),
    "unused tensor": (
        weights(lambda stored: stored | {"value_head.weight": torch.zeros(1, 64)}),
        "1 tensors in {} are not used, because Qwen3ForCausalLM has none of that name (value_head.weight)",
    ),
    "embedding model": (
        both(
            weights(lambda stored: {name.removeprefix("model."): tensor for name, tensor in stored.items()}),
            config(architectures=["Qwen3Model"]),
        ),
        "{} was saved as Qwen3Model",
    ),
    "quantization_config null": (quantization_config_null, ""),
    "attention of another machine": (config(_attn_implementation="flash_attention_9"), ""),
    "GGUF beside the weights": (text("m.gguf", "GGUF"), ""),
    "a trainer's own files": (text("training_args.bin", "x"), ""),
}


# Whole models as tools write them, with nothing to say of any.
WRITTEN_BY: dict[str, Callable[[Path], object]] = {
    "Unsloth": both(unsloth, resized),  # its padding token is one that the vocabulary has room for
    "LLaMA-Factory": beside("all_results.json", "trainer_state.json", "trainer_log.jsonl", "Modelfile"),
    "TRL": beside("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "trainer_state.json"),
    "ms-swift": beside("args.json", "additional_config.json", "logging.jsonl", "training_args.bin"),
    "fp16": weights(lambda stored: {name: tensor.half() for name, tensor in stored.items()}),
    "no pad token": lambda folder: edit(folder, "tokenizer_config.json", pad_token=None),
    "a template in tokenizer_config.json": template_in_tokenizer_config,
    "a list of templates": lambda folder: template_in_tokenizer_config(folder, listed=True),
    "newlines as added tokens": both(newline_tokens, resized),
    "a resized vocabulary": resized,
    "yarn of old": config(
        rope_parameters=None,
        rope_theta=1e6,
        rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
    ),
}


def make_folder(start: Path, target: Path, change: Callable[[Path], object]) -> Path:
    """Copy a whole model folder and change it."""
    shutil.copytree(start, target)
    change(target)
    return target
