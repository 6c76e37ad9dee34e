"""Real Python clients, each asked the same of a server: `python python_clients.py CLIENT ADDRESS` prints what it found.

They run in an environment of their own (`.ci/slow clients`), because some of them need another `openai` than we do.
"""

import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

MODEL, FIRST, SECOND = "tuned", "heart?", "lung?"
RAW = f"<|im_start|>user\n{FIRST}<|im_end|>\n<|im_start|>assistant\n"
QUESTION = [{"role": "user", "content": FIRST}]
NEXT = {"role": "user", "content": SECOND}
FUNCTION = {
    "name": "weather",
    "description": "The weather of a town.",
    "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
}
TOOLS = [{"type": "function", "function": FUNCTION}]


class Verdict(BaseModel):
    """What is so."""

    sure: bool
    grade: Literal["low", "high"]


def refusal(call):
    """Return what a client says of an error, or what it answers."""
    try:
        return f"answered: {call()!r}"
    except Exception as error:
        return str(error)


def is_verdict(found):
    return isinstance(found, Verdict) or (Verdict.model_validate(found) is not None)


def openai(address):
    from openai import OpenAI

    client = OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    chat = client.chat.completions
    first = chat.create(model=MODEL, messages=QUESTION).choices[0].message
    chunks = list(chat.create(model=MODEL, messages=QUESTION, stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    second = chat.create(model=MODEL, messages=[*QUESTION, first, NEXT], n=2, logprobs=True)
    with chat.stream(model=MODEL, messages=QUESTION) as stream:
        joined = stream.get_final_completion().choices[0].message
    return {
        "reasoning": first.reasoning_content,
        "answer": first.content,
        "streamed reasoning": "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas),
        "streamed": "".join(delta.content or "" for delta in deltas),
        "accumulated": joined.content,
        "usage": chunks[-1].usage.total_tokens,
        "second": [choice.message.content for choice in second.choices],
        "log probabilities": "".join(token.token for token in second.choices[0].logprobs.content),
        "structured": is_verdict(
            chat.parse(model=MODEL, messages=QUESTION, response_format=Verdict).choices[0].message.parsed
        ),
        "models": [model.id for model in client.models.list()],
        "tools": refusal(lambda: chat.create(model=MODEL, messages=QUESTION, tools=TOOLS)),
    }


def openai_responses(address):
    from openai import OpenAI

    client = OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    first = client.responses.create(model=MODEL, input=FIRST, reasoning={"effort": "medium"})
    with client.responses.stream(model=MODEL, input=QUESTION) as stream:
        kinds = [event.type for event in stream]
        joined = stream.get_final_response()
    second = client.responses.create(model=MODEL, input=[*QUESTION, *first.output, NEXT])
    parsed = client.responses.parse(model=MODEL, input=FIRST, text_format=Verdict)
    return {
        "reasoning": first.output[0].content[0].text,
        "answer": first.output_text,
        "streamed reasoning": joined.output[0].content[0].text,
        "streamed": joined.output_text,
        "events": [kinds[0], kinds[-1]],
        "second": second.output_text,
        "structured": is_verdict(parsed.output_parsed),
        "tools": refusal(
            lambda: client.responses.create(model=MODEL, input=FIRST, tools=[{"type": "function", **FUNCTION}])
        ),
    }


def openai_completions(address):
    from openai import OpenAI

    completions = OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0).completions
    return {
        "raw": completions.create(model=MODEL, prompt=RAW).choices[0].text,
        "streamed raw": "".join(
            chunk.choices[0].text for chunk in completions.create(model=MODEL, prompt=RAW, stream=True) if chunk.choices
        ),
    }


def langchain(address):
    from langchain_core.messages import AIMessage, HumanMessage
    from langchain_openai import ChatOpenAI, OpenAI

    named = {"model": MODEL, "base_url": f"{address}/v1", "api_key": "none", "max_retries": 0}
    model, responses = ChatOpenAI(**named), ChatOpenAI(**named, use_responses_api=True)
    first = model.invoke(FIRST)
    assert isinstance(first, AIMessage)
    of_responses = responses.invoke(FIRST)
    question = HumanMessage(FIRST)
    return {
        "answer": first.content,
        "streamed": "".join(chunk.content for chunk in model.stream(FIRST)),
        "second": model.invoke([question, first, HumanMessage(SECOND)]).content,
        "responses": of_responses.text,
        "streamed responses": "".join(chunk.text for chunk in responses.stream(FIRST)),
        "second of responses": responses.invoke([question, of_responses, HumanMessage(SECOND)]).text,
        "structured": [
            is_verdict(made.with_structured_output(Verdict, method=method).invoke(FIRST))
            for made, method in ((model, "json_schema"), (responses, "json_schema"))
        ],
        "raw": OpenAI(**named).invoke(RAW),
        "tools": refusal(lambda: model.bind_tools(TOOLS).invoke(FIRST)),
        "tools for a form": refusal(
            lambda: model.with_structured_output(Verdict, method="function_calling").invoke(FIRST)
        ),
    }


def litellm(address):
    import litellm

    named = {"api_base": f"{address}/v1", "api_key": "none", "num_retries": 0}
    found = {}
    for provider in ("openai", "hosted_vllm"):
        asked = {"model": f"{provider}/{MODEL}", **named}
        first = litellm.completion(messages=QUESTION, **asked).choices[0].message
        second = litellm.completion(messages=[*QUESTION, first, NEXT], **asked)
        dumped = litellm.completion(messages=[*QUESTION, first.model_dump(), NEXT], **asked)
        chunks = list(litellm.completion(messages=QUESTION, stream=True, **asked))
        joined = litellm.stream_chunk_builder(chunks).choices[0].message
        formed = litellm.completion(messages=QUESTION, response_format=Verdict, **asked).choices[0].message.content
        found[provider] = {
            "reasoning": first.reasoning_content,
            "answer": first.content,
            "streamed reasoning": joined.reasoning_content,
            "streamed": joined.content,
            "second": [second.choices[0].message.content, dumped.choices[0].message.content],
            "structured": is_verdict(json.loads(formed)),
            "effort": litellm.completion(
                messages=QUESTION, reasoning_effort="high", allowed_openai_params=["reasoning_effort"], **asked
            )
            .choices[0]
            .message.content,
            "tools": refusal(lambda asked=asked: litellm.completion(messages=QUESTION, tools=TOOLS, **asked)),
        }
    text = litellm.text_completion(model=f"text-completion-openai/{MODEL}", prompt=RAW, **named)
    return {**found, "raw": text.choices[0].text}


def llama_index(address):
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike

    named = {"model": MODEL, "api_base": f"{address}/v1", "api_key": "none", "max_retries": 0}
    chat, plain = OpenAILike(**named, is_chat_model=True), OpenAILike(**named)
    question = ChatMessage(role="user", content=FIRST)
    first = chat.chat([question]).message
    formed = OpenAILike(**named, is_chat_model=True, should_use_structured_outputs=True).as_structured_llm(Verdict)
    return {
        "answer": first.content,
        "streamed": "".join(part.delta or "" for part in chat.stream_chat([question])),
        "second": chat.chat([question, first, ChatMessage(role="user", content=SECOND)]).message.content,
        "complete": chat.complete(FIRST).text,
        "raw": plain.complete(RAW).text,
        "streamed raw": "".join(part.delta or "" for part in plain.stream_complete(RAW)),
        "structured": is_verdict(formed.chat([question]).raw),
    }


def llm(address):
    with tempfile.TemporaryDirectory() as folder:
        described = [
            {"model_id": "mine", "model_name": MODEL, "api_base": f"{address}/v1", "api_key_name": "mine"},
            {"model_id": "raw", "model_name": MODEL, "api_base": f"{address}/v1", "completion": True},
        ]
        for one in described:  # JSON is YAML
            one.update(reasoning=True, supports_schema=True, supports_tools=True)
        Path(folder, "extra-openai-models.yaml").write_text(json.dumps(described), encoding="utf-8")

        def run(*words):
            done = subprocess.run(
                [sys.executable, "-m", "llm", *words, "--key", "none"],
                env={**os.environ, "LLM_USER_PATH": folder}, capture_output=True, text=True, timeout=120, check=False,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
            return (done.stdout + done.stderr).strip()

        return {
            "streamed": run("-m", "mine", FIRST),
            "second": run("-m", "mine", "-c", SECOND),
            "answer": run("-m", "mine", "--no-stream", FIRST),
            "effort": run("-m", "mine", "-o", "reasoning_effort", "medium", FIRST),
            "structured": is_verdict(json.loads(run("-m", "mine", "--schema", json.dumps(Verdict.model_json_schema()), FIRST))),
            "raw": run("-m", "raw", RAW),
            "tools": run("-m", "mine", "-T", "llm_version", FIRST),
        }  # fmt: skip


def anthropic(address):
    from anthropic import Anthropic

    client = Anthropic(base_url=address, api_key="none", max_retries=0)
    asked = {"model": MODEL, "max_tokens": 200, "messages": QUESTION}
    first = client.messages.create(**asked, thinking={"type": "enabled", "budget_tokens": 1024})
    with client.messages.stream(**asked) as stream:
        streamed = "".join(stream.text_stream)
        joined = stream.get_final_message()
    turns = [*QUESTION, {"role": "assistant", "content": first.content}, NEXT]
    tool = {"name": "weather", "input_schema": FUNCTION["parameters"]}
    return {
        "reasoning": first.content[0].thinking,
        "answer": first.content[1].text,
        "streamed": streamed,
        "streamed reasoning": joined.content[0].thinking,
        "second": client.messages.create(**(asked | {"messages": turns})).content[-1].text,
        "structured": is_verdict(client.messages.parse(**asked, output_format=Verdict).parsed_output),
        "counted": client.messages.count_tokens(model=MODEL, messages=QUESTION).input_tokens
        == first.usage.input_tokens,
        "models": [model.id for model in client.models.list()],
        "tools": refusal(lambda: client.messages.create(**asked, tools=[tool])),
    }


def ollama(address):
    from ollama import Client

    client = Client(host=address)
    first = client.chat(MODEL, messages=QUESTION, think=True, keep_alive="5m", options={"num_ctx": 4096})
    parts = list(client.chat(MODEL, messages=QUESTION, stream=True))
    formed = client.chat(MODEL, messages=QUESTION, format=Verdict.model_json_schema())
    return {
        "reasoning": first.message.thinking,
        "answer": first.message.content,
        "streamed reasoning": "".join(part.message.thinking or "" for part in parts),
        "streamed": "".join(part.message.content or "" for part in parts),
        "second": client.chat(MODEL, messages=[*QUESTION, first.message, NEXT]).message.content,
        "generated": client.generate(MODEL, FIRST).response,
        "structured": is_verdict(json.loads(formed.message.content)),
        "models": [model.model for model in client.list().models],
        "thinks": "thinking" in client.show(MODEL).capabilities,
        "tools": refusal(lambda: client.chat(MODEL, messages=QUESTION, tools=TOOLS)),
    }


PACKAGES = {
    openai: "openai",
    openai_responses: "openai",
    openai_completions: "openai",
    langchain: "langchain_openai",
    litellm: "litellm",
    llama_index: "llama_index.llms.openai_like",
    llm: "llm",
    anthropic: "anthropic",
    ollama: "ollama",
}


def is_installed(package):
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False


if __name__ == "__main__":
    name, server = sys.argv[1:]
    client = {client.__name__: client for client in PACKAGES}[name]
    if not is_installed(PACKAGES[client]):
        print(PACKAGES[client])
        sys.exit(77)
    print(json.dumps(client(server)))
