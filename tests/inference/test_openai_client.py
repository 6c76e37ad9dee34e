"""OpenAI client: replies are parsed as in process; temporary failures are retried, others reported plainly."""

import threading
import time
from contextlib import closing

import pytest
from support.chat_server import DONE, HANG, part, refuse, reply, serving, usage

from thinktune.errors import UserError
from thinktune.inference import openai_client
from thinktune.inference.openai_client import Endpoint
from thinktune.inference.openai_errors import TemporaryError
from thinktune.inference.replies import Piece, join_pieces
from thinktune.inference.requests import Completion, Request, SamplingParams
from thinktune.tokenization import Turn

GOOD = [part("heart"), part("."), part(finish="stop"), usage(7, 3), DONE]
FORMATS = {
    "a field": [part(reasoning="\nwhy "), part(reasoning="so\n"), part("\n\nthe "), part("heart")],
    "vLLM's field": [
        part(reasoning="why ", field="reasoning"),
        part(reasoning="so", field="reasoning"),
        part("the heart"),
    ],
    "tags": [part("<think>\nwhy"), part(" so\n</th"), part("ink>\n\nthe heart")],
    "a tag the prompt has opened": [part("why so\n"), part("</think>\n\nthe heart")],
}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(openai_client, "FIRST_WAIT_SECONDS", 0.01)
    for name in openai_client.API_KEY_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def ask(question="q?", **sampling):
    return Request(
        (Turn("system", "Be kind."), Turn("user", question)), SamplingParams(**{"max_new_tokens": 50} | sampling)
    )


def answer(script, *requests, **options):
    """Return the completions of requests, and the bodies that the server received."""
    with serving(script) as (url, asked), closing(Endpoint(url, **options)) as endpoint:
        found = dict(endpoint.complete(requests or [ask()]))
    return [found[number] for number in range(len(found))], asked


def in_turn(*replies):
    """Make a script that gives the replies one after the other, the last one again and again."""
    left = list(replies)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


@pytest.mark.parametrize("form", FORMATS)
def test_reasoning_and_answer_are_separated_however_the_server_sends_them(form):
    script = in_turn(reply(*FORMATS[form], part(finish="stop"), usage(11, 9, 4), DONE))
    (found,), _ = answer(script)
    assert found == Completion("why so", "the heart", 9, 4, "end", closed=True, prompt_tokens=11)
    with serving(script) as (url, _), closing(Endpoint(url)) as endpoint:
        *pieces, last = endpoint.stream(ask())
    assert last == found
    assert join_pieces(pieces) == ("why so", "the heart")
    assert len(pieces) > 1


def test_a_server_that_does_not_stream_works_too():
    text = b'{"choices": [{"message": {"content": "heart", "reasoning": "why"}, "finish_reason": "length"}]}'
    (found,), _ = answer(in_turn(reply(text, kind="application/json")))
    assert (found.reasoning, found.answer, found.finish, found.closed) == ("why", "heart", "length", True)


def test_the_body_holds_every_field_of_the_request(monkeypatch):
    monkeypatch.setenv("THINKTUNE_ENDPOINT_KEY", "secret")
    request = Request(
        (Turn("user", "q?"), Turn("assistant", "a", "hidden"), Turn("user", "r?")),
        SamplingParams(99, temperature=0.6, top_p=0.95, top_k=20, seed=5, stop=("END",), max_reasoning_tokens=30),
        thinking=False,
    )
    _, (sent,) = answer(in_turn(reply(*GOOD)), request, model="expert")
    assert sent["messages"] == [
        {"role": "user", "content": "q?"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "r?"},
    ]
    expected = {"max_tokens": 99, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "seed": 5, "model": "expert"}
    assert expected.items() <= sent.items()
    assert sent["chat_template_kwargs"] == {"enable_thinking": False}
    assert sent["thinking_token_budget"] == sent["reasoning_budget"] == 30
    assert "stop" not in sent
    assert (sent["path"], sent["key"]) == ("/v1/chat/completions", "Bearer secret")


def test_a_stop_string_ends_the_answer_and_hangs_up():
    parts = [part(reasoning="an END"), part("b EN"), part("D c"), *(part("d") for _ in range(5)), HANG]
    (found,), _ = answer(in_turn(reply(*parts)), ask(stop=("END",)))
    assert (found.reasoning, found.answer, found.finish) == ("an END", "b ", "stop")


NOW = {"Retry-After": "0.01"}  # else the `openai` client waits half a second and more
FAULTS = {
    "429 with a time": refuse(429, **{"Retry-After": "0.01"}),
    "429 with a date": refuse(429, **{"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    "408": refuse(408, **NOW),
    "500": refuse(500, **NOW),
    "503": refuse(503, "loading", **NOW),
    "half a stream": reply(part("hea")),
    "half a line": reply(part("heart"), b'data: {"choi'),
    "nothing": reply(),
    "garbage": reply(b"<html>hello</html>"),
    "garbled bytes": reply(b"data: \xff\xfe{}\n\n"),
    "an error inside": reply(part("hea"), b'data: {"error": {"message": "lost"}}\n\n'),
    "given up": reply(part("hea"), part(finish="abort"), DONE),
    "another shape": reply(b'data: {"choices": [{"delta": {"content": ["hea"]}}]}\n\n'),
    "half a whole reply": reply(b'{"choices": [', HANG, kind="application/json"),
    "a hang": reply(part("hea"), HANG),
    "a hang before": reply(HANG),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_temporary_failures_are_retried(fault):
    found, asked = answer(in_turn(FAULTS[fault], FAULTS[fault], reply(*GOOD)), timeout_seconds=0.3)
    assert found == [Completion("", "heart.", 3, 0, "end", closed=False, prompt_tokens=7)]
    assert len(asked) == 3


@pytest.mark.parametrize(("fault", "message"), [("500", "answers 500: no"), ("half a stream", "broke off")])
def test_lasting_failures_are_reported_after_some_attempts(fault, message):
    with pytest.raises(UserError, match=rf"/v1: .*{message}.*tried {openai_client.MAX_ATTEMPTS} times"):
        answer(in_turn(FAULTS[fault]))


def test_an_unreachable_server_is_named(monkeypatch):
    monkeypatch.setattr(openai_client, "MAX_ATTEMPTS", 2)
    with serving(in_turn(reply())) as (url, _):
        pass
    with closing(Endpoint(url, "expert")) as endpoint:
        with pytest.raises(
            UserError, match=rf"{url}/v1: ConnectError: .*tried 2 times\); check that the server is running"
        ):
            list(endpoint.complete([ask()]))
        with pytest.raises(UserError, match=rf"{url}/v1: ConnectError: .*; check that the server is running"):
            endpoint.models()


def test_retry_after_is_obeyed():
    times = []

    def script(_):
        times.append(time.monotonic())
        return reply(*GOOD) if len(times) > 1 else refuse(429, **{"Retry-After": "1"})

    answer(script, model="expert")
    assert times[1] - times[0] >= 1  # the `openai` client's own first wait is at most half a second


def test_without_a_key_no_other_key_of_the_environment_is_sent(monkeypatch):
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "secret")
    _, (sent,) = answer(in_turn(reply(*GOOD)))
    assert sent["key"] is None


@pytest.mark.parametrize(
    ("status", "key", "message"),
    [
        (401, None, "asks for a key .401.; set THINKTUNE_ENDPOINT_KEY"),
        (403, "secret", "refuses the key .403."),
        (404, None, "has no model 'expert'"),
        (400, "secret", r"refuses the request \(400\): no \*\*\*"),
    ],
)
def test_the_users_faults_are_reported_at_once_and_without_the_key(status, key, message):
    script = in_turn(refuse(status, f"no {key or ''}"))
    with serving(script) as (url, asked), closing(Endpoint(url, key=key)) as endpoint:
        with pytest.raises(UserError, match=message) as raised:
            list(endpoint.complete([ask()]))
        assert "secret" not in str(raised.value)
        assert len(asked) == 1


def test_an_optional_field_that_a_server_refuses_is_left_out():
    def script(asked):
        wrong = [name for name in ("chat_template_kwargs", "stream_options", "max_tokens") if name in asked]
        return refuse(400, f"unknown argument: {wrong[0]}") if wrong else reply(*GOOD)

    found, asked = answer(script, ask())
    assert found[0].answer == "heart."
    assert asked[-1]["max_completion_tokens"] == 50
    without = Request(ask().turns, SamplingParams(50), thinking=False)
    with pytest.raises(UserError, match="chat_template_kwargs"):  # here it changes what the model does
        answer(script, without)


def test_a_stream_that_was_read_from_is_not_requested_again():
    with serving(in_turn(reply(part("hea")), reply(*GOOD))) as (url, asked), closing(Endpoint(url)) as endpoint:
        stream = endpoint.stream(ask())
        assert next(stream) == Piece("answer", "hea")
        with pytest.raises(UserError, match="broke off"):
            next(stream)
        assert len(asked) == 1


def test_a_closed_stream_hangs_up():
    endless = reply(*(text for _ in range(2000) for text in (part("a"), 0.005)))
    with serving(in_turn(endless)) as (url, asked), closing(Endpoint(url)) as endpoint:
        stream = endpoint.stream(ask())
        next(stream)
        stream.close()
        assert list(stream) == []
        limit = time.monotonic() + 10
        while not asked[0].get("left"):
            assert time.monotonic() < limit
            time.sleep(0.01)


def test_closing_the_endpoint_fails_the_requests_in_flight():
    messages = []
    with serving(in_turn(reply(HANG))) as (url, asked):
        endpoint = Endpoint(url)

        def read():
            try:
                list(endpoint.complete([ask()]))
            except RuntimeError as error:
                messages.append(str(error))

        thread = threading.Thread(target=read)
        thread.start()
        while not asked:
            time.sleep(0.01)
        endpoint.close()
        thread.join(10)
        assert not thread.is_alive()
    assert len(messages) == 1
    with pytest.raises(RuntimeError, match="closed"):
        endpoint.stream(ask())


def test_requests_run_concurrently_up_to_the_limit():
    now, most, lock = [0], [0], threading.Lock()

    def script(asked):
        def parts():
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            time.sleep(0.05)
            with lock:
                now[0] -= 1
            yield part(asked["messages"][-1]["content"] + "!", finish="stop")
            yield DONE

        return 200, {"Content-Type": "text/event-stream"}, parts()

    requests = [ask(f"q{number}") for number in range(20)]
    with serving(script) as (url, _), closing(Endpoint(url)) as endpoint:
        found = dict(endpoint.complete(requests, max_concurrency=5))
    assert [found[number].answer for number in range(20)] == [f"q{number}!" for number in range(20)]
    assert 2 <= most[0] <= 5


def test_only_line_feeds_and_carriage_returns_end_a_line():
    (found,), _ = answer(in_turn(reply(part("a\u2028b\x85c"), part(finish="stop"), DONE)))
    assert found.answer == "a\u2028b\x85c"


def test_an_overrun_reasoning_budget_is_reported():
    long = [part(reasoning="why ") for _ in range(200)]
    with pytest.raises(UserError, match="reasoning_tokens: is 5, but this server let the model reason for 200"):
        answer(in_turn(reply(*long, part("so"), part(finish="stop"), DONE)), ask(max_reasoning_tokens=5))


def test_the_only_model_is_found_and_several_are_listed():
    _, (sent,) = answer(in_turn(reply(*GOOD)))
    assert sent["model"] == "expert"
    with serving(in_turn(reply(*GOOD)), models=("a", "b")) as (url, _), closing(Endpoint(url)) as endpoint:
        assert endpoint.models() == ["a", "b"]
        with pytest.raises(UserError, match="name the model to use; it has a, b"):
            list(endpoint.complete([ask()]))


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_an_address_may_have_any_usual_ending(ending):
    with serving(in_turn(reply(*GOOD))) as (url, asked), closing(Endpoint(url + ending)) as endpoint:
        list(endpoint.complete([ask()]))
    assert asked[0]["path"] == "/v1/chat/completions"


def test_a_text_that_is_no_address_is_refused():
    with pytest.raises(UserError, match="is not an address"):
        Endpoint("localhost:8000")


@pytest.mark.parametrize(
    ("fault", "may_have_cost", "wait_seconds"),
    [
        (refuse(429, **{"Retry-After": "0.5"}), False, 0.5),
        (refuse(429, **{"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}), False, 0.0),
        (refuse(429, **{"Retry-After": "soon"}), False, None),
        (refuse(503), False, None),
        (refuse(504), True, None),
        (reply(part("hea")), True, None),
        (reply(part("hea"), HANG), True, None),
    ],
)
def test_a_failure_that_may_pass_says_whether_it_may_have_cost_and_how_long_to_wait(fault, may_have_cost, wait_seconds):
    with pytest.raises(TemporaryError) as caught:
        answer(in_turn(fault), max_attempts=1, timeout_seconds=0.5)
    assert (caught.value.may_have_cost, caught.value.wait_seconds) == (may_have_cost, wait_seconds)


def test_a_server_that_was_never_reached_cost_nothing():
    with serving(in_turn(reply())) as (url, _):
        pass
    with closing(Endpoint(url, "expert", max_attempts=1)) as endpoint, pytest.raises(TemporaryError) as caught:
        list(endpoint.complete([ask()]))
    assert not caught.value.may_have_cost


def test_one_attempt_is_one_request():
    with (
        serving(in_turn(refuse(500), reply(*GOOD))) as (url, asked),
        closing(Endpoint(url, max_attempts=1)) as endpoint,
        pytest.raises(TemporaryError, match=r"answers 500: no$"),
    ):
        list(endpoint.complete([ask()]))
    assert len(asked) == 1


def test_a_server_that_only_keeps_the_connection_alive_is_given_up(monkeypatch):
    monkeypatch.setattr(openai_client, "MAX_REPLY_SECONDS", 0.5)
    script = in_turn(reply(part("hea"), *[b": still here\n\n", 0.1] * 60))
    with pytest.raises(TemporaryError, match="sent no whole reply in"):
        answer(script, max_attempts=1)
