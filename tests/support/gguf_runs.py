"""A tiny run whose tokenizer llama.cpp knows, and whose end token it does not know by its text."""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from support.bases import make_base
from support.exported_runs import train_export_run
from thinktune.files import read_json, write_json

# Qwen2's own, which llama.cpp has under that name.
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# A vocabulary in which it matters where text is cut: with pieces of numbers, and of words with what is around them.
TEXTS = 9 * ["12 345 1998 3.14 it's they'll  a  b (x) ? heart one? lung think. 心脏 肺 12345 42 \n\n I'm one two"]
END_TOKEN = "<|done|>"  # llama.cpp ends a reply at <|im_end|> by its text alone, whatever a file says


def make_gguf_base(folder: Path, name: str = "untied") -> Path:
    """Write a base of `bases.BASES` with Qwen2's pre-tokenizer and another end token."""
    make_base(folder, name)
    for path in folder.iterdir():
        if path.suffix in (".json", ".jinja"):
            path.write_text(path.read_text(encoding="utf-8").replace("<|im_end|>", END_TOKEN), encoding="utf-8")
    tokenizer = read_json(folder / "tokenizer.json")
    split = {"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=len(tokenizer["model"]["vocab"]),
        special_tokens=["<|endoftext|>", "<|im_start|>", END_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(TEXTS, trainer)
    raw.model.save(str(folder))
    trained = json.loads(raw.to_str())["model"]
    assert len(trained["vocab"]) == len(tokenizer["model"]["vocab"])
    tokenizer |= {
        "model": trained,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "normalizer": {"type": "NFC"},
    }
    write_json(folder / "tokenizer.json", tokenizer)
    return folder


def train_gguf_run(folder: Path) -> Path:
    """Train a run of such a base."""
    return train_export_run(folder, make=make_gguf_base)
