"""Several choices and log probabilities over HTTP: each choice as the same request alone, whole and streamed."""

import json
import threading
import time
from contextlib import closing
from functools import partial

import httpx
import pytest
from openai import OpenAI
from support import waiting
from support.api_server import QUESTION, ScriptedBackend, scripted_model, serving
from support.generation import decided

from thinktune.demo.tiny_model import ModelShape, make_model
from thinktune.http import Limits
from thinktune.inference.chat_defaults import ChatDefaults
from thinktune.inference.engine import Engine
from thinktune.inference.requests import SamplingParams
from thinktune.serve import ServedModel

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def address(tokenizer):
    defaults = ChatDefaults(sampling=SamplingParams(14))

    def engine():
        return Engine(decided(make_model(tokenizer, ModelShape())), tokenizer)

    with serving([ServedModel("tiny", "here", defaults, engine, tokenizer, 4096)], Limits(2, 6)) as address:
        yield address


def ask(address, **options):
    return httpx.post(f"{address}{CHAT}", json={"messages": QUESTION} | options, timeout=120)


def events(answered):
    assert answered.text.endswith("data: [DONE]\n\n")
    return [json.loads(line[6:]) for line in answered.text.split("\n\n") if line.startswith("data: {")]


def parts_of(answered):
    """Join a stream's events by choice: role events, content, reasoning, tokens, finish reasons."""
    found = {}
    for event in events(answered):
        for choice in event["choices"]:
            mine = found.setdefault(
                choice["index"], {"roles": 0, "content": "", "reasoning": "", "tokens": [], "ends": []}
            )
            mine["roles"] += "role" in choice["delta"]
            mine["content"] += choice["delta"].get("content") or ""
            mine["reasoning"] += choice["delta"].get("reasoning") or ""
            mine["tokens"] += (choice["logprobs"] or {"content": []})["content"]
            mine["ends"] += [choice["finish_reason"]] if choice["finish_reason"] else []
    return found


def likelihoods(found):
    return found if isinstance(found, float) else [each["logprob"] for each in found]


SAMPLED = {"temperature": 1.3, "seed": 40, "top_k": 60, "min_p": 0.01, "frequency_penalty": 0.4}


@pytest.mark.parametrize("options", [SAMPLED, {"presence_penalty": 1.0}], ids=["sampled", "greedy"])
def test_each_choice_is_the_same_request_alone_with_its_own_seed(address, options):
    whole = ask(address, n=5, **options).json()
    alone = [ask(address, **options | {"seed": 40 + number}).json() for number in range(5)]
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3, 4]
    assert [choice | {"index": 0} for choice in whole["choices"]] == [each["choices"][0] for each in alone]
    texts = {choice["message"]["content"] for choice in whole["choices"]}
    assert len(texts) == (5 if "temperature" in options else 1)
    usages = [each["usage"] for each in alone]
    assert whole["usage"]["prompt_tokens"] == usages[0]["prompt_tokens"]
    assert whole["usage"]["completion_tokens"] == sum(each["completion_tokens"] for each in usages)
    assert whole["usage"]["total_tokens"] == usages[0]["prompt_tokens"] + whole["usage"]["completion_tokens"]


def test_choices_are_streamed_with_their_index_and_the_usage_of_all_comes_last(address):
    options = SAMPLED | {"n": 3, "logprobs": True, "top_logprobs": 2, "length_penalty": 2}
    whole = ask(address, **options).json()
    answered = ask(address, **options, stream=True, stream_options={"include_usage": True})
    for choice, found in zip(whole["choices"], sorted(parts_of(answered).items()), strict=True):
        index, mine = found
        assert (index, mine["roles"], mine["ends"]) == (choice["index"], 1, [choice["finish_reason"]])
        assert mine["content"] == choice["message"]["content"]
        assert mine["reasoning"] == (choice["message"]["reasoning"] or "")
        tokens = choice["logprobs"]["content"]
        assert [each["bytes"] for each in mine["tokens"]] == [each["bytes"] for each in tokens]
        for name in ("logprob", "top_logprobs"):  # those of other batches differ by rounding
            streamed, expected = ([likelihoods(each[name]) for each in some] for some in (mine["tokens"], tokens))
            assert streamed == [pytest.approx(each, abs=1e-4) for each in expected]
    *others, last = events(answered)
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    assert sum("usage" in event for event in others) == 0
    assert [len(event["warnings"]) for event in others if "warnings" in event] == [1]


def test_the_tokens_of_a_choice_are_its_content(address):
    for options in ({}, {"top_logprobs": 3}, SAMPLED):
        [choice] = ask(address, logprobs=True, **options).json()["choices"]
        tokens = choice["logprobs"]["content"]
        assert (
            b"".join(bytes(token["bytes"]) for token in tokens).decode("utf-8", "replace")
            == (choice["message"]["content"])
        )
        assert {len(token["top_logprobs"]) for token in tokens} == {options.get("top_logprobs", 0)}
        assert all(token["logprob"] <= 0 for token in tokens)
        assert choice["logprobs"]["refusal"] is None
    assert ask(address, top_logprobs=0).json()["choices"][0]["logprobs"] is None
    refused = ask(address, top_logprobs=3)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "top_logprobs")


def test_openais_client_reads_them(address):
    with OpenAI(base_url=f"{address}/v1", api_key="none") as client:
        asked = {"model": "tiny", "messages": QUESTION, "n": 2, "logprobs": True, "top_logprobs": 1}
        answered = client.chat.completions.create(**asked)
        assert [choice.index for choice in answered.choices] == [0, 1]
        [first, *_] = answered.choices[0].logprobs.content
        assert first.top_logprobs[0].logprob >= first.logprob
        streamed = [
            token.token
            for chunk in client.chat.completions.create(**asked, stream=True)
            for choice in chunk.choices
            for token in (choice.logprobs.content if choice.logprobs and choice.index == 1 else [])
        ]
        assert streamed == [token.token for token in answered.choices[1].logprobs.content]


def test_a_token_beyond_the_vocabulary_is_refused(address):
    refused = ask(address, logit_bias={"400000": 1})
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].startswith("logit_bias: token 400000 is beyond the model's")
    assert ask(address, logit_bias={"50": 100}).status_code == 200


def test_more_choices_than_places_are_refused_and_each_takes_one(address):
    refused = ask(address, n=9)
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == "the request asks for 9 replies; the limit is 8"
    assert ask(address, n=8).status_code == 200


def test_choices_wait_for_slots_and_fill_the_places_of_others():
    backend = ScriptedBackend("<think>\nwhy so long\n</think>\n\nyes", delay=0.02)
    backend.may_continue.clear()
    with serving([scripted_model(backend)], Limits(max_running=2, max_waiting=2)) as address:
        found = []
        asking = threading.Thread(target=lambda: found.append(ask(address, n=3)))
        asking.start()
        wait_until(lambda: len(backend.requests) == 2)
        assert ask(address, n=2).status_code == 429
        time.sleep(0.1)
        assert len(backend.requests) == 2
        backend.may_continue.set()
        asking.join(60)
        assert [choice["message"]["content"] for choice in found[0].json()["choices"]] == ["yes"] * 3
        assert [each.sampling.seed - backend.requests[0].sampling.seed for each in backend.requests[:3]] == [0, 1, 2]
        assert ask(address, n=4).status_code == 200


def test_a_client_that_leaves_ends_all_its_choices():
    backend = ScriptedBackend("<think>\n" + "why " * 200 + "</think>\n\nyes", delay=0.01)
    with serving([scripted_model(backend)], Limits(max_running=3, max_waiting=0)) as address:
        body = {"messages": QUESTION, "n": 3, "stream": True}
        with httpx.stream("POST", f"{address}{CHAT}", json=body, timeout=60) as answered:
            next(answered.iter_lines())
        assert backend.cancelled.wait(20)
        backend.text = "yes"
        wait_until(lambda: ask(address, n=3).status_code == 200)


def test_a_choice_that_fails_fails_the_response_and_frees_the_places(tokenizer):
    class Failing(ScriptedBackend):
        def stream(self, request):
            if request.sampling.seed == 8:
                raise RuntimeError("planted")
            return super().stream(request)

    backend = Failing("yes", delay=0.01)
    with serving([scripted_model(backend)], Limits(max_running=2, max_waiting=2)) as address, closing(backend):
        for _ in range(3):
            assert ask(address, n=4, seed=6).status_code == 500
        assert ask(address, n=4, seed=60).status_code == 200


wait_until = partial(waiting.wait_until, seconds=60)
