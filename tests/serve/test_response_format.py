"""Answers of a given form over HTTP, as clients ask for them: whole and streamed, here and behind an endpoint."""

import json

import httpx
import jsonschema
import pytest
from openai import BadRequestError, OpenAI
from pydantic import BaseModel
from support import chat_server
from support.api_server import QUESTION, ScriptedBackend, scripted_model, serving

from thinktune.demo.tiny_model import ModelShape, make_model
from thinktune.inference import Endpoint, Request, SamplingParams
from thinktune.inference.chat_defaults import ChatDefaults
from thinktune.inference.engine import Engine
from thinktune.inference.sampling.grammar import Grammar, json_grammar
from thinktune.serve import ServedModel
from thinktune.tokenization import Turn

PLAIN = {
    "model": "tuned",
    "messages": QUESTION,
    "temperature": 1.0,
    "seed": 3,
    "reasoning_budget": 4,
    "max_tokens": 300,
}
SCHEMA = {
    "title": "Verdict",
    "description": "What is so.",
    "type": "object",
    "properties": {
        "sure": {"title": "Sure", "type": "boolean"},
        "grade": {"enum": ["low", "高"]},
        "notes": {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
    },
    "required": ["sure", "grade", "notes"],
    "additionalProperties": False,
}


class Verdict(BaseModel):
    sure: bool
    year: int


@pytest.fixture(scope="module")
def address(tokenizer):
    model = make_model(tokenizer, ModelShape())
    defaults = ChatDefaults(sampling=SamplingParams(300))
    here = ServedModel("tuned", "here", defaults, lambda: Engine(model, tokenizer), tokenizer, 4096, is_here=True)
    with serving([here]) as address:
        yield address


def post(address, **body):
    return httpx.post(f"{address}/v1/chat/completions", json=PLAIN | body, timeout=60)


def answer(address, **body):
    replied = post(address, **body)
    assert replied.status_code == 200, replied.text
    [choice] = replied.json()["choices"]
    assert choice["finish_reason"] == "stop"
    return choice["message"]["content"]


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "v", "schema": SCHEMA, "strict": True}}},
        # As LangChain's with_structured_output sends it.
        {"response_format": {"type": "json_schema", "json_schema": {"name": "Verdict", "description": "What is so.", "strict": False, "schema": SCHEMA}}},
        {"response_format": {"type": "json_schema", "name": "v", "schema": SCHEMA}},
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"response_format": {"type": "text"}, "guided_json": json.dumps(SCHEMA)},
        {"guided_json": SCHEMA, "structured_outputs": {"json": SCHEMA, "regex": None}},
        {"json_schema": json.dumps(SCHEMA), "regex": "", "guided_choice": []},
    ],
)  # fmt: skip
def test_every_way_to_ask_for_a_schema_gets_an_answer_of_it(address, fields):
    jsonschema.validate(json.loads(answer(address, **fields)), SCHEMA)


@pytest.mark.parametrize(
    "fields", [{"response_format": {"type": "json_object"}}, {"structured_outputs": {"json_object": True}}]
)
def test_a_json_object_of_any_form(address, fields):
    assert isinstance(json.loads(answer(address, **fields)), dict)


@pytest.mark.parametrize(
    "fields", [{"guided_choice": ["yes", "不"]}, {"structured_outputs": {"choice": ["yes", "不"]}}]
)
def test_one_of_some_texts(address, fields):
    assert answer(address, **fields) in ("yes", "不")


@pytest.mark.parametrize(
    "fields", [{"guided_regex": "[0-9]{3}"}, {"regex": "[0-9]{3}"}, {"structured_outputs": {"regex": "[0-9]{3}"}}]
)
def test_a_regular_expression(address, fields):
    found = answer(address, **fields)
    assert len(found) == 3
    assert found.isdecimal()


def test_openais_client_parses_the_answer_into_its_class(address):
    client = OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    settings = {"temperature": 1.0, "seed": 5, "extra_body": {"reasoning_budget": 4}}
    parsed = client.chat.completions.parse(model="tuned", messages=QUESTION, response_format=Verdict, **settings)
    assert isinstance(parsed.choices[0].message.parsed, Verdict)
    asked = {"name": "v", "schema": Verdict.model_json_schema()}
    stream = client.chat.completions.create(
        model="tuned",
        messages=QUESTION,
        response_format={"type": "json_schema", "json_schema": asked},
        stream=True,
        **settings,
    )
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert Verdict.model_validate_json(streamed)


def test_a_cut_answer_says_so(address):
    replied = post(address, response_format={"type": "json_object"}, max_tokens=2, enable_thinking=False).json()
    assert replied["choices"][0]["finish_reason"] == "length"


def test_what_cannot_be_enforced_is_said_or_refused_if_strict(address):
    schema = {"type": "array", "items": {"type": "boolean"}, "maxItems": 2, "uniqueItems": True}
    form = {"type": "json_schema", "json_schema": {"name": "v", "schema": schema}}
    replied = post(address, response_format=form)
    [warning] = replied.json()["warnings"]
    assert warning.startswith("response_format.json_schema.schema: not all of the schema can be enforced (")
    assert "uniqueItems" in warning
    assert replied.headers["x-thinktune-warnings"] == warning
    assert isinstance(json.loads(replied.json()["choices"][0]["message"]["content"]), list)
    for fields in (
        {"response_format": form, "strict": True},
        {"response_format": {**form, "json_schema": {"schema": schema, "strict": True}}},
    ):
        refused = post(address, **fields)
        assert refused.status_code == 400
        assert "uniqueItems" in refused.json()["error"]["message"]
        assert refused.json()["error"]["param"] == "response_format.json_schema.schema"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema: is missing"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": "so"}}}, "response_format.json_schema.schema: is not a JSON schema"),
        ({"response_format": {"type": "xml"}}, "response_format.type: Input should be 'text', 'json_object' or 'json_schema'"),
        ({"guided_json": "[]"}, "guided_json: is not a JSON schema"),
        ({"guided_json": {"type": "strin"}}, "guided_json: cannot be enforced (Invalid type: strin)"),
        ({"guided_regex": "a("}, "guided_regex: is not a regular expression"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice: differs from what guided_regex asks for"),
        ({"guided_grammar": "root ::= 'a'"}, "guided_grammar: is not supported here"),
        ({"structured_outputs": {"grammar": "root ::= 'a'"}}, "structured_outputs.grammar: is not supported here"),
        ({"response_format": {"type": "json_object"}, "tools": [{"type": "function"}]}, "tools: tool calls are not supported"),
    ],
)  # fmt: skip
def test_a_form_with_a_fault_is_refused_by_name(address, fields, sentence):
    refused = post(address, **fields)
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].startswith(sentence)
    assert refused.json()["error"]["param"] == sentence.partition(":")[0]


@pytest.mark.parametrize(
    "value", [None, "", {}, {"type": "text"}, {"type": None}, {"type": "text", "json_schema": None}]
)
def test_no_form_is_no_form(address, value):
    plain = post(address, max_tokens=8).json()
    replied = post(
        address, max_tokens=8, response_format=value, guided_json=None, guided_choice=None, structured_outputs={}
    ).json()
    assert replied["choices"] == plain["choices"]
    assert replied["warnings"] == []


def test_another_server_is_asked_for_the_form_and_its_answer_is_held_to_it():
    backend = ScriptedBackend('<think>\nso\n</think>\n\n{"sure": true}')
    body = {"messages": QUESTION, "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}
    with serving([scripted_model(backend)]) as address:
        endpoint = Endpoint(f"{address}/v1", "tuned")
        behind = ServedModel("far", "there", ChatDefaults(), lambda: endpoint)
        with serving([behind]) as front:
            replied = httpx.post(f"{front}/v1/chat/completions", json=body, timeout=60).json()
            assert replied["choices"][0]["message"]["content"] == '{"sure": true}'
            assert backend.requests[-1].grammar == json_grammar(SCHEMA)
            backend.text = "Sure! Here it is: {}"
            refused = httpx.post(f"{front}/v1/chat/completions", json=body, timeout=60)
    assert refused.status_code == 400
    assert "this server's answer has another form (it is not JSON" in refused.json()["error"]["message"]


def test_a_server_that_cuts_the_answer_is_no_liar():
    def script(given):
        assert given["response_format"] == {"type": "json_object"}
        return chat_server.reply(chat_server.part('{"a'), chat_server.part(finish="length"), chat_server.DONE)

    with chat_server.serving(script) as (address, _):
        endpoint = Endpoint(address, "expert")
        request = Request((Turn("user", "q"),), SamplingParams(3), grammar=json_grammar(None))
        ((_, reply),) = endpoint.complete([request])
        endpoint.close()
    assert (reply.answer, reply.finish) == ('{"a', "length")


def test_a_choice_is_asked_of_another_server_by_both_of_its_names():
    backend = ScriptedBackend("yes")
    with serving([scripted_model(backend)]) as address:
        endpoint = Endpoint(f"{address}/v1", "tuned")
        request = Request((Turn("user", "q"),), SamplingParams(3), grammar=Grammar("choice", '["yes", "no"]'))
        ((_, reply),) = endpoint.complete([request])
        endpoint.close()
    assert reply.answer == "yes"
    assert backend.requests[-1].grammar == request.grammar


def test_two_ways_to_ask_are_refused_by_the_second_ones_name(address):
    with pytest.raises(BadRequestError, match="guided_json: differs from what response_format asks for"):
        OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0).chat.completions.create(
            **{name: PLAIN[name] for name in ("model", "messages")},
            response_format={"type": "json_object"},
            extra_body={"guided_json": SCHEMA},
        )
