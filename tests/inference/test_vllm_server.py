"""vLLM as the backend: when it is chosen, how it is started and ended; a stand-in for it serves our own API."""

import os
import sys
import time
from pathlib import Path

import pytest

from thinktune.errors import UserError
from thinktune.inference import vllm_server
from thinktune.inference.requests import Completion, Request, SamplingParams
from thinktune.serve.models import find_models
from thinktune.tokenization import Turn

STAND_IN = f"""\
#!{sys.executable}
import os, sys
sys.path[:0] = [{str(Path(__file__).parents[1])!r}]
from support.api_server import ScriptedBackend, scripted_model
from thinktune.serve.server import uvicorn_config, make_app
from thinktune.serve.security import Access, Limits
import uvicorn
words = sys.argv[1:]
if words[1].endswith("broken"):
    sys.exit("no such architecture")
open({{record!r}}, "w").write(f"{{{{os.getpid()}}}}\\n" + "\\n".join(words))
app = make_app([scripted_model(ScriptedBackend("<think>\\nso\\n</think>\\n\\nyes"), words[words.index("--served-model-name") + 1])],
               Limits(), Access(os.environ["VLLM_API_KEY"], None))
settings = uvicorn_config(app, Limits())
settings.host, settings.port = words[words.index("--host") + 1], int(words[words.index("--port") + 1])
uvicorn.Server(settings).run()
"""


@pytest.mark.parametrize(
    ("wanted", "installed", "gpu", "engine"),
    [
        ("auto", True, True, "vllm"),
        ("auto", True, False, "here"),
        ("auto", False, True, "here"),
        ("here", True, True, "here"),
        ("vllm", True, True, "vllm"),
    ],
)
def test_vllm_is_used_where_it_is_installed_and_there_is_a_gpu(wanted, installed, gpu, engine):
    assert vllm_server.choose_engine(wanted, installed=installed, gpu=gpu)[0] == engine


@pytest.mark.parametrize(("installed", "gpu", "why"), [(False, True, "not installed"), (True, False, "needs a GPU")])
def test_vllm_that_is_required_but_missing_is_refused(installed, gpu, why):
    with pytest.raises(UserError, match=why):
        vllm_server.choose_engine("vllm", installed=installed, gpu=gpu)


def test_exactly_one_model_source_must_be_named():
    for run, endpoint in ((None, None), (Path("runs/x"), "http://127.0.0.1:1/v1")):
        with pytest.raises(UserError, match="give either"):
            find_models(run, endpoint, None, "auto", print)


@pytest.mark.slow
def test_it_is_started_on_loopback_with_a_key_used_and_ended(tmp_path, monkeypatch):
    record = tmp_path / "record"
    command = tmp_path / "vllm"
    command.write_text(STAND_IN.format(record=str(record)), encoding="utf-8")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert vllm_server.is_installed()
    running = vllm_server.start_server(tmp_path / "model", "tuned", 0.45)
    try:
        *pieces, last = running.stream(Request((Turn("user", "Why?"),), SamplingParams(8)))
        assert "".join(piece.text for piece in pieces if piece.kind == "answer") == "yes"
        assert isinstance(last, Completion)
        assert (last.reasoning, last.answer) == ("so", "yes")
        pid, *words = record.read_text().split("\n")
        assert (
            words
            == vllm_server.command_line(tmp_path / "model", "tuned", int(words[words.index("--port") + 1]), 0.45)[1:]
        )
        assert words[words.index("--host") + 1] == "127.0.0.1"
        assert "key" not in " ".join(words)
    finally:
        running.close()
    assert running.process.poll() is not None
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(UserError, match="no such architecture"):
        vllm_server.start_server(tmp_path / "broken", "tuned", 0.45)
