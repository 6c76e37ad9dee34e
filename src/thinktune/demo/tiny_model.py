"""A small Qwen3 with random weights and its tokenizer: for the demo, the tests and the benchmarks."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from thinktune.checkpoint.base_files import CONFIG_FILE
from thinktune.checkpoint.portable_config import portable_config
from thinktune.files import read_json, write_json

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
NON_SPECIAL_TOKENS = ("<think>", "</think>")  # single tokens, but kept when special ones are skipped, as in Qwen3

# Words with the space before them, numbers digit by digit, and each Chinese character by itself: in a vocabulary this
# small, longer runs would become whole sentences, and a name would be tokenized differently in every question.
PRETOKENIZER_PATTERN = r"\p{Han}| ?[^\s\p{L}\p{N}]+|\p{N}| ?(?!\p{Han})\p{L}(?:(?!\p{Han})\p{L})*|\s+(?!\S)|\s+"


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a Qwen3; the defaults are tiny."""

    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 16
    intermediate_size: int = 128

    def config(
        self, vocab_size: int, *, tie_word_embeddings: bool = True, max_position_embeddings: int = 4096, **more: Any
    ) -> Qwen3Config:
        """Return the configuration of a Qwen3 of this shape; `more` are further arguments of `Qwen3Config`."""
        return Qwen3Config(
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            max_position_embeddings=max_position_embeddings,
            tie_word_embeddings=tie_word_embeddings,
            **more,
        )


def make_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on texts, with Qwen3's control tokens and a chat template like Qwen3's."""
    raw = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(PRETOKENIZER_PATTERN), "isolated")
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    raw.add_tokens([AddedToken(token, special=False, normalized=False) for token in NON_SPECIAL_TOKENS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = files("thinktune.demo").joinpath("chat_template.jinja").read_text(encoding="utf-8")
    return tokenizer


def make_model(tokenizer: PreTrainedTokenizerFast, shape: ModelShape, seed: int = 0) -> Qwen3ForCausalLM:
    """Make a Qwen3 with random fp32 weights for this tokenizer; embedding and head are tied."""
    torch.manual_seed(seed)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    vocab_size = len(tokenizer) + -len(tokenizer) % 64
    model = Qwen3ForCausalLM(shape.config(vocab_size, bos_token_id=None, eos_token_id=end, pad_token_id=pad))
    model.generation_config.eos_token_id = [end, pad]
    model.generation_config.pad_token_id = pad
    return model


def save_model_folder(folder: Path, tokenizer: PreTrainedTokenizerFast, model: Qwen3ForCausalLM) -> None:
    """Save tokenizer and model as a folder that earlier releases of transformers and other engines load as well."""
    tokenizer.save_pretrained(folder)
    described = folder / "tokenizer_config.json"
    # Transformers 5 writes its own name of the class, which no other release or engine knows.
    write_json(described, read_json(described) | {"tokenizer_class": "PreTrainedTokenizerFast"})
    model.save_pretrained(folder)
    write_json(folder / CONFIG_FILE, portable_config(read_json(folder / CONFIG_FILE), {}))
