"""Completions over HTTP: what a prompt is given, a small real model goes on from, as if each prompt were alone."""

import copy
import json
from contextlib import contextmanager

import httpx
import pytest
import torch
from openai import BadRequestError, OpenAI
from support.api_server import ScriptedBackend, scripted_model, serving
from support.chat_server import DONE, reply
from support.chat_server import serving as upstream_serving
from tokenizers.processors import TemplateProcessing

from thinktune.demo.tiny_model import ModelShape, make_model
from thinktune.inference.chat_defaults import ChatDefaults
from thinktune.inference.engine import Engine
from thinktune.inference.requests import RawPrompt, Request, SamplingParams, render_request
from thinktune.serve import Limits, ServedModel
from thinktune.serve.models import find_endpoint_models
from thinktune.serve.openai_schema import ApiError
from thinktune.serve.surfaces.completions import parse_completion

PATH = "/v1/completions"
HTTP = httpx.Client(timeout=60)  # one for all: each would read the certificates of the machine
PROMPTS = ["What does the heart", "<|im_start|>user\nReasoning: a", "心脏"]


@pytest.fixture(scope="module")
def small(tokenizer):
    """Make a small random model, decided enough that rounding does not choose the token."""
    model = make_model(tokenizer, ModelShape())
    model.set_attn_implementation("thinktune_rows")
    torch.manual_seed(3)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def address(small, tokenizer):
    defaults = ChatDefaults("Be kind.", SamplingParams(12))
    served = ServedModel("tuned", "small", defaults, lambda: Engine(small, tokenizer), tokenizer, 64, is_here=True)
    with serving([served], Limits(max_running=3, max_waiting=3)) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    with OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


def post(address, prompt, **options):
    return HTTP.post(f"{address}{PATH}", json={"prompt": prompt, **options})


def texts(address, prompt, **options):
    answered = post(address, prompt, **options)
    assert answered.status_code == 200, answered.text
    return [choice["text"] for choice in answered.json()["choices"]]


def go_on(model, tokenizer, ids, tokens):
    """Return the greedy tokens that follow, by whole forward passes of the plain model, and the end token if it comes."""
    found = []
    with torch.no_grad():
        for _ in range(tokens):
            given = torch.tensor([[*ids, *found]])
            found.append(
                int(model(input_ids=given, position_ids=torch.arange(given.shape[1])[None]).logits[0, -1].argmax())
            )
            if found[-1] == tokenizer.eos_token_id:
                break
    return found


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_text_is_the_models_own_continuation_without_a_template(address, small, tokenizer, prompt):
    ids = tokenizer.backend_tokenizer.encode(prompt).ids
    assert (ids[0] == tokenizer.convert_tokens_to_ids("<|im_start|>")) == prompt.startswith("<|im_start|>")
    small.set_attn_implementation("eager")
    expected = go_on(small, tokenizer, ids, 12)
    small.set_attn_implementation("thinktune_rows")
    body = post(address, prompt).json()
    [choice] = body["choices"]
    cut = expected[-1] != tokenizer.eos_token_id
    shown = expected if cut else expected[:-1]
    assert choice["text"] == tokenizer.decode(shown, skip_special_tokens=True)
    assert choice["finish_reason"] == ("length" if cut else "stop")
    assert body["usage"] == {
        "prompt_tokens": len(ids),
        "completion_tokens": len(expected),
        "total_tokens": len(ids) + len(expected),
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert body["object"] == "text_completion"
    assert texts(address, ids) == [choice["text"]], "the same as token ids"


def test_each_of_several_prompts_is_answered_as_alone(address):
    options = {"temperature": 0.8, "seed": 5, "max_tokens": 9}
    for sampling in ({}, options):
        alone = [texts(address, prompt, **sampling)[0] for prompt in PROMPTS]
        assert len(set(alone)) > 1
        assert texts(address, PROMPTS, **sampling) == alone
    body = post(address, PROMPTS, **options).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    each = [post(address, prompt, **options).json()["usage"] for prompt in PROMPTS]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert body["usage"][name] == sum(usage[name] for usage in each)


def test_streams_hold_the_same_texts_under_their_numbers(address):
    for options in ({}, {"echo": True}):
        whole = texts(address, PROMPTS, **options)
        streamed = post(address, PROMPTS, stream=True, stream_options={"include_usage": True}, **options).text
        assert streamed.endswith("data: [DONE]\n\n")
        chunks = [json.loads(line[6:]) for line in streamed.split("\n\n")[:-2]]
        found, finished = ["", "", ""], {}
        for chunk in chunks:
            assert chunk["id"] == chunks[0]["id"]
            for choice in chunk["choices"]:
                assert choice["index"] not in finished
                found[choice["index"]] += choice["text"]
                if choice["finish_reason"]:
                    finished[choice["index"]] = choice["finish_reason"]
        assert found == whole
        assert set(finished) == {0, 1, 2}
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"] == post(address, PROMPTS, **options).json()["usage"]


def test_the_echo_is_the_prompt_as_it_was_given(address, tokenizer):
    plain = texts(address, PROMPTS)
    assert texts(address, PROMPTS, echo=True) == [prompt + text for prompt, text in zip(PROMPTS, plain, strict=True)]
    ids = [tokenizer.backend_tokenizer.encode(prompt).ids for prompt in PROMPTS]
    assert texts(address, ids, echo=True) == texts(address, PROMPTS, echo=True)


def test_a_stop_text_ends_the_text_and_is_left_out(address):
    [whole] = texts(address, PROMPTS[0])
    stop = whole[3:5]
    body = post(address, PROMPTS[0], stop=[stop]).json()
    assert body["choices"][0]["text"] == whole[: whole.index(stop)]
    assert body["choices"][0]["finish_reason"] == "stop"


@contextmanager
def scripted(text, **access):
    backend = ScriptedBackend(text)
    with serving([scripted_model(backend)], **access) as address:
        yield address, backend


TAGGED = "\n\n<think>\nIt is so.\n</think>\n\nBecause.\n"


def test_think_tags_and_line_breaks_of_the_text_stay():
    with scripted(TAGGED) as (address, backend):
        assert texts(address, "Why?") == [TAGGED]
        assert backend.requests[-1].raw == RawPrompt("Why?")
        assert backend.requests[-1].turns == ()
        assert texts(address, [[1, 2], [3]], add_special_tokens=False) == [TAGGED] * 2
        assert [request.raw for request in backend.requests[-2:]] == [RawPrompt((1, 2), False), RawPrompt((3,), False)]


def test_the_tokenizers_own_start_token_is_added_unless_that_is_switched_off(tokenizer):
    with_start, start = copy.deepcopy(tokenizer), tokenizer.convert_tokens_to_ids("<|im_start|>")
    with_start.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", start)]
    )
    plain = tuple(tokenizer.backend_tokenizer.encode("so it is").ids)
    for prompt, ids in (
        (RawPrompt("so it is"), (start, *plain)),
        (RawPrompt("so it is", adds_special_tokens=False), plain),
        (RawPrompt(plain), plain),
        (RawPrompt(""), (start,)),
    ):
        request = render_request(Request((), SamplingParams(99), raw=prompt), with_start, 50)
        assert request.prompt_ids == ids
        assert request.sampling.max_new_tokens == 50 - len(ids)


def test_options_reach_the_engine_and_those_left_out_are_the_runs():
    with scripted("so") as (address, backend):
        texts(address, "Why?", temperature=0.25, top_p=0.5, top_k=3, seed=7, max_tokens=9, stop="END", user="me")
        assert backend.requests[-1].sampling == SamplingParams(9, 0.25, 0.5, 3, 7, ("END",))
        for none in (None, 0, -1):
            texts(address, "Why?", max_tokens=none)
            assert backend.requests[-1].sampling.max_new_tokens == 64
        answered = post(address, "Why?", enable_thinking=False, frequency_penalty=0, logprobs=False, suffix="", n=1)
        assert answered.json()["warnings"] == ["enable_thinking: is not supported here and was left out"]
        assert answered.headers["x-thinktune-warnings"] == answered.json()["warnings"][0]
        first, *others = [
            json.loads(line[6:]) for line in post(address, "Why?", stream=True, mood=1).text.split("\n\n")[:-2]
        ]
        assert first["warnings"] == ["mood: is not supported here and was left out"]
        assert not any("warnings" in chunk for chunk in others)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt.0"),
        ({"prompt": ["a", 1]}, "prompt.1"),
        ({"prompt": [1, "a"]}, "prompt.1"),
        ({"prompt": [[1], "a"]}, "prompt.1"),
        ({"prompt": [-1]}, "prompt.0"),
        ({"prompt": [True]}, "prompt.0"),
        ({"prompt": {"text": "a"}}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "n": 2}, "n"),
        ({"prompt": "a", "top_logprobs": 5}, "top_logprobs"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": "a", "logprobs": 1}, "logprobs"),
        ({"prompt": "a", "logprobs": 0}, "logprobs"),
        ({"prompt": "a", "prompt_logprobs": 1}, "prompt_logprobs"),
        ({"prompt": "a", "guided_json": {"type": "object"}}, "guided_json"),
        ({"prompt": "a", "tools": [{"type": "function"}]}, "tools"),
        ({"prompt": "a", "strict": True, "enable_thinking": False}, "enable_thinking"),
        ({"prompt": "a", "temperature": 3}, "temperature"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(body, param):
    with pytest.raises(ApiError) as refused:
        parse_completion(json.dumps(body).encode())
    assert (refused.value.status, refused.value.param) == (400, param)
    assert str(refused.value).startswith(param)


def test_prompts_that_the_model_cannot_read_are_refused(address, tokenizer):
    for prompt, start in (
        ("", "prompt: is empty"),
        ([len(tokenizer)], f"prompt: holds the token {len(tokenizer)}, and the model's are 0 to"),
        ("word " * 60, "prompt: the prompt takes"),
        ("word " * 4000, "prompt: the prompt has 20,000 characters"),
        ([1] * 64, "prompt: the prompt takes 64 tokens, and the model's context has 64, with the reply"),
        ([PROMPTS[0], ""], "prompt: is empty"),
    ):
        for stream in (False, True):
            refused = post(address, prompt, stream=stream)
            assert refused.status_code == 400
            assert refused.json()["error"]["message"].startswith(start)
    assert refused.json()["error"]["type"] == "invalid_request_error"
    assert post(address, "word " * 60).json()["error"]["code"] == "context_length_exceeded"
    assert post(address, "word " * 60).json()["error"]["param"] == "prompt"


def test_each_prompt_takes_a_place(address):
    refused = post(address, ["so"] * 7)
    assert (refused.status_code, refused.json()["error"]["message"]) == (
        400,
        "the request asks for 7 replies; the limit is 6",
    )
    assert len(texts(address, ["so"] * 6)) == 6


def test_a_reply_of_several_that_fails_is_the_whole_requests_error():
    class Broken(ScriptedBackend):
        def stream(self, request: Request):
            if request.raw.content == "bad":
                raise RuntimeError("secret path")
            return super().stream(request)

    with serving([scripted_model(Broken("so"))]) as address:
        assert post(address, ["good", "bad"]).status_code == 500
        streamed = post(address, ["good", "bad"], stream=True).text
        assert '"type": "server_error"' in streamed or '"type":"server_error"' in streamed
        assert "secret" not in streamed
        assert texts(address, ["good"]) == ["so"]


def test_a_key_is_asked_for():
    backend = ScriptedBackend("so")
    with serving([scripted_model(backend)], key="secret") as address:
        assert post(address, "Why?").status_code == 401
        headers = {"authorization": "Bearer secret"}
        assert HTTP.post(f"{address}{PATH}", json={"prompt": "Why?"}, headers=headers).status_code == 200


def text_part(text, finish=None):
    choice = {"index": 0, "text": text, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice], "usage": None}).encode() + b"\n\n"


def test_another_server_is_asked_for_the_same():
    def script(given):
        return reply(text_part("<think>\nso"), text_part("\n</think>\n\nyes END no", "stop"), DONE)

    with upstream_serving(script) as (url, asked), serving(find_endpoint_models(url, None)) as address:
        assert texts(address, "Why?", stop="END", max_tokens=9, echo=True) == ["Why?<think>\nso\n</think>\n\nyes "]
        assert texts(address, [1, 2], add_special_tokens=False) == ["<think>\nso\n</think>\n\nyes END no"]
        refused = post(address, [1, 2], echo=True)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "echo")
    assert [one["path"] for one in asked] == ["/v1/completions"] * 2
    assert (asked[0]["prompt"], asked[0]["max_tokens"]) == ("Why?", 9)
    assert (asked[1]["prompt"], asked[1]["add_special_tokens"]) == ([1, 2], False)
    assert not any({"messages", "chat_template_kwargs"} & set(one) for one in asked)


def test_the_openai_package_reads_it(client):
    whole = client.completions.create(model="tuned", prompt=PROMPTS, max_tokens=8, temperature=0)
    found = ["", "", ""]
    for chunk in client.completions.create(model="tuned", prompt=PROMPTS, max_tokens=8, temperature=0, stream=True):
        for choice in chunk.choices:
            found[choice.index] += choice.text
    assert found == [choice.text for choice in whole.choices]
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    with pytest.raises(BadRequestError, match="suffix"):
        client.completions.create(model="tuned", prompt="so", suffix="then")
