"""Faults planted in an exported model folder, each of which an engine loads without a word."""

from pathlib import Path

from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, pre_tokenizers

from thinktune.files import read_json, write_json

WEIGHTS = "model.safetensors"


def edit_json(folder: Path, name: str, change) -> None:
    if (folder / name).is_file():
        values = read_json(folder / name)
        change(values)
        write_json(folder / name, values)


def wrong_rope(folder: Path) -> None:
    """Give it the base frequency that a release takes that does not find its own key."""

    def change(config):
        config["rope_theta"] = 1e4
        config.get("rope_parameters", {})["rope_theta"] = 1e4

    assert read_json(folder / "config.json")["rope_theta"] != 1e4
    edit_json(folder, "config.json", change)


def swapped_head(folder: Path) -> None:
    """Give two tokens each other's row of the head (or of the embedding, where that is the head)."""
    weights = load_file(folder / WEIGHTS)
    name = "lm_head.weight" if "lm_head.weight" in weights else "model.embed_tokens.weight"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    one, other = tokenizer.encode("think.", add_special_tokens=False).ids[:2]
    head = weights[name].clone()
    head[[one, other]] = head[[other, one]]
    save_file({**weights, name: head}, folder / WEIGHTS, {"format": "pt"})


def lost_end_token(folder: Path) -> None:
    """Name the end of turn in no file, so that replies run on to the other end token or to their limit."""
    edit_json(folder, "generation_config.json", lambda config: config.update(eos_token_id=0))
    edit_json(folder, "config.json", lambda config: config.update(eos_token_id=0))
    edit_json(folder, "tokenizer_config.json", lambda config: config.update(eos_token="<|endoftext|>"))


def wrong_pre_tokenizer(folder: Path) -> None:
    """Cut numbers and words as another family does."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    words = pre_tokenizers.Split(Regex(r"\p{N}{1,3}|[^\s\p{N}]+|\s+"), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, level])
    tokenizer.save(str(folder / "tokenizer.json"))


FAULTS = {each.__name__: each for each in (wrong_rope, swapped_head, lost_end_token, wrong_pre_tokenizer)}
