"""Every client's way to ask for thinking becomes the same three knobs; of two that contradict, one counts and is named."""

import copy
import json

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.api_server import QUESTION, ScriptedBackend, scripted_model, serving

from thinktune.inference.openai_client import request_body
from thinktune.inference.requests import Request, SamplingParams, render_request
from thinktune.serve.openai_schema import ApiError, parse_request
from thinktune.serve.thinking_controls import ThinkingControls
from thinktune.tokenization import Turn

ON, OFF = ThinkingControls(), ThinkingControls(thinking=False)


def controls(**fields):
    return parse_request(json.dumps({"messages": QUESTION, **fields}).encode()).controls


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ON),
        ({"enable_thinking": False}, OFF),
        ({"enable_thinking": True}, ON),
        ({"thinking": False}, OFF),
        ({"thinking": {"type": "disabled"}}, OFF),
        ({"thinking": {"type": "enabled"}}, ON),
        ({"thinking": {"type": "enabled", "budget_tokens": 800}}, ThinkingControls(budget_tokens=800)),
        ({"thinking": {"type": "disabled", "budget_tokens": 800}}, OFF),
        ({"thinking": {"type": "adaptive"}}, ON),
        ({"thinking": {"type": "auto"}}, ON),
        ({"chat_template_kwargs": {"enable_thinking": False}}, OFF),
        ({"chat_template_kwargs": {"thinking": False}}, OFF),
        ({"chat_template_kwargs": {"thinking": True, "thinking_budget": 9}}, ThinkingControls(budget_tokens=9)),
        ({"reasoning_effort": "none"}, OFF),
        ({"reasoning_effort": "low"}, ThinkingControls(effort="low")),
        ({"reasoning_effort": "xhigh"}, ThinkingControls(effort="xhigh")),
        ({"reasoning_effort": "auto"}, ON),
        ({"reasoning": {"effort": "none"}}, OFF),
        ({"reasoning": {"effort": "high", "summary": "auto"}}, ThinkingControls(effort="high")),
        ({"reasoning": {"enabled": False}}, OFF),
        ({"reasoning": {"max_tokens": 70}}, ThinkingControls(budget_tokens=70)),
        ({"reasoning": {"exclude": True}}, ThinkingControls(is_hidden=True)),
        ({"include_reasoning": False}, ThinkingControls(is_hidden=True)),
        ({"thinking_budget": 1024}, ThinkingControls(budget_tokens=1024)),
        ({"thinking_budget": -1}, ON),
        ({"thinking_budget": 0}, OFF),
        ({"thinking_token_budget": 3}, ThinkingControls(budget_tokens=3)),
        ({"reasoning_budget": 0}, ThinkingControls(budget_tokens=0)),
        ({"reasoning_budget": -1}, ON),
        ({"reasoning_budget": -1, "enable_thinking": False}, OFF),
        (
            {"thinking_budget": 100, "chat_template_kwargs": {"thinking_budget": 900}},
            ThinkingControls(budget_tokens=900),
        ),
        (
            {"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "high"}},
            ThinkingControls(effort="high"),
        ),
        ({"think": False}, OFF),
        ({"think": "high"}, ThinkingControls(effort="high")),
        ({"think": "none"}, OFF),
        (
            {"enable_thinking": True, "thinking_budget": 4000, "reasoning_effort": "low"},
            ThinkingControls(True, 4000, "low"),
        ),
        ({"enable_thinking": None, "thinking": None, "reasoning": None, "chat_template_kwargs": {}}, ON),
    ],
)
def test_each_dialect(fields, expected):
    assert controls(**fields) == expected


MODES = {
    "chat_template_kwargs.enable_thinking": lambda on: {"chat_template_kwargs": {"enable_thinking": on}},
    "enable_thinking": lambda on: {"enable_thinking": on},
    "thinking.type": lambda on: {"thinking": {"type": "enabled" if on else "disabled"}},
    "think": lambda on: {"think": on},
    "reasoning.enabled": lambda on: {"reasoning": {"enabled": on}},
    "reasoning_effort": lambda on: {"reasoning_effort": "medium" if on else "none"},
}


@given(st.dictionaries(st.sampled_from(sorted(MODES)), st.booleans(), min_size=1))
def test_fields_that_agree_are_quiet_and_of_those_that_do_not_one_is_named(modes):
    fields = {}
    for name, value in modes.items():
        fields |= MODES[name](value)
    found = controls(**fields)
    assert found.thinking in modes.values()
    if len(set(modes.values())) == 1:
        assert found.contradiction is None
        return
    other, _, rest = found.contradiction.partition(": contradicts ")
    counted = rest.partition(",")[0]
    assert modes[counted] is found.thinking
    assert modes[other] is not found.thinking
    if "chat_template_kwargs.enable_thinking" in modes:
        assert counted == "chat_template_kwargs.enable_thinking"


def test_a_contradiction_is_a_warning_and_a_fault_if_that_is_asked():
    fields = {"messages": QUESTION, "enable_thinking": False, "reasoning_effort": "high"}
    [warning] = parse_request(json.dumps(fields).encode()).warnings
    assert warning == "reasoning_effort: contradicts enable_thinking, which takes precedence; thinking is off"
    with pytest.raises(ApiError, match="contradicts enable_thinking"):
        parse_request(json.dumps(fields | {"strict": True}).encode())


@pytest.mark.parametrize(
    ("effort", "use", "budget"),
    [
        ("minimal", "budget", 100),
        ("low", "budget", 200),
        ("medium", "budget", None),
        ("high", "budget", None),
        ("low", "level", None),
        ("low", "pass on", None),
    ],
)
def test_an_effort_is_a_budget_of_our_engine_where_the_model_has_no_levels_of_its_own(effort, use, budget):
    asked = ThinkingControls(effort=effort)
    assert asked.reasoning_limit(1000, use) == budget
    assert ThinkingControls(True, 7, effort).reasoning_limit(1000, use) == 7


def test_what_is_unknown_inside_of_an_object_is_left_out_with_a_warning():
    fields = {"messages": QUESTION, "thinking": {"type": "enabled", "foo": 1}, "reasoning": {"effort": "low", "bar": 1}}
    parsed = parse_request(json.dumps(fields).encode())
    assert parsed.controls == ThinkingControls(effort="low")
    assert [warning.partition(":")[0] for warning in parsed.warnings] == ["thinking.foo", "reasoning.bar"]


def test_another_server_gets_the_level_and_no_budget_that_it_may_overrun():
    backend = ScriptedBackend("<think>\nso\n</think>\n\nyes")
    with serving([scripted_model(backend)]) as address:
        body = {"messages": QUESTION, "reasoning_effort": "low"}
        assert httpx.post(f"{address}/v1/chat/completions", json=body).status_code == 200
    [request] = backend.requests
    assert (request.effort, request.sampling.max_reasoning_tokens) == ("low", None)
    assert request_body(request, "m", set())["reasoning_effort"] == "low"
    assert "reasoning_effort" not in request_body(request, "m", {"reasoning_effort"})
    silent = Request(request.turns, request.sampling, thinking=False, effort="none")
    assert "reasoning_effort" not in request_body(silent, "m", set())


def test_a_template_whose_only_switch_is_its_level_is_told_none(tokenizer):
    levelled = copy.deepcopy(tokenizer)
    levelled.chat_template = "{% if reasoning_effort == 'none' %}[silent]{% endif %}" + levelled.chat_template
    turns = (Turn("user", "Why?"),)
    silent = render_request(Request(turns, SamplingParams(9), thinking=False, effort="none"), levelled, 512)
    assert levelled.decode(list(silent.prompt_ids)).startswith("[silent]")
    other = render_request(Request(turns, SamplingParams(9), thinking=False, effort="none"), tokenizer, 512)
    assert (
        other.prompt_ids == render_request(Request(turns, SamplingParams(9), thinking=False), tokenizer, 512).prompt_ids
    )


LEVELS = "{% if reasoning_effort %}{% if reasoning_effort not in ['low', 'high'] %}{{ raise_exception('level') }}{% endif %}[{{ reasoning_effort }}]{% endif %}"


@pytest.mark.parametrize(("effort", "level"), [("low", "low"), ("minimal", "low"), ("max", "high"), ("xhigh", "high")])
def test_a_template_with_levels_gets_the_nearest_that_it_names(tokenizer, effort, level):
    levelled = copy.deepcopy(tokenizer)
    levelled.chat_template = LEVELS + levelled.chat_template
    backend = ScriptedBackend("<think>\nso\n</think>\n\nyes")
    model = scripted_model(backend)
    model.tokenizer, model.context_tokens = levelled, 512
    with serving([model]) as address:
        body = {"messages": QUESTION, "reasoning_effort": effort}
        assert httpx.post(f"{address}/v1/chat/completions", json=body).status_code == 200
    [request] = backend.requests
    assert levelled.decode(list(request.prompt_ids)).startswith(f"[{level}]")
    assert request.sampling.max_reasoning_tokens is None
    plain = render_request(Request((Turn("user", "Why?"),), SamplingParams(9), effort=None), levelled, 512)
    assert levelled.decode(list(plain.prompt_ids)).startswith("[") is False


def test_hidden_reasoning_is_counted_and_left_out_whole_and_streamed():
    with serving([scripted_model(ScriptedBackend("<think>\nso it is\n</think>\n\nyes"))]) as address:
        body = {"messages": QUESTION, "reasoning": {"exclude": True}, "stream_options": {"include_usage": True}}
        whole = httpx.post(f"{address}/v1/chat/completions", json=body).json()
        assert whole["choices"][0]["message"]["content"] == "yes"
        assert whole["choices"][0]["message"]["reasoning_content"] is None
        assert whole["usage"]["completion_tokens_details"]["reasoning_tokens"] == 8
        text = httpx.post(f"{address}/v1/chat/completions", json=body | {"stream": True}).text
    assert "so it" not in text
    assert "reasoning_content" not in text
    assert '"content": "y' in text
