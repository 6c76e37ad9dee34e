"""Two machines that are none: network namespaces joined by a wire, each with a name and addresses of its own."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

NAMES = ("alpha", "beta")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
PORT = 29_500


@dataclass
class Host:
    """A namespace that stands for a machine."""

    name: str
    address: str
    space: str
    wire: str

    def run(self, *command: str) -> None:
        subprocess.run(["ip", "netns", "exec", self.space, *command], check=True, timeout=20)

    def link(self, state: str) -> None:
        """Plug the wire in (`load_state_dict`) or pull it out (`state_dict`)."""
        self.run("ip", "link", "set", self.wire, state)

    def kill_all(self) -> None:
        told = subprocess.run(["ip", "netns", "pids", self.space], capture_output=True, text=True, check=False)
        for pid in told.stdout.split():
            os.kill(int(pid), signal.SIGKILL)


@dataclass
class Command:
    """A command that runs on a host: what it has said, and when."""

    process: subprocess.Popen
    lines: list[tuple[float, str]] = field(default_factory=list)
    ended: float | None = None

    def __post_init__(self) -> None:
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line.rstrip()))
        self.process.wait()
        self.ended = time.monotonic()

    def wait(self, seconds: float) -> int | None:
        """Return the exit code; None if it has not ended within so many seconds."""
        self.reader.join(seconds)
        return None if self.reader.is_alive() else self.process.returncode

    def said(self, text: str, after: float = 0.0) -> list[tuple[float, str]]:
        """Return the lines with some text, and when they came."""
        return [(at, line) for at, line in list(self.lines) if text in line and at >= after]

    @property
    def text(self) -> str:
        return "\n".join(line for _, line in self.lines)

    def workers(self) -> list[int]:
        """Return the processes that it has started."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def two_hosts() -> Generator[tuple[Host, Host]]:
    """Two hosts that see each other; they are gone afterwards, with all that runs on them."""
    marks = [f"tt{os.getpid()}{letter}" for letter in "ab"]
    hosts = [Host(name, address, mark, mark) for name, address, mark in zip(NAMES, ADDRESSES, marks, strict=True)]
    try:
        for host in hosts:
            subprocess.run(["ip", "netns", "add", host.space], check=True, timeout=20)
            _write_names(host)
        wire = ["ip", "link", "add", marks[0], "netns", marks[0], "type", "veth", "peer", "name", marks[1]]
        subprocess.run([*wire, "netns", marks[1]], check=True, timeout=20)
        for host in hosts:
            host.run("ip", "address", "add", f"{host.address}/24", "dev", host.wire)
            host.run("ip", "link", "set", "lo", "up")
            host.link("up")
        yield hosts[0], hosts[1]
    finally:
        for host in hosts:
            host.kill_all()
            subprocess.run(["ip", "netns", "delete", host.space], check=False, timeout=20)
            _forget_names(host)


def _write_names(host: Host) -> None:
    """Return a host's /etc/hosts. Its own name is a loopback address, as Debian and Ubuntu write it: the hard case."""
    folder = Path("/etc/netns") / host.space
    folder.mkdir(parents=True)
    others = [f"{address} {name}" for name, address in zip(NAMES, ADDRESSES, strict=True) if name != host.name]
    (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", f"127.0.1.1 {host.name}", *others, ""]))


def _forget_names(host: Host) -> None:
    folder = Path("/etc/netns") / host.space
    (folder / "hosts").unlink(missing_ok=True)
    if folder.exists():
        folder.rmdir()
    if not any(folder.parent.iterdir()):
        folder.parent.rmdir()


def start(host: Host, *arguments: str, restarts: int = 3, **environment: str) -> Command:
    """Torchrun on a host, with one process, that meets the one on the other host."""
    named = ["unshare", "--uts", "sh", "-c", f'hostname {host.name} && exec "$@"', "sh"]
    meeting = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "two-hosts"]
    meeting += ["--rdzv-endpoint", f"{NAMES[0]}:{PORT}", "--max-restarts", str(restarts)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *meeting, "-m", "thinktune", *arguments]
    process = subprocess.Popen(
        ["ip", "netns", "exec", host.space, *named, *torchrun],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"} | environment,
        start_new_session=True,
    )
    return Command(process)
