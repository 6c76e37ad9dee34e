"""Environment of a run: versions, machine and command, as plain facts."""

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from thinktune.errors import redact

LIBRARIES = ("thinktune", "torch", "transformers", "tokenizers", "safetensors", "numpy")


def describe_environment(command: Sequence[str]) -> dict[str, Any]:
    """Describe versions, machine and command; no host name, no user name, no folder except those in the command."""
    return {name: _version(name) for name in LIBRARIES} | {
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "processor_count": os.process_cpu_count() if sys.version_info >= (3, 13) else os.cpu_count(),
        "command": redact(shlex.join(map(redact, [Path(command[0]).name, *command[1:]]))),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


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
