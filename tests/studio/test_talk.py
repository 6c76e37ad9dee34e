"""The studio passes a chat page on to the server behind it: replies as they come, leavers too, and nothing elsewhere."""

import json
import shlex
import socket
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route
from support.api_server import QUESTION, ScriptedBackend, scripted_model, serving
from support.runs import settings

from thinktune.config import load_recipe
from thinktune.config.loading import dump_recipe
from thinktune.http import ApiError, Limits
from thinktune.http.security import error_response
from thinktune.run import RunFolder
from thinktune.studio.talk import make_client, pass_on, printed_port, read_feedback

TEXT = "<think>a thought of some length</think>The answer is 42."


@contextmanager
def passing(port):
    """Run a server in a thread that passes all on to a port, below /talk/one."""
    client = make_client()

    async def talk(request):
        try:
            return await pass_on(client, request, port, request.url.path, Limits(max_body_bytes=4000))
        except ApiError as error:
            return error_response(error)

    app = Starlette(routes=[Route("/talk/one/{path:path}", talk, methods=["GET", "POST"])])
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=2))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/talk/one"
        server.should_exit = True
        thread.join(20)


def asked(address, stream=True, **more):
    body = {"messages": QUESTION, "stream": stream}
    return httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=30, trust_env=False, **more)


@contextmanager
def behind(backend, **access):
    served = serving([scripted_model(backend)], root_path="/talk/one", **access)
    with served as address, passing(int(address.rpartition(":")[2])) as passed:
        yield passed


def test_page_api_and_refusals_are_passed_on_as_they_are():
    with behind(ScriptedBackend(TEXT)) as address:
        page = httpx.get(f"{address}/", trust_env=False)
        assert 'src="page/main.js"' in page.text
        assert page.headers["content-type"].startswith("text/html")
        assert httpx.get(f"{address}/page/main.js", trust_env=False).status_code == 200
        assert httpx.get(f"{address}/v1/models", trust_env=False).json()["data"][0]["id"] == "tuned"
        assert httpx.get(f"{address}/page/..%2f..%2fetc", trust_env=False).status_code == 404
        with asked(address, stream=False) as reply:
            assert json.loads(reply.read())["choices"][0]["message"]["content"] == "The answer is 42."
        # The page of another address; the studio's own guard looks at the origin, so the server behind is not told it.
        with asked(address, stream=False, headers={"origin": "http://127.0.0.1:1"}) as reply:
            assert reply.status_code == 200
        form = httpx.post(f"{address}/v1/chat/completions", data={"a": "b"}, trust_env=False)
        assert form.status_code == 415
        large = httpx.post(f"{address}/v1/chat/completions", json={"messages": "x" * 5000}, trust_env=False)
        assert large.status_code == 413


def test_reply_comes_as_it_is_written_and_the_server_behind_checks_the_key():
    backend = ScriptedBackend(TEXT)
    backend.may_continue.clear()
    with behind(backend, key="secret") as address:
        with asked(address) as refused:
            assert refused.status_code == 401
        with asked(address, headers={"authorization": "Bearer secret"}) as reply:
            parts = reply.iter_text()
            assert "reasoning_content" in next(text for text in parts if "reasoning" in text)
            backend.may_continue.set()  # only now, after the first words came, may the server go on
            assert "[DONE]" in "".join(parts)


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_leaves_ends_the_reply(stream):
    backend = ScriptedBackend(TEXT, delay=0.02)
    backend.may_continue.clear()
    with behind(backend) as address:
        if stream:
            with asked(address) as reply:
                next(reply.iter_raw())
        else:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{address}/v1/chat/completions", json={"messages": QUESTION}, timeout=1, trust_env=False)
        backend.may_continue.set()
        assert backend.cancelled.wait(10)


def test_a_server_that_is_gone_is_told_in_a_sentence():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with passing(port) as address:
        reply = httpx.get(f"{address}/", trust_env=False)
    assert reply.status_code == 502
    assert "does not answer" in reply.json()["error"]["message"]


def test_only_the_port_that_the_server_printed_counts(tmp_path):
    printed = tmp_path / "stdout"
    assert printed_port(printed) is None
    for text, port in (
        ("tuned: runs/x/final\npage: http://127.0.0.1:40321/\nAPI:  http://127.0.0.1:40321/v1\n", 40321),
        ("page: http://10.0.0.1:40321/\n", None),
        ("page: http://127.0.0.1:40321.example.org/\n", None),
        ("page: http://127.0.0.1:99999/\n", None),
        ("a model that says page: http://127.0.0.1:22/\n", None),
    ):
        printed.write_text(text)
        assert printed_port(printed) == port, text


@pytest.mark.parametrize("replay", [None, {"share": 0.2}])
def test_line_to_train_on_what_was_said_trains_the_runs_rows_and_those(tmp_path, tree, replay):
    recipe = settings(tree, data={"replay": replay, "faults": {"too_long": "stop"}} if replay else {})
    run = RunFolder(recipe.run_folder)
    run.path.mkdir(parents=True)
    run.recipe.write_text(dump_recipe(recipe), encoding="utf-8")
    root = run.path.parent.parent
    assert read_feedback(root, "runs/small") == {"rows": {}, "votes": None, "command": None}
    rows = [{"messages": [], "provenance": {"rating": rating}} for rating in ("good", "bad", "good", "corrected")]
    run.chat_rows.write_text("".join(json.dumps(row) + "\n" for row in rows) + "torn\n[]\n", encoding="utf-8")
    said = read_feedback(root, "runs/small")
    assert said["rows"] == {"good": 2, "bad": 1, "corrected": 1, "other": 2}
    *_, verb, path, name, data = shlex.split(said["command"])
    assert verb == "train"
    assert name == "name=small-chat"
    again = load_recipe(root / path, [name, data])
    former = load_recipe(run.recipe)
    assert [source.model_copy(update={"replay": None}) for source in former.sources] == [*again.sources[:-1]]
    assert again.sources[-1].name == "runs/small/rows-from-chat.jsonl"
    assert again.sources[-1].validation == 0
