"""Environment of a run: versions, machine and command, as plain facts; and commands to type next."""

import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from thinktune.errors import redact

COMMAND = "thinktune"


LIBRARIES = ("thinktune", "torch", "transformers", "tokenizers", "safetensors", "numpy")


def describe_environment(command: Sequence[str]) -> dict[str, Any]:
    """Describe versions, machine and command; no host name, no user name, no folder except those in the command."""
    return {name: _version(name) for name in LIBRARIES} | {
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "processor_count": os.process_cpu_count() if sys.version_info >= (3, 13) else os.cpu_count(),
        "command": redact(shlex.join(map(redact, [*_program(command[0]), *command[1:]]))),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def shell_command(*arguments: str | Path) -> str:
    """Return a command line of ours that runs as it stands, quoted for the shell.

    It begins with the bare name only if the shell finds this installation under it. Else it begins with what was
    typed, as in `.venv/bin/thinktune`, or with this Python and `-m`.
    """
    words = [*_typed_program(), *map(str, arguments)]
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def _typed_program() -> list[str]:
    found, typed = shutil.which(COMMAND), Path(sys.argv[0])
    scripts = Path(sys.executable).parent  # not resolved: an environment's Python is a link to another folder
    if found and (_is_same(Path(found), typed) or _is_same(Path(found).parent, scripts)):
        return [COMMAND]
    if typed.stem == COMMAND and typed.is_file():
        return [str(typed)]
    return [sys.executable, "-m", COMMAND]


def _is_same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _program(path: str) -> list[str]:
    """Return what starts a program, without its folder; started by `-m`, ours is named after its file."""
    name = Path(path).name
    return ["python", "-m", "thinktune"] if name == "__main__.py" else [name]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # this package itself, where it runs from its source tree
        return "not installed"


def peak_host_memory_gib() -> float:
    """Peak resident memory of this process in GiB; 0 where the system does not report it (Windows)."""
    try:
        import resource
    except ImportError:
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
