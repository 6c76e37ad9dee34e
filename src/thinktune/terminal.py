"""All that is printed: control characters are shown and never obeyed, lines hold no secret, and no failure matters.

Rows, templates, file names and replies come from strangers. A terminal obeys what they may hold: it moves its cursor,
clears its screen, sets its title, answers with keys. So nothing of ours prints but by way of this module.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, ConsoleRenderable, Group, RenderableType, RenderHook, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from thinktune.errors import redact, redact_all
from thinktune.translation import translate
from thinktune.wrapping import wrap_text, wrap_words

# C0 but tab and line feed, DEL, C1, and what changes the writing direction of the text that follows.
CONTROL_CHARACTERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
PIPED_COLUMNS = 160  # width of tables where output is no terminal: none of ours is cut
CURSOR_UP = "\x1b[A"  # tqdm's, by which the bars of a hub's client stand below each other


def show_controls(text: str) -> str:
    r"""Replace each control character by its escape, as in `\x1b`."""
    return CONTROL_CHARACTERS.sub(lambda found: found[0].encode("unicode_escape").decode(), text.replace("\r\n", "\n"))


def print_json(value: Any) -> None:
    """Print a value as JSON, without secrets; control characters are escaped as JSON does, so the value is the same."""
    text = json.dumps(redact_all(value), ensure_ascii=False, indent=2)
    print(CONTROL_CHARACTERS.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def say(line: str) -> None:
    """Print a line in the terminal's language, without secrets; on a terminal it is broken at words."""
    print(_fitted(show_controls(redact(translate(line))), sys.stdout), flush=True)


def say_to_stderr(line: str) -> None:
    """Print a line to stderr, as `say` does: a program may read the result from stdout."""
    print(_fitted(show_controls(redact(translate(line))), sys.stderr), file=sys.stderr, flush=True)


def _fitted(text: str, stream: TextIO) -> str:
    return wrap_words(text, shutil.get_terminal_size().columns) if stream.isatty() else text


def translated(renderable: Any) -> Any:
    """Translate a text of ours, the headings and cells of a table of ours, or a group of them, and return it."""
    match renderable:
        case str():
            return translate(renderable)
        case Text():
            renderable.plain = translate(renderable.plain)
        case Group():
            for part in renderable.renderables:
                translated(part)
        case Table():
            for column in renderable.columns:
                column.header = translated(column.header)
                column._cells = [translated(cell) for cell in column._cells]  # pyright: ignore[reportPrivateUsage]
        case _:
            pass
    return renderable


class TolerantStream:
    """A text stream that keeps its first failure in `output_failure` and raises none.

    Lines are lost where the disk of a log is full, the reader of a pipe is gone, or a terminal has hung up; no work is
    worth less than they are. What it does not define is the stream's own.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.output_failure: Exception | None = None

    def write(self, text: str) -> int:
        """Write a text, or lose it."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:  # ValueError: a closed stream, or a text that its encoding lacks
            self.output_failure = self.output_failure or error
            return len(text)

    def flush(self) -> None:
        """Flush what was written, or lose it."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self.output_failure = self.output_failure or error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class GuardedStream:
    """A text stream that shows control characters; what it does not define is the stream's own.

    Carriage returns pass, and on a terminal a write that is nothing but `CURSOR_UP`: the bars of libraries need both.
    """

    def __init__(self, stream: Any) -> None:
        self.unguarded = stream

    def write(self, text: str) -> int:
        """Write a text with its control characters shown; return its length."""
        if not (text.startswith(CURSOR_UP) and not text.replace(CURSOR_UP, "") and self.unguarded.isatty()):
            self.unguarded.write("\r".join(map(show_controls, text.split("\r"))))
        else:
            self.unguarded.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unguarded, name)


@contextmanager
def guarded_output() -> Generator[None]:
    """Guard stdout and stderr in a block: what cannot be written is lost, and control characters are shown.

    So tracebacks, warnings and libraries show them too. Both become UTF-8; what has no form in it (half a surrogate
    pair) is printed as a question mark.
    """
    before = sys.stdout, sys.stderr
    for stream in before:
        if hasattr(stream, "reconfigure"):  # a notebook's has no such method
            stream.reconfigure(encoding="utf-8", errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
    # None where there is none.
    guarded: list[Any] = [stream and GuardedStream(TolerantStream(stream)) for stream in before]
    sys.stdout, sys.stderr = guarded
    try:
        yield
    finally:
        for stream in filter(None, guarded):
            stream.flush()
        sys.stdout, sys.stderr = before


def output_failure(stream: TextIO) -> Exception | None:
    """Return what first kept a guarded stream from being written, or None."""
    return getattr(stream, "output_failure", None)


def describe_failure(failure: Exception) -> str:
    """Describe why a stream could not be written, in a few words."""
    return getattr(failure, "strerror", None) or str(failure)


def open_closed_streams() -> None:
    """Open what the shell closed (`>&-`), or the next file of a run would get the number of standard output."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 (for the whole process)


def drop_unwritten_output() -> None:
    """Drop what standard output and error cannot take, or the interpreter would fail to flush it at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError), Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


class _Shown:
    """A renderable whose texts have their control characters shown; the console's own controls pass.

    A terminal gets whole lines (`soft_wrap`) broken at words; elsewhere they stay as long as they are.
    """

    def __init__(self, renderable: RenderableType) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = self._renderable
        if isinstance(shown, Text) and console.is_terminal and options.no_wrap and shown.end:  # no piece of a stream
            shown = wrap_text(shown, options.max_width)
        for segment in console.render(shown, options):
            yield segment if segment.control else Segment(show_controls(segment.text), segment.style)


class _ShowControls(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Shown(renderable) for renderable in renderables]


def guard_console(console: Console) -> Console:
    """Let a console show control characters in all that it prints from now on, and return it."""
    console.push_render_hook(_ShowControls())
    return console


def make_console(*, stderr: bool = False) -> Console:
    """Make a guarded console; the escape codes of its own styles reach the stream as they are."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPED_COLUMNS
    return guard_console(Console(file=getattr(stream, "unguarded", None), stderr=stderr, highlight=False, width=width))
