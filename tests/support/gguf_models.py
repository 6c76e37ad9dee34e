"""Tiny model folders of the families that have a GGUF, each with a tokenizer of the kind that such models have."""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from thinktune.files import read_json, write_json
from thinktune.model.twin import fill_weights

TEXTS = (
    "What does the heart pump? It pumps blood, and it's 4 chambers.",
    "心脏泵什么？心脏泵血液。普通感冒由病毒引起。",
    "Reasoning: a muscle that moves 12345 litres.\n\nThe answer is 42.\n\n\n    indented  text",
    "HTTPServer camelCase naïve café — “quotes” … 😀 WE'LL don't",
)
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN.replace(r"\p{N}| ?", r"\p{N}{1,3}| ?")
CHAT = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512,
}  # fmt: skip
WINDOW = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
YARN = {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0, "original_max_position_embeddings": 128}
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
PRETOKENIZERS = {
    "qwen2": lambda: pre_tokenizers.Split(Regex(QWEN), "isolated"),
    "llama-bpe": lambda: pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
    "smollm": lambda: pre_tokenizers.Digits(individual_digits=True),
    "gpt-2": None,
}

# By name: the configuration's class, its switches, and the tokenizer's kind.
FAMILIES = {
    "qwen3": (Qwen3Config, {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, "qwen2"),
    "qwen3, yarn": (Qwen3Config, {"tie_word_embeddings": False, "rope_parameters": YARN}, "qwen2"),
    "qwen2": (Qwen2Config, {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, "qwen2"),
    "llama": (LlamaConfig, {"tie_word_embeddings": False, "rope_parameters": LLAMA3_ROPE}, "llama-bpe"),
    "llama, linear": (LlamaConfig, {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}, "mlp_bias": True, "attention_bias": True}, "gpt-2"),
    "smollm2": (LlamaConfig, {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}}, "smollm"),
    "gemma3": (Gemma3TextConfig, WINDOW | {"query_pre_attn_scalar": 16}, "gemma"),
}  # fmt: skip


def byte_level_tokenizer(pretokenizer: str, *, size: int = 420, bos: bool = False) -> PreTrainedTokenizerFast:
    """Train a byte-level tokenizer that cuts as one of `PRETOKENIZERS`, with control tokens and added words."""
    raw = Tokenizer(models.BPE(ignore_merges=pretokenizer == "llama-bpe"))
    cut = PRETOKENIZERS[pretokenizer]
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pretokenizer in ("smollm", "gpt-2"))
    raw.pre_tokenizer = pre_tokenizers.Sequence([cut(), last]) if cut else last
    if pretokenizer == "qwen2":
        raw.normalizer = normalizers.NFC()
    raw.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(3 * TEXTS, trainer)
    raw.add_tokens([AddedToken(text, normalized=False) for text in ("<think>", "</think>", "\n\n", "心脏")])
    if bos:
        start = ("<|endoftext|>", raw.token_to_id("<|endoftext|>"))
        raw.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[start]),
            ]
        )
    named = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"} | ({"bos_token": "<|endoftext|>"} if bos else {})
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, clean_up_tokenization_spaces=False, **named)
    tokenizer.chat_template = CHAT
    return tokenizer


def sentencepiece_tokenizer(*, prefix: bool = False, size: int = 700) -> PreTrainedTokenizerFast:
    """Train a tokenizer as Gemma's (or, with `prefix`, Llama 2's): blanks as ▁, bytes for what it does not know."""
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<|im_start|>", "<|im_end|>"]
    learned = Tokenizer(models.BPE())
    learned.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=control, show_progress=False, max_token_length=8)
    learned.train_from_iterator(3 * TEXTS, trainer)
    tree = json.loads(learned.to_str())["model"]
    vocabulary = dict(tree["vocab"])
    for number in range(256):
        vocabulary.setdefault(f"<0x{number:02X}>", len(vocabulary))
    # Every pair that makes a token is a merge, in the order of the tokens, as SentencePiece's tokenizers are converted.
    rank = {"".join(pair): at for at, pair in reversed([*enumerate(map(tuple, tree["merges"]))])}
    pairs = [
        (rank[text], len(text[:cut]), text[:cut], text[cut:])
        for text in rank
        for cut in range(1, len(text))
        if text[:cut] in vocabulary and text[cut:] in vocabulary
    ]
    merges = [(left, right) for _, _, left, right in sorted(pairs)]
    raw = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    replaced = normalizers.Replace(" ", "▁")
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replaced]) if prefix else replaced
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    raw.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in control])
    raw.add_tokens([AddedToken(text, normalized=False) for text in ("<think>", "</think>", "\n\n", "▁▁", "心脏")])
    bos = ("<bos>", raw.token_to_id("<bos>"))
    raw.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[bos])
    named = {"eos_token": "<|im_end|>", "pad_token": "<pad>", "bos_token": "<bos>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, clean_up_tokenization_spaces=False, **named)
    tokenizer.chat_template = CHAT
    return tokenizer


def make_gguf_model(folder: Path, name: str, *, dtype: str = "float32", **switches) -> Path:
    """Write a model folder of `FAMILIES`, in which every weight has an effect; its embedding has spare rows."""
    kind, options, pretokenizer = FAMILIES[name]
    if pretokenizer == "gemma":
        tokenizer = sentencepiece_tokenizer()
    else:
        tokenizer = byte_level_tokenizer(pretokenizer, bos=pretokenizer == "llama-bpe")
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    rows = len(tokenizer) + -len(tokenizer) % 32 + 32
    ids = {"eos_token_id": end, "pad_token_id": pad, "bos_token_id": tokenizer.bos_token_id}
    config = kind(vocab_size=rows, **SIZES | options | switches, **ids)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    fill_weights(model, 0)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.5, top_p=0.75, top_k=20, eos_token_id=[end, pad], pad_token_id=pad
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    described = read_json(folder / "tokenizer_config.json") | {"tokenizer_class": "PreTrainedTokenizerFast"}
    write_json(folder / "tokenizer_config.json", described)
    return folder
