"""Generation of every kind of model: what rows that share passes get is what the class's own forward pass gives each."""

import functools
from contextlib import closing

import pytest
import torch
from support.generated_models import KINDS, RECURRENT, VOCABULARY, generated_model, own_logits
from support.generation import QUESTIONS, ask

from thinktune.inference import engine as engine_module
from thinktune.inference.engine import Engine
from thinktune.inference.kv_cache import KVCache
from thinktune.inference.replies import Detokenizer, SpecialTokens
from thinktune.inference.requests import GenerationError, render_request

QUICK = [
    "gemma2",
    "gemma4 shared",
    "gpt-oss",
    "llama4",
    "mistral window",
    "smollm3",
    "deepseek v3",
    "granite",
    "qwen3.5",
    "lfm2",
]


class Rows:
    """Rows in a cache, and the same tokens beside it; holds every pass against each row alone."""

    def __init__(self, model, tolerance=1e-4, seed=5):
        self.model, self.tolerance = model, tolerance
        self.cache, self.rows = KVCache(model), []
        self._generator = torch.Generator().manual_seed(seed)

    def tokens(self, count):
        return torch.randint(3, VOCABULARY, (count,), generator=self._generator).tolist()

    def check(self, found, rows):
        expected = own_logits(self.model, rows)
        assert (found - expected).abs().max() <= self.tolerance * expected.abs().max().clamp(min=1)

    def join(self, *lengths):
        prompts = [self.tokens(length) for length in lengths]
        self.check(self.cache.prefill(prompts), prompts)
        self.rows += [list(prompt) for prompt in prompts]

    def join_in_chunks(self, *lengths):
        chunks, cache = [self.tokens(length) for length in lengths], KVCache(self.model)
        cache.prefill(chunks[:1])
        for chunk in chunks[1:]:
            found = cache.extend([chunk])
        self.check(found, [[token for chunk in chunks for token in chunk]])
        self.cache.adopt(cache)
        self.rows.append([token for chunk in chunks for token in chunk])

    def decode(self, times):
        for _ in range(times):
            for row, token in zip(self.rows, self.tokens(len(self.rows)), strict=True):
                row.append(token)
            self.check(self.cache.extend([row[-1:] for row in self.rows]), self.rows)

    def leave(self, row):
        self.cache.free(row)
        self.rows[row] = self.rows[-1]
        self.rows.pop()


def come_and_go(rows):
    """Prompts of unequal length join together, later, in chunks and after all have left, and leave at other times."""
    with torch.no_grad():
        rows.join(7, 13, 2)
        rows.decode(2)
        rows.join(9)
        rows.decode(1)
        rows.leave(0)
        rows.leave(0)
        rows.decode(2)
        if not rows.cache.reads_whole_prompts:
            rows.join_in_chunks(5, 4, 3)
            rows.decode(2)
        while rows.rows:
            rows.leave(0)
        rows.join(3, 6)
        rows.decode(1)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in KINDS]
)
def test_rows_that_share_passes_get_what_each_gets_alone(kind):
    model = generated_model(kind)
    model.set_attn_implementation("thinktune_rows")
    rows = Rows(model)
    assert rows.cache.reads_whole_prompts == (kind in RECURRENT)
    come_and_go(rows)
    assert model.config._attn_implementation == "thinktune_rows"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_model_that_has_no_attention_for_packed_rows_keeps_prompts_apart(attention):
    model = generated_model("llama")
    model.set_attn_implementation(attention)
    come_and_go(Rows(model))


@pytest.mark.parametrize("kind", ["gemma2", "gemma3", "qwen3.5"])
def test_rows_in_bf16_get_what_each_gets_alone(kind):
    model = generated_model(kind, torch.bfloat16)
    model.set_attn_implementation("thinktune_rows")
    come_and_go(Rows(model, tolerance=0.08))


def replies_by_own_forward_pass(model, tokenizer, requests):
    """Reply greedily to each request alone, by whole forward passes without a cache."""
    special = SpecialTokens.from_tokenizer(tokenizer, model.generation_config.eos_token_id)
    replies = []
    for request in requests:
        prompt = render_request(request, tokenizer, 256).prompt_ids
        detokenizer, ids = Detokenizer(request.sampling, special, prompt), list(prompt)
        while detokenizer.finish_reason is None:
            ids.append(detokenizer.next_token(int(own_logits(model, [ids]).argmax())))
            detokenizer.append(ids[-1])
        replies.append(detokenizer.completion())
    return replies


@pytest.mark.parametrize("kind", ["gemma3", "qwen3.5"])
def test_the_engine_replies_as_the_models_own_forward_pass_does(kind, tokenizer, monkeypatch):
    monkeypatch.setattr(engine_module, "MAX_PREFILL_TOKENS", 24)  # so that some prompts take several passes
    model = generated_model(kind, vocab_size=len(tokenizer))
    requests = [ask(question, 3 + 2 * number) for number, question in enumerate(QUESTIONS)]
    expected = replies_by_own_forward_pass(model, tokenizer, requests)
    model.set_attn_implementation("thinktune_rows")
    with closing(Engine(model, tokenizer, max_sequences=3)) as engine:
        assert engine.complete_all(requests) == expected


@pytest.mark.parametrize("kind", ["llama", "qwen3.5"])
def test_replies_go_on_after_a_pass_that_ran_out_of_memory_half_way(kind, tokenizer):
    model = generated_model(kind, vocab_size=len(tokenizer))
    requests = [ask(question, 6) for question in QUESTIONS[:3]]
    expected = replies_by_own_forward_pass(model, tokenizer, requests)
    model.set_attn_implementation("thinktune_rows")
    passes = []

    def fail_in_the_last_layer(_, arguments):
        passes.append(arguments[0].shape[0])
        if passes.count(3) == 2 and None not in passes:
            passes.append(None)
            raise torch.OutOfMemoryError("planted")

    hook = model.model.layers[-1].register_forward_pre_hook(fail_in_the_last_layer)
    with closing(Engine(model, tokenizer)) as engine:
        assert engine.complete_all(requests) == expected
    hook.remove()
    assert None in passes, "no pass failed"


def test_an_attention_option_that_is_not_known_is_an_error(model):
    forward = model.forward

    @functools.wraps(forward)
    def with_blocks(*arguments, **options):
        return forward(*arguments, **options, block_indices=torch.zeros(1))

    model.forward = with_blocks
    with torch.no_grad(), pytest.raises(GenerationError, match=r"takes block_indices, which is not known"):
        KVCache(model).prefill([[3, 4, 5]])
    assert model.config._attn_implementation == "thinktune_rows"
