"""Model folders as they were published: in the form of transformers 4, with rope and tokenizer of several kinds."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM

from support.tiny_models import tiny_config
from thinktune.demo.tiny_model import ModelShape, make_model, make_tokenizer
from thinktune.files import read_json, write_json
from thinktune.model.twin import fill_weights

TEXTS = 3 * ["What does the heart pump? It pumps blood.", "心脏泵什么？心脏泵血液。", "Reasoning: a muscle."]
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}

# By name: what differs from a Qwen3 with tied embeddings and rope_theta 1,000,000 in transformers 4's form.
BASES = {
    "tied": {},
    "untied": {"tied": False},
    "yarn": {"scaling": YARN},
    "yarn of old": {"scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}},
    "transformers 5's form": {"scaling": YARN, "form": 5},
    "added tokens": {"added": True},
    "shards": {"shards": True, "dtype": "bfloat16"},
    "half": {"tied": False, "scaling": YARN, "dtype": "bfloat16"},
}


def make_base(folder: Path, name: str) -> Path:
    """Write a base of `BASES`."""
    made = {"tied": True, "scaling": None, "form": 4, "added": False, "dtype": "float32", "shards": False} | BASES[name]
    tokenizer = make_tokenizer(TEXTS, 400)
    if made["added"]:
        tokenizer.add_tokens([AddedToken("\n\n", normalized=False), AddedToken("心包炎", normalized=False)])
    config = {"rope_theta": 1_000_000.0} | (made["scaling"] or {})
    model = make_model(tokenizer, ModelShape())
    if not made["tied"]:
        model.config.tie_word_embeddings = False
        model = type(model)(model.config)
    model.to(getattr(torch, made["dtype"])).save_pretrained(folder)
    if made["shards"]:
        cut_into_shards(folder)
    tokenizer.save_pretrained(folder)
    written = read_json(folder / "config.json")
    written |= {"torch_dtype": written.pop("dtype"), "transformers_version": "4.51.0", "max_window_layers": 28}
    rope = written.pop("rope_parameters")
    if made["form"] == 5:
        written["rope_parameters"] = rope | config
    else:
        written |= {"rope_theta": 1_000_000, "rope_scaling": made["scaling"]}
    # Another layout and another order than any library would write.
    (folder / "config.json").write_text(json.dumps(dict(sorted(written.items())), indent=1), encoding="utf-8")
    described = read_json(folder / "tokenizer_config.json")
    for key in ("backend", "is_local"):
        described.pop(key, None)
    described |= {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": tokenizer.chat_template}
    write_json(folder / "tokenizer_config.json", described)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.backend_tokenizer.model.save(str(folder))  # vocab.json and merges.txt
    write_json(folder / "special_tokens_map.json", {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})
    return folder


def cut_into_shards(folder: Path) -> None:
    """Store a tied model in two shards under names of their own, its norms in fp32, and its head a second time."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    weights = {name: weight.float() if "norm" in name else weight for name, weight in weights.items()}
    places = {name: f"part-{1 + ('layers' in name)}-of-2.safetensors" for name in weights}
    for file in set(places.values()):
        save_file({name: weights[name] for name in places if places[name] == file}, folder / file, {"format": "pt"})
    sizes = {"total_size": sum(weight.nbytes for weight in weights.values())}
    write_json(folder / "model.safetensors.index.json", {"metadata": sizes, "weight_map": places})


def make_base_of_kind(folder: Path, kind: str) -> Path:
    """Write a base of one of `tiny_models.KINDS`, in shards, with the tokenizer of the others."""
    make_base(folder, "tied")
    named, config = read_json(folder / "config.json"), tiny_config(kind)
    for key in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, key, named.get(key))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fill_weights(model, 0)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="150KB")
    return folder


def keep_head_alone(folder: Path) -> Path:
    """Store the embedding that a tied model shares with its head under the head's name alone."""
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder
