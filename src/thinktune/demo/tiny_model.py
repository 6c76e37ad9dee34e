"""A small Qwen3 with its tokenizer, made on the spot: for the demo, the tests and the benchmarks."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


NON_SPECIAL_TOKENS = ("<think>", "</think>")  # one token each but, as in Qwen3, kept when control tokens are skipped


# Words with the space before them, numbers digit by digit, and each Chinese character by itself: in a vocabulary this
# small, longer runs would become whole sentences, and a name would be cut differently in every question.
PRETOKENIZER_PATTERN = r"\p{Han}| ?[^\s\p{L}\p{N}]+|\p{N}| ?(?!\p{Han})\p{L}(?:(?!\p{Han})\p{L})*|\s+(?!\S)|\s+"


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Shapes of a Qwen3, small ones if nothing else is said."""

    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 16
    intermediate_size: int = 128

    def config(
        self, vocab_size: int, *, tie_word_embeddings: bool = True, max_position_embeddings: int = 4096, **more: Any
    ) -> Qwen3Config:
        """The configuration of a Qwen3 of this size; `more` is what else transformers takes."""
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
    """A byte-level BPE tokenizer trained on texts, with Qwen3's turn and think tokens and a template like Qwen3's."""
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


def make_model(tokenizer: Any, shape: ModelShape, seed: int = 0) -> Any:
    """A Qwen3 of random weights, fp32, tied, for this tokenizer."""
    torch.manual_seed(seed)
    ends: dict[str, Any] = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = Qwen3ForCausalLM(shape.config(len(tokenizer) + -len(tokenizer) % 64, bos_token_id=None, **ends))
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model
