"""A tiny run whose tokenizer llama.cpp knows, and whose end token it does not know by its text."""

from pathlib import Path

from support.bases import make_base
from support.exported_runs import train_export_run
from thinktune.files import read_json, write_json

# Qwen2's own, which llama.cpp has under that name.
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
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
    tokenizer |= {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "normalizer": {"type": "NFC"},
    }
    write_json(folder / "tokenizer.json", tokenizer)
    return folder


def train_gguf_run(folder: Path) -> Path:
    """Train a run of such a base."""
    return train_export_run(folder, make=make_gguf_base)
