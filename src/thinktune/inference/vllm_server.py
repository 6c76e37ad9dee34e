"""vLLM as a backend: whether to use it, its command line, and its process from start to end."""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from thinktune.config.schema import EngineChoice
from thinktune.errors import UserError
from thinktune.inference.openai_client import Endpoint
from thinktune.inference.replies import DEFAULT_TAGS
from thinktune.inference.requests import Request
from thinktune.inference.streaming import Stream
from thinktune.tokenization.tags import Tags

START_TIMEOUT_SECONDS = 900  # vLLM compiles its graphs first
LOG_TAIL_LINES = 5


def choose_engine(wanted: EngineChoice, *, installed: bool, gpu: bool) -> tuple[Literal["here", "vllm"], str]:
    """Return the engine to use and why, empty for the usual one; raises UserError where vLLM is required and not there.

    That vLLM is not there is no defect, so it is not a reason.
    """
    missing = "is not installed" if not installed else "needs a GPU, and there is none" if not gpu else None
    if wanted == "here":
        return "here", "as asked"
    if missing is None:
        return "vllm", "it is installed and there is a GPU" if wanted == "auto" else "as asked"
    if wanted == "vllm":
        raise UserError(f"--engine vllm: vLLM {missing}; install it in the same environment, or leave out --engine")
    return "here", ""


def is_installed() -> bool:
    """Return True if the command `vllm` is on the PATH."""
    return shutil.which("vllm") is not None


def command_line(folder: Path, name: str, port: int, gpu_memory_utilization: float) -> list[str]:
    """Return the command line that serves a model folder on loopback; the key is passed in the environment."""
    options = {
        "--host": "127.0.0.1",
        "--port": str(port),
        "--served-model-name": name,
        "--gpu-memory-utilization": f"{gpu_memory_utilization:g}",
    }
    return ["vllm", "serve", str(folder), *(word for pair in options.items() for word in pair)]


@dataclass(slots=True)
class VllmServer:
    """A running vLLM process, with the client of its API."""

    process: subprocess.Popen[bytes]
    endpoint: Endpoint
    log: IO[bytes] = field(repr=False)

    def stream(self, request: Request) -> Stream:
        """Stream the pieces of a reply, and last its Completion."""
        return self.endpoint.stream(request)

    def close(self) -> None:
        """Terminate the process; it is killed if it does not exit within 20 seconds."""
        self.endpoint.close()
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def start_server(folder: Path, name: str, gpu_memory_utilization: float, tags: Tags = DEFAULT_TAGS) -> VllmServer:
    """Start vLLM for a model folder, whose think tags are `tags`, and wait until it answers.

    Raises UserError with the end of its log where it exits or does not answer in time.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    key, address = secrets.token_urlsafe(24), f"http://127.0.0.1:{port}"
    log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
    process = subprocess.Popen(
        command_line(folder, name, port, gpu_memory_utilization),
        env=os.environ | {"VLLM_API_KEY": key},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches this process alone, which terminates vLLM
    )
    running = VllmServer(process, Endpoint(f"{address}/v1", name, key, tags=tags), log)
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not _is_healthy(address):
        if process.poll() is not None or time.monotonic() > deadline:
            tail = _log_tail(log)
            running.close()
            raise UserError(f"vLLM did not start for {folder}: {tail}; fix that, or use --engine here")
        time.sleep(0.5)
    return running


def _is_healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def _log_tail(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode("utf-8", "replace").splitlines()
    return " | ".join(line.strip() for line in lines[-LOG_TAIL_LINES:]) or "its log is empty"
