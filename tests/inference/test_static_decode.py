"""Decode passes with static shapes: the tokens of plain passes, repeated as a graph without Python, or plain by rule."""

import functools
from contextlib import closing

import pytest
import torch
from support.generated_models import KINDS, RECURRENT, generated_model
from support.generation import QUESTIONS, ask, decided, run_batch, sequences_of
from support.recorded_graph import count_launches, record_graph

from thinktune.demo.tiny_model import ModelShape, make_model
from thinktune.distributed import SINGLE, World
from thinktune.inference import kv_cache, static_proof
from thinktune.inference.decode_runner import MAX_GRAPHS, DecodeRunner, decodes_statically
from thinktune.inference.engine import Engine
from thinktune.inference.kv_cache import KVCache
from thinktune.inference.requests import SamplingParams
from thinktune.inference.sampling.sampler import Sampler, draw, sample_slots, sampling_numbers
from thinktune.inference.static_proof import HostReadError, RefuseHostReads, prove_static_decode, static_problem
from thinktune.model.proof import build, plain_class

SAMPLED = [
    {},
    {"temperature": 1.5},
    {"temperature": 0.7, "top_k": 5, "top_p": 0.8},
    {"temperature": 1.0, "top_p": 0.6},
]
REQUESTS = [
    ask(question, 4 + 3 * number + 9 * (number == 3), seed=number, **settings)
    for number, question in enumerate(QUESTIONS)
    for settings in SAMPLED
]
QUICK = ["qwen3", "gemma2", "gemma4 shared", "gpt-oss", "llama4", "mistral window", "deepseek v3", "smollm3"]


@pytest.fixture
def small_steps(monkeypatch):
    """Let a cache grow, and graphs be made again, many times within a short reply."""
    monkeypatch.setattr(kv_cache, "GROW_COLUMNS", 16)
    monkeypatch.setattr(kv_cache, "GROW_ROWS", 2)


@pytest.fixture
def model(model):
    return decided(model)


@pytest.fixture(scope="module")
def expected(tokenizer):
    with closing(Engine(decided(make_model(tokenizer, ModelShape())), tokenizer, max_sequences=3)) as engine:
        return engine.complete_ids(REQUESTS)


def replies(model, tokenizer, runner):
    return run_batch(model, runner, sequences_of(model, tokenizer, REQUESTS), 3)


def test_static_passes_write_the_tokens_of_plain_ones(model, tokenizer, expected, small_steps):
    with closing(Engine(model, tokenizer, max_sequences=3, decode="static")) as engine:
        assert engine.complete_ids(REQUESTS) == expected
    assert len({tuple(reply) for reply in expected}) > len(QUESTIONS), "sampling changed nothing"


def test_a_graph_repeats_what_its_pass_launched_and_nothing_of_its_python(model, tokenizer, expected, small_steps):
    graphs, replays = [], []

    def capture(step):
        graphs.append(replay := record_graph(step))
        return lambda: (replays.append(None), replay())[1]

    runner = DecodeRunner(model, is_static=True, capture=capture)
    assert replies(model, tokenizer, runner) == expected
    assert runner.is_static
    assert len(replays) > 2 * len(graphs) > 8


def test_a_token_costs_a_copy_and_a_launch_whatever_the_layers(model):
    samplers = [Sampler(SamplingParams(9, **settings)) for settings in SAMPLED]
    cache, launched = KVCache(model.eval()), []

    def capture(step):
        found = record_graph(step)()
        return lambda: (launched.append(None), found)[1]

    with torch.no_grad():
        cache.prefill([[3, 4], [5], [6, 7, 8], [9]])
        runner, plain = DecodeRunner(model, is_static=True, capture=capture), DecodeRunner(model, is_static=False)
        for _ in range(2):
            runner.decode(cache, [3] * 4, samplers)
        launched.clear()
        after = count_launches(lambda: runner.decode(cache, [3] * 4, samplers)) + len(launched)
        before = count_launches(lambda: plain.decode(cache, [3] * 4, samplers))
    # What the host knows is copied to where a card reads it, from there to the card, and the graph is launched.
    assert (len(launched), after) == (1, 3)
    assert before > 40 * model.config.num_hidden_layers


def test_a_cache_that_has_moved_is_captured_again(model, small_steps):
    """It grows when others join; when they have left, the pass has the size that was captured before."""
    found = []
    for runner in (
        DecodeRunner(model.eval(), is_static=False),
        DecodeRunner(model, is_static=True, capture=record_graph),
    ):
        with torch.inference_mode():
            cache, tokens = KVCache(model), [3]
            cache.prefill([[3, 4]])
            for joining in (True, False):
                for _ in range(3):
                    tokens += runner.decode(cache, tokens[-1:], [Sampler(SamplingParams(9))]).tokens.tolist()
                if joining:
                    cache.prefill([[5], [6, 7]])
                    tokens += runner.decode(
                        cache, [tokens[-1], 3, 3], [Sampler(SamplingParams(9)) for _ in range(3)]
                    ).tokens.tolist()[:1]
                    cache.free(2)
                    cache.free(1)
        found.append(tokens)
    assert found[0] == found[1]


@pytest.mark.parametrize("slots", [1, 2, 4, 8])
def test_slots_are_sampled_as_rows_are(slots):
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        logits = torch.randn(slots, 300, generator=generator)
        mine, theirs = (
            [Sampler(SamplingParams(1, **SAMPLED[row % 4], seed=row)) for row in range(slots)] for _ in range(2)
        )
        groups = sorted({sampler.group for sampler in mine if sampler.group})
        numbers = [1 + groups.index(sampler.group) if sampler.group else 0 for sampler in mine]
        given = torch.tensor([sampling_numbers(sampler) for sampler in mine]).T.unbind()
        assert sample_slots(logits, groups, torch.tensor(numbers), given).tolist() == (
            draw(logits, theirs).tokens.tolist()
        )


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in KINDS]
)
def test_a_class_decodes_statically_where_that_is_proved_and_plainly_where_a_state_moves(kind):
    model = generated_model(kind)
    model.set_attn_implementation("thinktune_rows")
    problem = static_problem(model)
    if kind in RECURRENT:
        assert problem == "its layers have a recurrent state"
    elif kind in QUICK or problem is None:
        prove_static_decode(model)
    else:
        assert "the host" in problem, problem
    assert decodes_statically(model, SINGLE, "static") == (problem is None)


def test_passes_are_plain_on_the_cpu_on_many_ranks_and_where_that_is_asked(model):
    assert decodes_statically(model, SINGLE, "static")
    assert not decodes_statically(model, SINGLE)
    assert not decodes_statically(model, SINGLE, "plain")
    assert not decodes_statically(model, World(0, 2), "static")
    model.with_unsharded_root = lambda function: function()
    assert "sharded" in static_problem(model)


def test_a_class_that_counts_columns_on_the_host_is_not_proved(monkeypatch):
    model = generated_model("llama")
    model.set_attn_implementation("thinktune_rows")
    forward = model.model.forward

    @functools.wraps(forward)
    def counting(*arguments, **options):
        cache = next(value for value in options.values() if isinstance(value, KVCache))
        options["position_ids"] = options["position_ids"] + cache.get_seq_length()
        return forward(*arguments, **options)

    model.model.forward = counting
    with torch.no_grad(), pytest.raises(ValueError, match="its logits differ by"):
        prove_static_decode(model)


def reads_values(_, arguments):
    assert not arguments[0].isnan().any()


def test_a_class_that_reads_values_is_not_proved():
    model = generated_model("llama")
    model.set_attn_implementation("thinktune_rows")
    model.model.layers[1].register_forward_pre_hook(reads_values)
    with torch.no_grad(), pytest.raises(HostReadError, match="the host"):
        prove_static_decode(model)


READS = {
    "item": lambda tensor: tensor.sum().item(),
    "tolist": lambda tensor: tensor.tolist(),
    "numpy": lambda tensor: tensor.numpy(),
    "if": lambda tensor: 1 if tensor.any() else 0,
    "mask": lambda tensor: tensor[tensor > 1],
    "nonzero": lambda tensor: tensor.nonzero(),
    "list index": lambda tensor: tensor[[0, 1]],
    "a tensor of Python's": lambda tensor: tensor + torch.tensor([1.0] * 4),
    "unique": lambda tensor: tensor.unique(),
    "repeats": lambda tensor: tensor.repeat_interleave(torch.ones(4).long()),
    "a write by mask": lambda tensor: tensor.__setitem__(
        tensor > 1, tensor[:1]
    ),  # of a number, torch 2.15 reads nothing
    "cpu": lambda tensor: tensor.cpu(),
}


@pytest.mark.parametrize("read", READS)
def test_a_read_by_the_host_is_refused(read):
    tensor = torch.arange(4.0)
    READS[read](tensor.clone())
    with RefuseHostReads(), pytest.raises(HostReadError):
        READS[read](tensor)
    READS[read](tensor)
    with RefuseHostReads():
        assert tensor.add(1).softmax(-1)[1:].masked_fill(tensor[1:] > 2, 0).shape == (3,)


@pytest.mark.parametrize("error", [RuntimeError("operation not permitted"), torch.OutOfMemoryError("full")])
def test_a_capture_that_fails_is_said_once_and_the_replies_are_the_same(model, tokenizer, expected, error):
    def capture(step):
        step()
        raise error

    runner = DecodeRunner(model, is_static=True, capture=capture)
    with pytest.warns(
        UserWarning, match=r"Qwen3ForCausalLM: a token of a reply could not be captured .*\(.*\)"
    ) as said:
        assert replies(model, tokenizer, runner) == expected
    assert len(said) == 1
    assert (runner.is_static, runner.fault) == (False, error)


def test_a_pass_that_ran_out_of_memory_half_way_takes_no_random_number(model, tokenizer, expected, small_steps):
    passes = []

    def fail_in_the_last_layer(_, arguments):
        passes.append(None)
        if len(passes) in (9, 31):
            raise torch.OutOfMemoryError("planted")

    hook = model.model.layers[-1].register_forward_pre_hook(fail_in_the_last_layer)
    with closing(Engine(model, tokenizer, max_sequences=3, decode="static")) as engine:
        assert engine.complete_ids(REQUESTS) == expected
    hook.remove()


def test_no_more_graphs_are_kept_than_a_few(model):
    samplers = [[Sampler(SamplingParams(9, 1.0, top_k=k))] for k in range(1, MAX_GRAPHS + 4)]
    captured = []
    runner = DecodeRunner(model.eval(), is_static=True, capture=lambda step: captured.append(None) or step)
    with torch.no_grad():
        cache = KVCache(model)
        cache.prefill([[3]])
        for each in samplers:
            for _ in range(2):
                runner.decode(cache, [3], each)
        assert len(captured) == len(samplers)
        assert len(runner._graphs) == MAX_GRAPHS
        runner.decode(cache, [3], samplers[-1])
        assert len(captured) == len(samplers)


def test_a_pass_needs_no_values_at_all():
    """On the meta device there are none: whatever reads one, or mixes in a tensor of the host, raises."""
    known = generated_model("qwen3")
    model = build(plain_class(type(known)), known.config, "meta").eval()
    model.set_attn_implementation("thinktune_rows")
    cache = KVCache(model)
    with torch.no_grad():
        cache.prefill([[3, 4]])
        runner = DecodeRunner(model, is_static=True)
        sampler = Sampler(SamplingParams(9, 1.0, top_p=0.5))
        for _ in range(3):
            assert runner.decode(cache, [3], [sampler]).tokens.is_meta
    assert cache.lengths == [5]


def test_a_proof_is_made_once_and_changes_nothing(model, monkeypatch):
    monkeypatch.setattr(static_proof, "_PROVED", {})
    state, modes = torch.get_rng_state(), (torch.is_grad_enabled(), model.training)
    assert static_problem(model) is None
    assert torch.equal(state, torch.get_rng_state())
    assert (torch.is_grad_enabled(), model.training) == modes
    monkeypatch.setattr(static_proof, "prove_static_decode", None)
    assert static_problem(model) is None
