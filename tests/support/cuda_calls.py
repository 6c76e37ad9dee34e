"""Calls of torch.cuda by thinktune's own files while a block runs."""

import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import thinktune

OURS = str(Path(thinktune.__file__).parent)


@contextmanager
def cuda_calls() -> Generator[list[str]]:
    """Yield a list of such calls, by file and line; calls that libraries make on their own are not listed."""
    found: list[str] = []

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            module, caller = frame.f_globals.get("__name__", ""), frame.f_back
            name = f"{module}.{frame.f_code.co_name}"
        elif event == "c_call":
            caller, name = frame, f"{getattr(arg, '__module__', '')}.{getattr(arg, '__name__', '')}"
        else:
            return
        if ("torch.cuda" in name or "_cuda" in name) and caller and caller.f_code.co_filename.startswith(OURS):
            found.append(f"{Path(caller.f_code.co_filename).name}:{caller.f_lineno} calls {name}")

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield found
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
