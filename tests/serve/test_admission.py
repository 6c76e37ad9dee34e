"""No client holds up the others: long prompts are rendered one at a time, beside short ones, and only for who is there."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest
from support import waiting
from support.api_server import ScriptedBackend, serving

from thinktune.http import ApiError, Limits
from thinktune.inference.chat_defaults import ChatDefaults
from thinktune.inference.requests import SamplingParams
from thinktune.serve import ServedModel
from thinktune.serve.admission import SHORT_PROMPT_CHARACTERS
from thinktune.serve.openai_schema import parse_request
from thinktune.tokenization import Turn
from thinktune.tokenization.chat_template import render_prompt

CHAT = "/v1/chat/completions"
LONG = "word " * SHORT_PROMPT_CHARACTERS


class GatedTokenizer:
    """A tokenizer whose template waits at a gate for each long conversation, and counts them."""

    def __init__(self, tokenizer):
        self._tokenizer, self.gate, self.rendered = tokenizer, threading.Event(), 0

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __len__(self):
        return len(self._tokenizer)

    def apply_chat_template(self, messages, **options):
        if len(messages[0]["content"]) > SHORT_PROMPT_CHARACTERS:
            self.rendered += 1
            assert self.gate.wait(120)
        return self._tokenizer.apply_chat_template(messages, **options)


@pytest.fixture
def gated(tokenizer):
    return GatedTokenizer(tokenizer)


@pytest.fixture
def address(gated):
    backend = ScriptedBackend("<think>\nso\n</think>\n\nyes")
    served = ServedModel("tuned", "a script", ChatDefaults(sampling=SamplingParams(8)), lambda: backend, gated, 10**7)
    with serving([served], Limits(max_running=2, max_waiting=40)) as address:
        yield address
        gated.gate.set()


def post(address, content):
    return httpx.post(f"{address}{CHAT}", json={"messages": [{"role": "user", "content": content}]}, timeout=120)


def open_request(address, content):
    """Send a request and return its connection, without waiting for the response."""
    host, port = address.removeprefix("http://").split(":")
    body = json.dumps({"messages": [{"role": "user", "content": content}]})
    head = f"POST {CHAT} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection = socket.create_connection((host, int(port)))
    connection.sendall((head + body).encode())
    return connection


wait_until = partial(waiting.wait_until, seconds=60)


def test_a_short_prompt_does_not_wait_for_twenty_long_ones(address, gated):
    with ThreadPoolExecutor(20) as pool:
        long = [pool.submit(post, address, LONG) for _ in range(20)]
        wait_until(lambda: gated.rendered == 1)
        for _ in range(5):
            assert post(address, "Why?").status_code == 200
            assert httpx.get(f"{address}/health").status_code == 200
        assert gated.rendered == 1, "long prompts are rendered one at a time"
        assert not any(one.done() for one in long)
        gated.gate.set()
        assert {one.result().status_code for one in long} == {200}
    assert gated.rendered == 20


def test_the_prompt_of_a_client_that_has_left_is_not_rendered(address, gated):
    connections = [open_request(address, LONG) for _ in range(20)]
    wait_until(lambda: gated.rendered == 1)
    for connection in connections:
        connection.close()
    with ThreadPoolExecutor(1) as pool:
        last = pool.submit(post, address, LONG)
        time.sleep(0.5)  # until the server has seen them leave
        gated.gate.set()
        assert last.result().status_code == 200
    assert gated.rendered == 2


def test_other_threads_run_while_a_long_prompt_of_spelled_control_tokens_is_tokenized(tokenizer):
    turns = [Turn("user", "<|im_end|>" * 60_000)]
    render_prompt([Turn("user", "<|im_end|>")], tokenizer)  # what is made once
    longest, finished = 0.0, threading.Event()

    def watch():
        nonlocal longest
        before = time.monotonic()
        while not finished.is_set():
            time.sleep(0.002)
            longest, before = max(longest, time.monotonic() - before), time.monotonic()

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.monotonic()
    render_prompt(turns, tokenizer)
    seconds = time.monotonic() - started
    finished.set()
    watcher.join()
    assert longest < seconds / 2


ONES, EMPTY = ",".join(["1"] * 500_000), ",".join(["[]"] * 500_000)
STRANGE_MESSAGES = ",".join(['{"role": "x", "a": 1, "b": 1}'] * 4096)
STRANGE_FIELDS = ",".join(f'"a{number}": 1' for number in range(100_000))


@pytest.mark.parametrize(
    "body",
    [
        f'{{"messages": [{{"role": "user", "content": [{ONES}]}}]}}',
        f'{{"messages": [{ONES}]}}',
        f'{{"messages": [{STRANGE_MESSAGES}]}}',
        f'{{"stop": [{ONES}], "messages": []}}',
        f"{{{STRANGE_FIELDS}}}",
        f'{{"tools": [{EMPTY}], "messages": []}}',
        f'{{"{"x" * 1_000_000}": 1}}',
    ],
    ids=["parts", "messages", "fields-of-messages", "stops", "fields", "tools", "name"],
)
def test_a_body_of_countless_faults_is_refused_in_few_words(body):
    started = time.process_time()
    with pytest.raises(ApiError) as refused:
        parse_request(body.encode())
    assert time.process_time() - started < 3
    assert refused.value.status == 400
    assert len(str(refused.value)) < 5_000
