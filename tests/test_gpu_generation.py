"""Tests of generation that need a card: `pytest -m gpu`; without a card they are skipped."""

from contextlib import closing

import pytest
import torch
from support.generation import QUESTIONS, ask, decided

from thinktune.distributed import SINGLE
from thinktune.inference.decode_runner import DecodeRunner, decodes_statically
from thinktune.inference.engine import Engine
from thinktune.inference.kv_cache import KVCache
from thinktune.inference.requests import SamplingParams
from thinktune.inference.sampling.sampler import Sampler

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card on this machine: nothing here was checked"),
]
REQUESTS = [
    ask(question, 40 + 30 * number, seed=number, **settings)
    for number, question in enumerate(QUESTIONS)
    for settings in ({}, {"temperature": 0.7, "top_k": 20, "top_p": 0.9}, {"temperature": 1.0})
]


@pytest.fixture(autouse=True)
def fresh():
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def made(model):
    return decided(model).eval().to("cuda")


def test_replies_by_graphs_are_those_of_plain_passes(made, tokenizer, recwarn):
    assert decodes_statically(made, SINGLE)
    found = []
    for decode in ("plain", "auto"):
        with closing(Engine(made, tokenizer, max_sequences=4, decode=decode)) as engine:
            found.append(engine.complete_ids(REQUESTS))
    assert found[0] == found[1]
    assert [str(warning.message) for warning in recwarn if "captured" in str(warning.message)] == []


@pytest.mark.parametrize("is_static", [False, True])
def test_a_token_waits_for_the_card_once(made, is_static):
    runner = DecodeRunner(made, is_static=is_static)
    samplers = [Sampler(SamplingParams(9)), Sampler(SamplingParams(9, 1.0, top_k=20, seed=1))]
    with torch.inference_mode():
        cache = KVCache(made)
        cache.prefill([[3, 4, 5], [6]])
        for _ in range(3):  # allocation and capture at first use may wait
            runner.decode(cache, [3, 4], samplers).tokens.tolist()
        assert len(runner._graphs) == is_static
        torch.cuda.set_sync_debug_mode("error")
        tokens = runner.decode(cache, [3, 4], samplers).tokens
        with pytest.raises(RuntimeError, match="synchroniz"):
            tokens.tolist()  # otherwise the check was off
        torch.cuda.set_sync_debug_mode("default")


def test_a_graph_gives_the_logits_of_the_pass_that_it_repeats(made):
    """Both run the same kernels on the same numbers."""
    samplers = [Sampler(SamplingParams(99)) for _ in range(3)]
    with torch.inference_mode():
        found = []
        for is_static in (False, True):
            runner, cache = DecodeRunner(made, is_static=is_static), KVCache(made)
            cache.prefill([[3, 4, 5], [6], [7, 8]])
            tokens = [[3, 4, 5]]
            for _ in range(300):  # past the first growth of the cache
                tokens.append(runner.decode(cache, tokens[-1], samplers).tokens.tolist())
            found.append((tokens, cache))
        assert found[0][0] == found[1][0]
        for layer, pair in found[0][1]._buffers.items():
            for mine, theirs in zip(pair, found[1][1]._buffers[layer], strict=True):
                torch.testing.assert_close(mine[:3, :, :300], theirs[:3, :, :300], rtol=1e-3, atol=1e-3)


def reads_values(_, arguments):
    assert not arguments[0].isnan().any()


def test_a_capture_that_reads_values_falls_back_and_torch_frees_memory_afterwards(made):
    made.model.layers[1].register_forward_pre_hook(reads_values)
    runner, samplers = DecodeRunner(made, is_static=True), [Sampler(SamplingParams(9))]
    with torch.inference_mode():
        cache = KVCache(made)
        cache.prefill([[3]])
        runner.decode(cache, [3], samplers)
        with pytest.warns(UserWarning, match="could not be captured"):
            runner.decode(cache, [3], samplers)
        assert runner.decode(cache, [3], samplers).tokens.tolist()[0] >= 0
    free, _ = torch.cuda.mem_get_info()
    half = torch.empty(free * 6 // 10, dtype=torch.uint8, device="cuda")
    del half
    torch.empty(free * 9 // 10, dtype=torch.uint8, device="cuda")  # only if what is kept for later can be given back
