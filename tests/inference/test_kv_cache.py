"""KV cache: taken by the installed release's own name for it, or the reply is refused; never quietly left out."""

from contextlib import closing

import pytest
import torch
from support.generation import QUESTIONS, alone, ask, decided

from thinktune.inference.engine import Engine
from thinktune.inference.kv_cache import KVCache
from thinktune.inference.requests import GenerationError
from thinktune.model.forward import cache_argument

NAMES = ("cache", "past_key_values")


def rename_argument(module, new, old, *, drop=False):
    """Let a module's forward pass take its cache as `new`, as another release of transformers does, or drop it."""
    forward = module.forward

    def under_cache(*arguments, cache=None, **options):
        return forward(*arguments, **options, **({} if drop else {old: cache}))

    def under_past_key_values(*arguments, past_key_values=None, **options):
        return forward(*arguments, **options, **({} if drop else {old: past_key_values}))

    module.forward = {"cache": under_cache, "past_key_values": under_past_key_values}[new]


@pytest.mark.parametrize("name", NAMES)
def test_replies_are_the_same_whatever_the_release_calls_the_cache(model, tokenizer, name, recwarn):
    decided(model)
    with closing(Engine(model, tokenizer)) as engine:
        expected = [alone(engine, ask(question)) for question in QUESTIONS]
    rename_argument(model, name, cache_argument(model))
    assert cache_argument(model) == name
    with closing(Engine(model, tokenizer)) as engine:
        assert [alone(engine, ask(question)) for question in QUESTIONS] == expected
    assert [str(warning.message) for warning in recwarn if warning.category is FutureWarning] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_cache_that_is_taken_and_not_used_is_an_error(model, tokenizer, name):
    rename_argument(model, name, cache_argument(model), drop=True)
    with closing(Engine(model, tokenizer)) as engine:
        with pytest.raises(GenerationError, match=r"^transformers \d.*: Qwen3ForCausalLM does not use the KV cache"):
            alone(engine, ask("q?"))
        with pytest.raises(GenerationError, match="install another release"):
            list(engine.stream(ask("q?")))


def test_a_release_with_a_third_name_is_an_error(model, tokenizer):
    forward = model.forward

    def renamed(*arguments, kv_store=None, **options):
        options = {name: value for name, value in options.items() if name not in NAMES}
        return forward(*arguments, **options)

    model.forward = renamed
    assert cache_argument(model) is None
    with closing(Engine(model, tokenizer)) as engine, pytest.raises(GenerationError, match="does not use the KV cache"):
        alone(engine, ask("q?"))


def test_a_cached_pass_gives_the_logits_of_a_whole_one(model):
    decided(model).eval()
    ids = list(range(3, 20))
    with torch.no_grad():
        cache = KVCache(model)
        cache.prefill([ids[:9]])
        found = [cache.extend([[token]]) for token in ids[9:]]
        expected = model(torch.tensor([ids])).logits[0, 9:]
    torch.testing.assert_close(torch.cat(found), expected, rtol=1e-4, atol=1e-4)
