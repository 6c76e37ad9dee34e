"""Penalties, biases and min-p: each by its definition, alone and in mixed batches, plain and with static shapes."""

from contextlib import closing
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.generation import QUESTIONS, ask, decided, run_batch, sequences_of
from support.recorded_graph import record_graph
from transformers import LogitsProcessorList, MinPLogitsWarper, RepetitionPenaltyLogitsProcessor
from transformers.generation.logits_process import SequenceBiasLogitsProcessor, TemperatureLogitsWarper

from thinktune.demo.tiny_model import ModelShape, make_model
from thinktune.errors import UserError
from thinktune.inference.decode_runner import DecodeRunner
from thinktune.inference.engine import Engine
from thinktune.inference.kv_cache import KVCache
from thinktune.inference.requests import SamplingParams, render_request
from thinktune.inference.sampling.penalties import LogitChanges, change_logits
from thinktune.inference.sampling.sampler import Sampler, draw, sample_slots, sampling_numbers

VOCABULARY = 30
penalties = st.sampled_from([-2.0, -0.5, 0.0, 0.4, 2.0])
tokens = st.integers(0, VOCABULARY - 1)
samplings = st.builds(
    SamplingParams,
    st.just(9),
    frequency_penalty=penalties,
    presence_penalty=penalties,
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.5]),
    logit_bias=st.dictionaries(tokens, st.sampled_from([-100.0, -1.0, 0.0, 3.5, 100.0]), max_size=4).map(
        lambda found: tuple(found.items())
    ),
)
rows = st.lists(
    st.tuples(samplings, st.lists(tokens, max_size=8), st.lists(tokens, max_size=8)), min_size=1, max_size=4
)


def by_definition(logits, sampling, prompt, reply):
    """OpenAI's penalties and bias, and CTRL's repetition penalty, token by token."""
    found = []
    for token, logit in enumerate(logits):
        logit += dict(sampling.logit_bias).get(token, 0)
        if token in prompt or token in reply:
            logit = logit / sampling.repetition_penalty if logit > 0 else logit * sampling.repetition_penalty
        count = reply.count(token)
        found.append(logit - count * sampling.frequency_penalty - (count > 0) * sampling.presence_penalty)
    return found


def changes_of(sampling, prompt, reply):
    """Make the changes as a reply makes them: one token after another."""
    ids = list(prompt)
    changes = LogitChanges(sampling, ids, len(prompt))
    for token in reply:
        changes.table()
        ids.append(token)
    return changes


@given(rows, st.integers(0, 99))
@settings(max_examples=40)
def test_logits_are_changed_by_the_definitions_alone_and_beside_others(given_rows, seed):
    logits = torch.randn(len(given_rows), VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 5
    found = change_logits(logits, [changes_of(*row) for row in given_rows])
    for row, mine in enumerate(given_rows):
        expected = torch.tensor(by_definition(logits[row].tolist(), *mine))
        torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(found[row], change_logits(logits[row, None], [changes_of(*mine)])[0])


def test_a_row_that_asks_for_nothing_keeps_its_bits_and_what_is_not_finite_stays_so():
    logits = torch.randn(2, VOCABULARY)
    assert change_logits(logits, [None, None]) is logits
    logits[:, 3], logits[:, 4] = float("-inf"), 3e38
    extreme = SamplingParams(9, repetition_penalty=1e-9, logit_bias=((3, 100.0), (4, 100.0)))
    huge = SamplingParams(9, repetition_penalty=1e300)
    found = change_logits(logits, [changes_of(extreme, [3, 4], [4]), None])
    assert torch.equal(found[1], logits[1])
    assert (found[0, 3], found[0, 4].isfinite()) == (float("-inf"), True)
    assert change_logits(logits * 1e-38, [changes_of(huge, [*range(5, 30)], []), None])[0, 5:].isfinite().all()


@pytest.mark.parametrize("seed", range(2))
def test_changes_and_min_p_are_those_of_transformers_processors(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, VOCABULARY, generator=generator) * 3
    ids = torch.randint(VOCABULARY, (1, 12), generator=generator)
    bias = ((3, 2.0), (4, -1.5))
    sampling = SamplingParams(9, repetition_penalty=1.4, logit_bias=bias)
    theirs = LogitsProcessorList(
        [
            SequenceBiasLogitsProcessor([[[token], value] for token, value in bias]),
            RepetitionPenaltyLogitsProcessor(1.4),
        ]
    )
    found = change_logits(logits, [changes_of(sampling, ids[0, :7].tolist(), ids[0, 7:].tolist())])
    torch.testing.assert_close(found, theirs(ids, logits))
    for temperature, min_p in ((1.0, 0.05), (0.7, 0.3), (1.8, 0.02)):
        warped = MinPLogitsWarper(min_p)(ids, TemperatureLogitsWarper(temperature)(ids, logits))
        expected = set(torch.nonzero(warped[0].isfinite())[:, 0].tolist())
        samplers = [Sampler(SamplingParams(9, temperature, min_p=min_p, seed=number)) for number in range(2000)]
        drawn = draw(logits.expand(2000, -1), samplers).tokens
        shares = torch.bincount(drawn, minlength=VOCABULARY) / 2000
        assert set(drawn.tolist()) <= expected
        assert (shares - warped[0].softmax(-1)).abs().max() < 0.05


def test_min_p_is_cut_before_top_p():
    logits = torch.tensor([[0.5, 0.2, 0.15, 0.1, 0.05]]).log()
    cuts = SamplingParams(9, 1.0, 0.72)
    for sampling, kept in (
        (cuts, {0, 1, 2}),
        (replace(cuts, min_p=0.25), {0, 1}),  # min-p keeps 0.85, of which the first two are 0.82
    ):
        samplers = [Sampler(replace(sampling, seed=number)) for number in range(300)]
        assert set(draw(logits.expand(300, -1), samplers).tokens.tolist()) == kept


def test_min_p_in_slots_is_min_p_in_rows():
    logits = torch.randn(64, VOCABULARY, generator=torch.Generator().manual_seed(1)) * 2
    asked = [SamplingParams(9, 1.0, min_p=0.3 * (row % 3), seed=row) for row in range(64)]
    mine, theirs = ([Sampler(each) for each in asked] for _ in range(2))
    groups = sorted({sampler.group for sampler in mine})
    numbers = torch.tensor([1 + groups.index(sampler.group) for sampler in mine])
    given_numbers = torch.tensor([sampling_numbers(sampler) for sampler in mine]).T.unbind()
    found = sample_slots(logits, groups, numbers, given_numbers).tolist()
    assert found == draw(logits, theirs).tokens.tolist()
    assert len(groups) == 2


ASKED = [
    {"frequency_penalty": 0.7, "presence_penalty": 0.4},
    {},
    {"temperature": 1.2, "repetition_penalty": 1.3, "min_p": 0.02},
    {"temperature": 0.8, "top_p": 0.9},
    {"frequency_penalty": -1.5, "logit_bias": ((17, 4.0),), "top_logprobs": 2},
    {"temperature": 1.0, "min_p": 0.1, "top_k": 40},
    {"top_logprobs": 0},
]
REQUESTS = [
    ask(QUESTIONS[number % len(QUESTIONS)], 9 + 4 * number, seed=number, **asked) for number, asked in enumerate(ASKED)
]


@pytest.fixture
def model(model):
    return decided(model)


@pytest.fixture(scope="module")
def expected(tokenizer):
    """Return the reply to each request alone, by plain passes."""
    with closing(Engine(decided(make_model(tokenizer, ModelShape())), tokenizer, decode="plain")) as engine:
        return [engine.complete_ids([request])[0] for request in REQUESTS]


@pytest.mark.parametrize("decode", ["plain", "static"])
def test_replies_in_a_mixed_batch_are_those_given_alone(model, tokenizer, expected, decode):
    with closing(Engine(model, tokenizer, max_sequences=4, decode=decode)) as engine:
        assert engine.complete_ids(REQUESTS) == expected


def test_a_graph_of_logits_is_repeated_and_what_follows_it_is_not_in_it(model, tokenizer, expected):
    captured = []
    runner = DecodeRunner(
        model.eval(), is_static=True, capture=lambda step: captured.append(None) or record_graph(step)
    )
    assert run_batch(model, runner, sequences_of(model, tokenizer, REQUESTS), 3) == expected
    assert captured
    assert runner.is_static


def test_penalties_count_each_token_once_where_memory_ran_out_and_replies_were_read_again(model, tokenizer, expected):
    passes = []

    def fail_in_the_last_layer(_, arguments):
        passes.append(None)
        if len(passes) in (9, 24, 33):
            raise torch.OutOfMemoryError("planted")

    hook = model.model.layers[-1].register_forward_pre_hook(fail_in_the_last_layer)
    with closing(Engine(model, tokenizer, max_sequences=4)) as engine:
        assert engine.complete_ids(REQUESTS) == expected
    hook.remove()
    assert len(passes) > 33


@pytest.mark.parametrize("question", QUESTIONS[:2])
def test_a_greedy_reply_with_a_repetition_penalty_is_that_of_transformers_generate(model, tokenizer, question):
    with closing(Engine(model, tokenizer)) as engine:
        request = render_request(ask(question, repetition_penalty=1.6), tokenizer, 4096)
        prompt = torch.tensor([request.prompt_ids])
        theirs = model.generate(
            prompt, attention_mask=prompt * 0 + 1, max_new_tokens=20, do_sample=False, repetition_penalty=1.6
        )
        assert engine.complete_ids([request])[0] == theirs[0, prompt.shape[1] :].tolist()
        assert engine.complete_ids([ask(question)])[0] != engine.complete_ids([request])[0]


@pytest.mark.parametrize("asked", [ASKED[0], ASKED[4], {"presence_penalty": -2.0}], ids=str)
def test_a_greedy_reply_is_the_likeliest_token_by_the_definition_at_each_place(model, tokenizer, asked):
    with closing(Engine(model, tokenizer)) as engine:
        request = render_request(ask(QUESTIONS[1], 12, **asked), tokenizer, 4096)
        found = engine.complete_ids([request])[0]
        logits = model(torch.tensor([[*request.prompt_ids, *found]])).logits[0, len(request.prompt_ids) - 1 :]
    for place, token in enumerate(found):
        changed = by_definition(logits[place].tolist(), request.sampling, request.prompt_ids, found[:place])
        assert token == max(range(len(changed)), key=changed.__getitem__)


def test_a_bias_of_100_selects_a_token_and_one_of_minus_100_bans_it(model, tokenizer):
    with closing(Engine(model, tokenizer)) as engine:
        plain = engine.complete_ids([ask(QUESTIONS[0], 8)])[0]
        assert engine.complete_ids([ask(QUESTIONS[0], 8, logit_bias=((50, 100.0),))])[0] == [50] * 8
        banned = engine.complete_ids([ask(QUESTIONS[0], 8, logit_bias=((plain[0], -100.0),))])[0]
        assert plain[0] not in banned
        with pytest.raises(UserError, match="logit_bias: token 100000 is beyond the model's"):
            engine.complete_ids([ask(QUESTIONS[0], 8, logit_bias=((100_000, 1.0),))])


def test_a_pass_with_penalties_needs_no_values_of_the_device():
    """On the meta device there are none: whatever reads one raises."""
    sampling = SamplingParams(9, 1.0, min_p=0.1, frequency_penalty=1.0, logit_bias=((3, 1.0),), top_logprobs=3)
    ids = [3, 4]
    drawn = draw(torch.empty(2, 50, device="meta"), [Sampler(sampling, ids, 1), Sampler(SamplingParams(9))])
    assert (drawn.tokens.shape, drawn.ranks.shape, drawn.tokens.is_meta) == ((2,), (1, 7), True)


def test_what_identifies_saved_replies_is_as_before_unless_more_is_asked():
    plain = SamplingParams(9, 0.5, seed=3)
    assert sorted(plain.record().items()) == [
        ("max_new_tokens", 9), ("max_reasoning_tokens", None), ("seed", 3), ("stop", ()), ("temperature", 0.5),
        ("top_k", 0), ("top_p", 1.0),
    ]  # fmt: skip
    assert SamplingParams(9, min_p=0.1, repetition_penalty=1.0).record() == SamplingParams(9).record() | {"min_p": 0.1}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"frequency_penalty": 2.1}, "frequency_penalty is 2.1; it must be from -2 to 2"),
        ({"presence_penalty": float("nan")}, "presence_penalty is nan"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0; it must be above 0"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty is inf"),
        ({"min_p": 1.1}, "min_p is 1.1; it must be from 0 to 1"),
        ({"logit_bias": ((5, 101.0),)}, "logit_bias of token 5 is 101"),
        ({"logit_bias": ((-1, 1.0),)}, "logit_bias has the token -1"),
        ({"logit_bias": ((5, 1.0), (5, 2.0))}, "names a token twice"),
        ({"top_logprobs": 21}, "top_logprobs is 21"),
    ],
)
def test_parameters_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        SamplingParams(1, **wrong)


def test_a_plain_batch_launches_no_more_than_before(model):
    cache = KVCache(model.eval())
    with torch.inference_mode():
        cache.prefill([[3, 4], [5]])
        captured = []
        runner = DecodeRunner(model, is_static=True, capture=lambda step: captured.append(step) or step)
        plain = [Sampler(SamplingParams(9)), Sampler(SamplingParams(9, 0.7, min_p=0.1))]
        for _ in range(2):
            assert runner.decode(cache, [3, 4], plain).ranks is None
        [shape] = runner._graphs
        assert [group.has_floor for group in shape[2]] == [True]
