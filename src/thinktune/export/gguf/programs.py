"""Programs of llama.cpp that a user has built: they make what is not written here, and are found, never fetched."""

import os
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from thinktune.errors import UserError, shorten_error
from thinktune.export.gguf.tensors import GgufKind, Tick
from thinktune.files import fsync_folder

FOLDER_VARIABLE = "LLAMA_CPP"  # names llama.cpp's folder, built or as its release is unpacked
QUANTIZE, CONVERT = "llama-quantize", "convert_hf_to_gguf.py"
_PLACES = ("", "bin", "build/bin", "build/bin/Release")
_KIND = re.compile(r"^\s*\d+\s+or\s+([A-Z0-9_]+)\s*:", re.MULTILINE)  # in the program's own help
_TENSOR = re.compile(rb"^\[\s*(\d+)/\s*(\d+)\]")  # of which it prints one line each
_LAST_LINES = 5


def find_program(name: str) -> Path | None:
    """Return a program of llama.cpp, in the folder that LLAMA_CPP names or on the PATH; None where it is missing."""
    if folder := os.environ.get(FOLDER_VARIABLE, "").strip():
        for place in _PLACES:
            path = Path(folder).expanduser() / place / name
            if path.is_file():
                return path
    found = shutil.which(name)
    return Path(found) if found else None


def quantized_kinds() -> tuple[str, ...]:
    """Return the kinds that the installed llama-quantize makes, in lower case, by its own help; none without it."""
    program = find_program(QUANTIZE)
    if program is None:
        return ()
    try:
        told = subprocess.run([program, "--help"], capture_output=True, text=True, errors="replace", check=False)
    except OSError:
        return ()
    return tuple(dict.fromkeys(kind.lower() for kind in _KIND.findall(told.stdout + told.stderr)))


def unknown_kind(kind: str, written_here: Sequence[str] = ()) -> str:
    """Return the sentence for a kind of GGUF that cannot be made here."""
    program = find_program(QUANTIZE)
    if program is None:
        instead = f"; or choose {', '.join(written_here)}" if written_here else ""
        return (
            f"gguf: {kind} needs llama.cpp's {QUANTIZE}, which was not found; put it on the PATH, or name "
            f"llama.cpp's folder in {FOLDER_VARIABLE}{instead}"
        )
    if kinds := quantized_kinds():
        return (
            f"gguf: {program} does not know the kind {kind!r}; choose one of "
            f"{', '.join(dict.fromkeys([*written_here, *kinds]))}"
        )
    return f"gguf: {program} lists no kinds, so it does not work; build llama.cpp again, and try {program} --help"


def quantize_gguf(source: Path, file: Path, kind: str, tick: Tick) -> None:
    """Quantize a GGUF (f32, f16 or bf16) to another kind by llama-quantize, which prints each tensor that is done.

    `tick` is told of the bytes of `source` that are done. Raises UserError where the program is missing, does not know
    the kind, or fails; what it has written then is no GGUF.
    """
    program = find_program(QUANTIZE)
    if program is None or kind.lower() not in quantized_kinds():
        raise UserError(unknown_kind(kind))
    size = source.stat().st_size
    done = 0

    def count(line: bytes) -> None:
        nonlocal done
        if found := _TENSOR.match(line):
            reached = size * int(found[1]) // max(1, int(found[2]))
            tick(reached - done)
            done = reached

    _run([str(program), str(source), str(file), kind.upper()], QUANTIZE, count)
    _flush(file)
    tick(size - done)


def convert_folder(folder: Path, file: Path, kind: GgufKind, tick: Tick) -> None:
    """Write a GGUF of any class that llama.cpp knows by its own converter; `tick` is told at the end.

    Raises UserError where the converter is missing or refuses the folder, in its own words.
    """
    program = find_program(CONVERT)
    if program is None:
        raise UserError(
            f"gguf: {CONVERT} was not found; put it on the PATH, or name llama.cpp's folder in {FOLDER_VARIABLE}"
        )
    _run(
        [sys.executable, str(program), str(folder), "--outfile", str(file), "--outtype", kind], CONVERT, lambda _: None
    )
    _flush(file)
    tick(file.stat().st_size)


def _run(command: Sequence[str], name: str, hand_on: Callable[[bytes], None]) -> None:
    """Run a program to its end, handing on its lines; raises UserError with its last ones where it fails."""
    last: deque[str] = deque(maxlen=_LAST_LINES)
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running:
            assert running.stdout
            try:
                for line in running.stdout:
                    hand_on(line)
                    if text := line.decode(errors="replace").strip():
                        last.append(text)
            except BaseException:  # Ctrl-C too: no process is left behind
                running.kill()
                raise
    except OSError as error:
        raise UserError(f"gguf: {name} does not start ({shorten_error(error)}); build llama.cpp again") from error
    if running.returncode:
        raise UserError(f"gguf: {name} failed with {running.returncode}: {' '.join(last)}")


def _flush(file: Path) -> None:
    with file.open("rb+") as written:
        os.fsync(written.fileno())
    fsync_folder(file.parent)
