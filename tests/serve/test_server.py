"""The server with a small real model: limits, and clients that leave, stall or send nonsense."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest
import torch
from support import waiting
from support.api_server import ScriptedBackend, scripted_model, serving
from support.chat_server import refuse
from support.chat_server import serving as upstream_serving

from thinktune.errors import UserError
from thinktune.http import Limits
from thinktune.inference.chat_defaults import ChatDefaults
from thinktune.inference.engine import Engine
from thinktune.inference.requests import SamplingParams
from thinktune.serve import ServedModel, serve
from thinktune.serve.models import find_endpoint_models

LIMITS = Limits(
    max_running=2,
    max_waiting=1,
    max_body_bytes=20_000,
    head_timeout_seconds=0.5,
    body_timeout_seconds=0.5,
    reply_timeout_seconds=2,
)
CHAT = "/v1/chat/completions"


def small_model(model, tokenizer, name="tuned", context=200):
    torch.manual_seed(3)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)  # decided enough that rounding does not choose the token
    return ServedModel(
        name, "small", ChatDefaults(sampling=SamplingParams(24)), lambda: Engine(model, tokenizer), tokenizer, context
    )


def post_chat(address, content="Why?", **options):
    body = {"messages": [{"role": "user", "content": content}], **options}
    return httpx.post(f"{address}{CHAT}", json=body, timeout=30)


def stream_chat(address, content, **options):
    """Join the reasoning and the answer of a stream's deltas."""
    import json

    text = post_chat(address, content, stream=True, **options).text
    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in text.split("\n\n")[:-2]]
    return tuple("".join(delta.get(name) or "" for delta in deltas) for name in ("reasoning", "content"))


def test_replies_to_many_at_once_are_those_given_alone(model, tokenizer):
    questions = [f"What does part {number} do? 心脏" for number in range(6)]
    with serving([small_model(model, tokenizer)]) as address:
        alone = [post_chat(address, question).json()["choices"][0]["message"] for question in questions]
        with ThreadPoolExecutor(6) as pool:
            together = list(pool.map(lambda question: stream_chat(address, question), questions))
    assert together == [(message["reasoning"] or "", message["content"]) for message in alone]
    assert len(set(together)) > 1


def test_a_reply_ends_where_the_context_does_and_a_prompt_beyond_it_is_refused(model, tokenizer):
    with serving([small_model(model, tokenizer, context=40)]) as address:
        reply = post_chat(address, "Why?", max_tokens=1000).json()
        assert reply["usage"]["total_tokens"] <= 40
        refused = post_chat(address, "word " * 200)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("upstream", "status", "code"),
    [
        (refuse(500), 502, "upstream_failed"),
        (refuse(401), 502, "upstream_failed"),
        (refuse(404), 502, "upstream_failed"),
        (refuse(400, "too long"), 400, None),
    ],
)
def test_faults_of_the_endpoint_are_not_the_clients(monkeypatch, upstream, status, code):
    monkeypatch.setattr("thinktune.inference.openai_client.MAX_ATTEMPTS", 1)
    with upstream_serving(lambda _: upstream) as (url, _), serving(find_endpoint_models(url, None)) as address:
        refused = post_chat(address)
        streamed = post_chat(address, stream=True)
        document = httpx.get(f"{address}/openapi.json").json()
    assert [one.status_code for one in (refused, streamed)] == [status, status]
    error = refused.json()["error"]
    assert (error["code"], error["type"]) == (code, "server_error" if code else "invalid_request_error")
    assert str(status) in document["paths"][CHAT]["post"]["responses"]


def test_an_endpoint_that_is_gone_is_reported(monkeypatch):
    monkeypatch.setattr("thinktune.inference.openai_client.MAX_ATTEMPTS", 1)
    with upstream_serving(lambda _: refuse(500)) as (url, _):
        served_models = find_endpoint_models(url, None)
    with serving(served_models) as address:
        gone = post_chat(address)
    assert (gone.status_code, gone.json()["error"]["code"]) == (502, "upstream_failed")


def test_requests_beyond_the_queue_are_refused_with_429_and_the_rest_answered():
    backend = ScriptedBackend("<think>\nso\n</think>\n\nyes", 0.01)
    backend.may_continue.clear()
    with serving([scripted_model(backend)], LIMITS) as address, ThreadPoolExecutor(4) as pool:
        # Two run, one waits; whichever comes last is the one too many, and the only one to end.
        sent = [pool.submit(post_chat, address) for _ in range(4)]
        wait_until(lambda: any(one.done() for one in sent) and len(backend.requests) == 2)
        assert [one.result().status_code for one in sent if one.done()] == [429]
        backend.may_continue.set()
        assert sorted(one.result().status_code for one in sent) == [200, 200, 200, 429]
        assert post_chat(address).status_code == 200


def test_a_model_answers_to_its_aliases_and_the_only_one_to_any_name():
    tuned, base = (scripted_model(ScriptedBackend("yes"), name) for name in ("tuned", "base"))
    tuned.aliases = ("mine",)
    with serving([tuned, base]) as address:
        served = [post_chat(address, model=name).json().get("model") for name in ("tuned", "mine", "base", "", "x")]
        assert httpx.get(f"{address}/v1/models/mine").json()["id"] == "tuned"
    assert served == ["tuned", "tuned", "base", "tuned", None]
    with serving([base]) as address:
        assert post_chat(address, model="gpt-5").json()["model"] == "base"


wait_until = partial(waiting.wait_until, seconds=20)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot(stream):
    backend = ScriptedBackend("<think>\n" + "so " * 200, 0.02)
    limits = Limits(max_running=1, max_waiting=0)
    with serving([scripted_model(backend)], limits) as address:
        host, port = address.removeprefix("http://").split(":")
        body = f'{{"messages": [{{"role": "user", "content": "q"}}], "stream": {str(stream).lower()}}}'
        head = f"POST {CHAT} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection((host, int(port))) as leaving:
            leaving.sendall((head + body).encode())
            wait_until(lambda: backend.requests)
            assert post_chat(address).status_code == 429
        assert backend.cancelled.wait(5)
        backend.delay = 0
        assert post_chat(address).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_reply_that_takes_too_long_is_ended(stream):
    backend = ScriptedBackend("<think>\n" + "so " * 2000, 0.05)
    with serving([scripted_model(backend)], LIMITS) as address:
        reply = post_chat(address, stream=stream)
        assert backend.cancelled.wait(5)
    assert reply.status_code == (200 if stream else 504)
    assert '"code": "timeout"' in reply.text if stream else reply.json()["error"]["code"] == "timeout"


def test_a_failing_reply_is_reported_without_a_traceback(caplog):
    class Broken(ScriptedBackend):
        def stream(self, request):
            raise RuntimeError("secret path")

    with serving([scripted_model(Broken(""))]) as address:
        for stream in (True, False):
            failed = post_chat(address, stream=stream)
            assert failed.status_code == 500
            assert failed.json()["error"]["type"] == "server_error"
            assert "secret" not in failed.text
    assert "secret path" in caplog.text


@pytest.fixture(scope="module")
def address():
    with serving([scripted_model(ScriptedBackend("<think>\nso\n</think>\n\nyes"))], LIMITS) as address:
        yield address
        assert post_chat(address).status_code == 200  # whatever came, it still answers


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("status", "content", "headers"),
    [
        (400, b"", JSON),
        (400, b"{", JSON),
        (400, b"\xff\xfe", JSON),
        (400, b"[" * 15_000, JSON),
        (400, b'{"messages": [{"role": "user", "content": "\\ud800"}]}', JSON),
        (400, b'{"messages": [{"role": "user", "content": "q"}], "temperature": NaN}', JSON),
        (413, b" " * 30_000, JSON),
        (415, b"{}", {"content-type": "text/plain"}),
        (421, b"{}", JSON | {"host": "evil.example"}),
        (421, b"{}", JSON | {"host": "127.0.0.1.evil.example:80"}),
        (403, b"{}", JSON | {"origin": "http://evil.example"}),
        (403, b"{}", JSON | {"origin": "null"}),
    ],
)
def test_bad_requests_are_refused_in_openais_form(address, status, content, headers):
    refused = httpx.post(f"{address}{CHAT}", content=content, headers=headers)
    assert refused.status_code == status
    assert set(refused.json()["error"]) == {"message", "type", "param", "code"}
    assert "access-control-allow-origin" not in refused.headers


def test_a_key_is_required_below_v1(address):
    assert post_chat(address).status_code == 200
    with serving([scripted_model(ScriptedBackend("yes"))], key="sésame") as guarded:
        for given in (None, "Bearer wrong", "sésame", "Bearer sésame x"):
            headers = {"authorization": given.encode()} if given else {}
            assert httpx.get(f"{guarded}/v1/models", headers=headers).status_code == 401
        right = {"authorization": "Bearer sésame".encode()}
        assert httpx.get(f"{guarded}/v1/models", headers=right).status_code == 200
        assert httpx.get(f"{guarded}/health").json() == {"status": "ok"}
        assert httpx.get(guarded).status_code == 200


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1\r\nHost: 127", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET"]
)
def test_a_head_that_does_not_arrive_ends_the_connection(address, sent):
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=15) as slow:
        slow.sendall(sent)
        while slow.recv(1000):
            pass


def test_a_body_that_does_not_arrive_is_refused(address):
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=15) as slow:
        slow.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{{".encode()
        )
        assert b" 408 " in slow.recv(1000)


@pytest.mark.parametrize(
    "path",
    [
        "/page/../serve.py",
        "/page/%2e%2e/serve.py",
        "/page/..%2fserve.py",
        "/page//etc/passwd",
        "/page/libraries",
        "/etc/passwd",
        "/page/%00",
    ],
)
def test_no_file_but_the_pages_own_can_be_read(address, path):
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=15) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        assert raw.recv(1000).startswith(b"HTTP/1.1 404 ")


def test_the_page_may_load_its_own_files_alone(address):
    for path in ("/", "/page/main.js", "/page/libraries/marked.esm.js", "/health"):
        headers = httpx.get(f"{address}{path}").headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_an_answers_body_does_not_wait_for_its_heads_acknowledgement(address):
    seconds = []
    with httpx.Client(
        trust_env=False
    ) as client:  # over one connection, on which it would wait 40 ms, but for the first ones
        for _ in range(20):
            began = time.perf_counter()
            client.get(f"{address}/page/theme.js")
            seconds.append(time.perf_counter() - began)
    assert sorted(seconds)[10] < 0.03


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/oauth2-redirect"])
def test_no_page_of_documentation_that_loads_from_elsewhere_is_served(address, path):
    assert httpx.get(f"{address}{path}").status_code == 404


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/health", "/v1/models", "/v1/models/tuned", "/openapi.json"])
def test_head_is_answered_like_get(address, path):
    head, get = httpx.head(f"{address}{path}"), httpx.get(f"{address}{path}")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(get.content))


def test_another_address_than_loopback_needs_a_key_and_a_taken_port_is_reported(monkeypatch):
    monkeypatch.delenv("THINKTUNE_API_KEY", raising=False)
    served_model = scripted_model(ScriptedBackend(""))
    with pytest.raises(UserError, match="THINKTUNE_API_KEY"):
        serve([served_model], "0.0.0.0", 0, print)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="cannot listen there"):
        serve([served_model], "127.0.0.1", taken.getsockname()[1], print)
