"""Real clients against a run that is really trained and served, each asked the same: both parts, two turns, a form, tools.

THINKTUNE_CLIENTS names a virtual environment with the clients (`.ci/slow clients` makes it); those that it lacks are
skipped. The programs that run in it are in `clients/`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from support.runs import FACTS, quiet, settings, small_tree

from thinktune.train import train

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent / "clients"
CLIENTS = Path(os.environ.get("THINKTUNE_CLIENTS", sys.prefix))
PYTHON = CLIENTS / "bin" / "python" if "THINKTUNE_CLIENTS" in os.environ else sys.executable
NOT_INSTALLED = 77  # the exit code of a client that is not there
REASONING, ANSWER, SECOND = "heart: think.", "heart - blood.", "lung - air."
RAW = f"<think>\n{REASONING}\n</think>\n\n{ANSWER}"
TWO_PARTS = {"reasoning": REASONING, "answer": ANSWER, "streamed reasoning": REASONING, "streamed": ANSWER}
NO_TOOLS = "tool calls are not supported here; turn tools off in your client, or leave them out"
ALL = {**TWO_PARTS, "second": SECOND, "structured": True, "tools": NO_TOOLS}


def turns(part, what):
    return [
        {"role": "user", "content": f"{part}?"},
        {"role": "assistant", "reasoning_content": f"{part}: think.", "content": f"{part} - {what}."},
    ]


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Generator[str]:
    """Train a small model until it knows its rows, of one turn and of two, and serve the run in a process of its own."""
    folder = tmp_path_factory.mktemp("clients")
    tree = small_tree(folder)
    facts = list(FACTS.items())
    rows = [turns(*fact) for fact in facts] + [turns(*one) + turns(*two) for one in facts for two in facts if one < two]
    rows_file = folder / "conversations.jsonl"
    rows_file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows), encoding="utf-8")
    train_options = {"rows_per_step": 8, "epochs": 25, "learning_rate": 3e-3, "evaluate_every_steps": 1000}
    recipe = settings(
        tree,
        data={"name": str(rows_file), "columns": {}, "validation": 0.05},
        train=train_options,
        generate={"max_new_tokens": 200, "sample_questions": 0},
    )
    run = train(recipe, quiet)
    command = [sys.executable, "-m", "thinktune", "serve", str(run), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            for line in server.stdout:
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    break
            yield found[0]
        finally:
            server.terminate()


def run_client(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)
    if done.returncode == NOT_INSTALLED:
        pytest.skip(f"{done.stdout.strip()} is not installed; THINKTUNE_CLIENTS names an environment that has it")
    assert done.returncode == 0, done.stderr[-3000:]
    return judged(json.loads(done.stdout.splitlines()[-1]))


def judged(found):
    """Put the sentence about tools in place of what a client makes of it; what each client adds is its own."""
    if isinstance(found, dict):
        return {name: judged(value) for name, value in found.items()}
    return NO_TOOLS if isinstance(found, str) and NO_TOOLS in found else found


def ask(client, address):
    return run_client([PYTHON, HERE / "python_clients.py", client, address])


def ask_node(script, address):
    node, folder = shutil.which("node"), CLIENTS / "node"
    if node is None or not (folder / "node_modules").exists():
        pytest.skip("no node, or no packages for it; THINKTUNE_CLIENTS names a folder with node/node_modules")
    with (HERE / script).open(encoding="utf-8") as program:  # a program from there finds the packages of its folder
        variables = {**os.environ, "ADDRESS": address, "AI_SDK_LOG_WARNINGS": "false"}
        return run_client([node, "--input-type=module"], stdin=program, cwd=folder, env=variables)


def test_openai(address):
    found = ask("openai", address)
    assert found.pop("usage") > 20
    assert found == {
        **ALL, "accumulated": ANSWER, "second": [SECOND] * 2, "log probabilities": SECOND, "models": ["tuned", "base"]
    }  # fmt: skip


def test_openai_responses(address):
    assert ask("openai_responses", address) == {**ALL, "events": ["response.created", "response.completed"]}


def test_openai_completions(address):
    assert ask("openai_completions", address) == {"raw": RAW, "streamed raw": RAW}


def test_langchain(address):
    assert ask("langchain", address) == {
        "answer": ANSWER,
        "streamed": ANSWER,
        "second": SECOND,
        "responses": ANSWER,
        "streamed responses": ANSWER,
        "second of responses": SECOND,
        "structured": [True, True],
        "raw": RAW,
        "tools": NO_TOOLS,
        "tools for a form": NO_TOOLS,
    }


def test_litellm(address):
    each = {**ALL, "second": [SECOND] * 2, "effort": ANSWER}
    assert ask("litellm", address) == {"openai": each, "hosted_vllm": each, "raw": RAW}


def test_llama_index(address):
    assert ask("llama_index", address) == {
        "answer": ANSWER,
        "streamed": ANSWER,
        "second": SECOND,
        "complete": ANSWER,
        "raw": RAW,
        "streamed raw": RAW,
        "structured": True,
    }


def test_llm(address):
    assert ask("llm", address) == {
        "answer": ANSWER,
        "streamed": ANSWER,
        "second": SECOND,
        "effort": ANSWER,
        "structured": True,
        "raw": RAW,
        "tools": NO_TOOLS,
    }


def test_anthropic(address):
    assert ask("anthropic", address) == {**ALL, "counted": True, "models": ["tuned", "base"]}


def test_ollama(address):
    assert ask("ollama", address) == {**ALL, "generated": ANSWER, "models": ["tuned", "base"], "thinks": True}


def test_openai_for_node(address):
    assert ask_node("openai.mjs", address) == {
        **ALL,
        "accumulated": ANSWER,
        "response": [REASONING, ANSWER],
        "streamed response": [REASONING, ANSWER],
        "second response": SECOND,
        "structured": [True, True],
        "raw": RAW,
        "streamed raw": RAW,
        "models": ["tuned", "base"],
    }


def test_the_ai_sdk(address):
    found = ask_node("ai_sdk.mjs", address)
    # On these two the SDK shows no reasoning that is no summary.
    assert found.pop("openai (responses)") == {**ALL, "reasoning": "", "streamed reasoning": ""}
    assert found.pop("openai.chat") == {**ALL, "reasoning": None, "streamed reasoning": None}
    assert found == {"openai-compatible": ALL, "raw": True, "effort": ANSWER}
