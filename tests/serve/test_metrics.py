"""What the server counts: every request and reply once, whatever ends it, in a form that Prometheus' own parser reads."""

import socket
import threading
from functools import partial

import httpx
import pytest
from support import waiting
from support.api_server import QUESTION, ScriptedBackend, scripted_model, serving

from thinktune.http import Limits
from thinktune.serve.metrics import Counter, Histogram

HTTP = httpx.Client(timeout=60)  # one for all: each would read the certificates of the machine


def samples(text):
    """Return the samples by name and labels, as Prometheus' own parser reads them."""
    parser = pytest.importorskip("prometheus_client.parser")
    return {
        (sample.name.removeprefix("thinktune_"), *sample.labels.values()): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def read(address, **options):
    answered = HTTP.get(f"{address}/metrics", **options)
    assert answered.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return samples(answered.text)


wait_until = partial(waiting.wait_until, seconds=20)


class Fails(ScriptedBackend):
    def stream(self, request):
        raise RuntimeError("secret")


def test_requests_replies_and_tokens_are_counted_once_each():
    cut = scripted_model(ScriptedBackend("so", finish="length"), "cut")
    with serving([scripted_model(ScriptedBackend("so")), cut, scripted_model(Fails(""), "fails")]) as address:
        for path, body in (
            ("chat/completions", {"messages": QUESTION}),
            ("chat/completions", {"messages": QUESTION, "stream": True}),
            ("chat/completions", {"messages": []}),
            ("chat/completions", {"messages": QUESTION, "model": "nobody"}),
            ("chat/completions", {"messages": QUESTION, "model": "fails"}),
            ("responses", {"input": "Why?", "model": "cut"}),
            ("completions", {"prompt": ["one", "two"]}),
            ("x" * 30, {}),
        ):
            HTTP.post(f"{address}/v1/{path}", json=body)
        assert HTTP.get(f"{address}/v1/models/tuned").status_code == 200
        found = read(address)
    requests = {key[1:]: value for key, value in found.items() if key[0] == "requests_total"}
    assert requests == {
        ("/v1/chat/completions", "200"): 2,
        ("/v1/chat/completions", "400"): 1,
        ("/v1/chat/completions", "404"): 1,
        ("/v1/chat/completions", "500"): 1,
        ("/v1/responses", "200"): 1,
        ("/v1/completions", "200"): 1,
        ("other", "404"): 1,
        ("other", "200"): 1,
    }
    replies = {key[1:]: value for key, value in found.items() if key[0] == "replies_total"}
    assert replies == {("tuned", "stop"): 4, ("cut", "length"): 1, ("fails", "error"): 1}
    assert found["prompt_tokens_total", "tuned"] == 4 * 11
    assert found["completion_tokens_total", "tuned"] == 4 * 20
    assert found["reasoning_tokens_total", "cut"] == 8
    for name in ("queue_seconds", "first_text_seconds", "reply_seconds"):
        assert found[f"{name}_count", "tuned"] == found[f"{name}_bucket", "tuned", "+Inf"] == 4
        assert 0 <= found[f"{name}_sum", "tuned"] < 60
    assert found["replies_running",] == found["replies_waiting",] == 0


def test_the_queue_is_shown_and_a_client_that_leaves_is_counted():
    backend = ScriptedBackend("<think>\nso\n</think>\n\nyes", 0.01)
    backend.may_continue.clear()
    body = b'{"messages": [{"role": "user", "content": "q"}]}'
    with serving([scripted_model(backend)], Limits(max_running=1, max_waiting=5)) as address:
        host, port = address.removeprefix("http://").split(":")
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        waiting = [socket.create_connection((host, int(port))) for _ in range(3)]
        for one in waiting:
            one.sendall(head.encode() + body)
            wait_until(lambda: backend.requests)  # the first has the slot
        wait_until(lambda: read(address)["replies_waiting",] == 2)
        assert read(address)["replies_running",] == 1
        for left, one in enumerate(reversed(waiting), 1):  # the one that runs last, or another takes its slot
            one.close()
            wait_until(lambda: read(address).get(("requests_total", "/v1/chat/completions", "499")) == left)  # noqa: B023
        found = read(address)
        backend.may_continue.set()
    assert found["replies_waiting",] == found["replies_running",] == 0
    assert found["replies_total", "tuned", "cancelled"] == 1, "the other two had not begun"
    assert threading.active_count() < 50


def test_a_key_and_a_host_are_asked_for_as_elsewhere():
    with serving([scripted_model(ScriptedBackend("so"))], key="secret") as address:
        assert HTTP.get(f"{address}/metrics").status_code == 401
        assert HTTP.get(f"{address}/metrics", headers={"origin": "http://evil.example"}).status_code == 403
        found = read(address, headers={"authorization": "Bearer secret"})
        assert found["requests_total", "/metrics", "401"] == 1
        assert found["requests_total", "/metrics", "403"] == 1
        version = HTTP.get(f"{address}/version").json()["version"]
        assert found["info", version] == 1
        assert HTTP.get(f"{address}/openapi.json").json()["info"]["version"] == version


def test_labels_are_escaped_and_long_counts_are_whole():
    counter = Counter("c_total", "C.", ("model",))
    counter.add('a "model"\\of\nmine', amount=123_456_789_012)
    counter.add("b", amount=1)
    found = samples("\n".join(counter.lines()) + "\n")
    assert found == {("c_total", 'a "model"\\of\nmine'): 123_456_789_012, ("c_total", "b"): 1}


def test_buckets_hold_what_is_at_most_their_bound():
    histogram = Histogram("h", "H.", ())
    values = [0.005, 0.01, 0.02, 0.1, 5, 1000]
    for value in values:
        histogram.observe(value)
    found = samples("\n".join(histogram.lines()) + "\n")
    for (name, *bound), count in found.items():
        if name == "h_bucket":
            assert count == sum(value <= float(bound[0]) for value in values)
    assert (found["h_count",], found["h_sum",]) == (6, sum(values))
