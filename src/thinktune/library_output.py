"""Output of other libraries, kept from the user's eyes: what a command prints is its own lines and real errors."""

import faulthandler
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TextIO

from thinktune.terminal import say_to_stderr

SHOW_VARIABLE = "THINKTUNE_LIBRARY_OUTPUT"  # set to anything: other libraries print as they like


# Read by the libraries when they are imported, here and in every process that this one starts.
QUIET_ENVIRONMENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "PYTHONWARNINGS": "ignore",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


# Read by Python and by torch when they need it, whatever a user wants printed: no escape codes of coloured tracebacks,
# which would be shown; and segments that grow, because freed memory of another size is otherwise lost to a run that a
# plan has fitted to its card.
ENVIRONMENT = {"PYTHON_COLORS": "0", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}
OLDER_ALLOCATOR_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")  # torch's own names of the same


STDOUT, STDERR = 1, 2  # descriptors


_OWN_FOLDER = Path(__file__).parent


_silenced = False  # in this process, by `silence_libraries`


def set_environment() -> None:
    """Set `ENVIRONMENT`, before torch uses a card; nothing that the user has set is changed, under any of its names."""
    for name, value in ENVIRONMENT.items():
        others = OLDER_ALLOCATOR_VARIABLES if name == "PYTORCH_ALLOC_CONF" else ()
        if not any(other in os.environ for other in others):
            os.environ.setdefault(name, value)


def silence_libraries() -> None:
    """Silence the warnings, progress bars and log records below ERROR of other libraries, for the rest of the process.

    Our own warnings become one line each on stderr. Does nothing where the user asks for what libraries print, by
    `SHOW_VARIABLE` or torch's own TORCH_LOGS. Called by the command line and by its worker processes; who imports
    thinktune keeps his own settings.
    """
    global _silenced
    if os.environ.get(SHOW_VARIABLE) or os.environ.get("TORCH_LOGS"):
        return
    _silenced = True
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.disable(logging.WARNING)  # whichever handlers a library adds, and at whatever level
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", module=r"thinktune(\.|$)")
    warnings.showwarning = _show_own_warning  # a library may change the filters
    if not faulthandler.is_enabled():
        with suppress(OSError):  # stderr is closed
            faulthandler.enable(os.dup(STDERR))  # a crash of C code is told even while stderr is captured


def _show_own_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del category, lineno, file, line
    if Path(filename).is_relative_to(_OWN_FOLDER):
        say_to_stderr(f"warning: {message}")


@contextmanager
def captured_output() -> Generator[None]:
    """Capture what libraries write while they are imported, C code included, and drop it.

    If the block raises, the text becomes a note of the error, which a traceback shows. Nothing of ours may print there
    meanwhile. Does nothing in other threads than the main one, and in processes that are not silenced.
    """
    if not _silenced or threading.current_thread() is not threading.main_thread():
        yield
        return
    with _sink() as sink:
        _flush()
        kept = _redirect(sink.fileno())
        try:
            yield
        except Exception as error:
            _flush()
            sink.seek(0)
            text = sink.read().decode("utf-8", "replace").strip()
            if text and not isinstance(error, OSError):  # whose notes are places, printed as part of a sentence
                error.add_note(text)
            raise
        finally:
            _flush()
            for number, copy in kept.items():
                os.dup2(copy, number)
                os.close(copy)


def _sink() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()
    except OSError:  # no folder for temporary files, or a full one: no reason to stop
        return Path(os.devnull).open("r+b")


def _redirect(target: int) -> dict[int, int]:
    """Redirect stdout and stderr, if they are open; return copies of their descriptors, to restore them."""
    kept: dict[int, int] = {}
    for number in (STDOUT, STDERR):
        with suppress(OSError):  # closed
            kept[number] = os.dup(number)
            os.dup2(target, number)
    return kept


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # full, closed, or none at all
            stream.flush()
