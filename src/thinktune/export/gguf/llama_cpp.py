"""llama.cpp in this process, over llama-cpp-python's C bindings: a GGUF asked by its own tokenizer, template and ends.

The key-value cache is f32 and attention is not fused, so that what is measured is the file and not the cache.
"""

import ctypes
import importlib
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinktune.errors import UserError, shorten_error
from thinktune.tokenization import Turn

EXTRA = (
    "gguf: llama-cpp-python is not installed, so a GGUF file cannot be loaded and tested; run pip install "
    "llama-cpp-python (it is built from source, which takes about half an hour)"
)
BATCH_TOKENS = 512
CONTEXT_STEP = 1024  # by which the context grows
_F32, _NOT_FUSED, _ERROR = 0, 0, 4  # ggml_type, llama_flash_attn_type, ggml_log_level


class LlamaCpp:
    """A GGUF in llama.cpp, on the CPU; `close` gives its memory back.

    Raises UserError where llama-cpp-python is not installed, and where llama.cpp does not load the file.
    """

    def __init__(self, file: Path, *, threads: int | None = None) -> None:
        self._library = _import_library()
        self._file, self._threads = file, threads or _threads()
        self._context: Any = None
        self._context_tokens = 0
        library = self._library
        library.llama_backend_init()
        with _logged(library) as lines:
            options = library.llama_model_default_params()
            options.n_gpu_layers = 0
            self._model = library.llama_model_load_from_file(os.fsencode(file), options)
        if not self._model:
            raise UserError(f"gguf: {file} cannot be loaded by llama.cpp ({shorten_error(ValueError(_last(lines)))})")
        self._vocabulary = library.llama_model_get_vocab(self._model)
        self._size = int(library.llama_vocab_n_tokens(self._vocabulary))
        self._formatter: Any = None

    @property
    def version(self) -> str:
        """The version of llama-cpp-python, which has llama.cpp in it."""
        return str(self._library.__version__)

    def render(self, turns: Sequence[Turn], *, thinking: bool) -> str:
        """Return the prompt for the next reply, as the file's own chat template writes it."""
        if self._formatter is None:
            self._formatter = self._make_formatter()
        messages = [
            {"role": turn.role, "content": turn.content}
            | ({"reasoning_content": turn.reasoning} if turn.has_reasoning else {})
            for turn in turns
        ]
        return str(self._formatter(messages=messages, enable_thinking=thinking).prompt)

    def _make_formatter(self) -> Any:
        library = self._library
        template = library.llama_model_chat_template(self._model, None)
        if not template:
            raise UserError(f"gguf: {self._file} has no chat template; export it again")
        formats = importlib.import_module("llama_cpp.llama_chat_format")
        bos, eos = (
            self._text(number(self._vocabulary)) for number in (library.llama_vocab_bos, library.llama_vocab_eos)
        )
        return formats.Jinja2ChatFormatter(template.decode(), eos_token=eos, bos_token=bos)

    def _text(self, token: int) -> str:
        return self._library.llama_vocab_get_text(self._vocabulary, token).decode() if token >= 0 else ""

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a text by llama.cpp's own tokenizer; control tokens in it take effect, none is added."""
        data = text.encode()
        found = (ctypes.c_int32 * (len(data) + 8))()
        count = self._library.llama_tokenize(self._vocabulary, data, len(data), found, len(found), False, True)
        assert count >= 0, "a text has no more tokens than bytes"
        return list(found[:count])

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits (tokens, vocabulary) after each token."""
        self._start(len(ids))
        return np.concatenate([*self._decode(ids, first=0, every=True)])

    def reply(self, ids: Sequence[int], max_new_tokens: int) -> list[int]:
        """Return the greedy reply to a prompt, with the end token where it has one; the file's own tokens end it."""
        self._start(len(ids) + max_new_tokens)
        made: list[int] = []
        asked: Sequence[int] = ids
        while len(made) < max_new_tokens:
            [last] = self._decode(asked, first=len(ids) + len(made) - len(asked), every=False)
            made.append(int(last[-1].argmax()))
            if self._library.llama_vocab_is_eog(self._vocabulary, made[-1]):
                break
            asked = made[-1:]
        return made

    def is_end(self, token: int) -> bool:
        """Return True if llama.cpp ends a reply at a token."""
        return bool(self._library.llama_vocab_is_eog(self._vocabulary, token))

    def close(self) -> None:
        """Give the memory back; the file cannot be asked any more."""
        if self._context:
            self._library.llama_free(self._context)
        if self._model:
            self._library.llama_model_free(self._model)
        self._context = self._model = None

    def _start(self, tokens: int) -> None:
        """Begin a text of so many tokens: an empty cache, large enough."""
        library = self._library
        if tokens > self._context_tokens:
            if self._context:
                library.llama_free(self._context)
            options = library.llama_context_default_params()
            self._context_tokens = -(-tokens // CONTEXT_STEP) * CONTEXT_STEP
            options.n_ctx = self._context_tokens
            options.n_batch = options.n_ubatch = BATCH_TOKENS
            options.n_threads = options.n_threads_batch = self._threads
            options.type_k = options.type_v = _F32
            options.flash_attn_type = _NOT_FUSED
            with _logged(library) as lines:
                self._context = library.llama_init_from_model(self._model, options)
            if not self._context:
                self._context_tokens = 0
                raise UserError(
                    f"gguf: llama.cpp has no memory for {tokens:,} tokens of {self._file} ({_last(lines)}); free "
                    "some memory"
                )
        library.llama_memory_clear(library.llama_get_memory(self._context), True)

    def _decode(self, ids: Sequence[int], *, first: int, every: bool) -> Generator[NDArray[np.float32]]:
        """Yield logits (tokens, vocabulary) batch by batch: of every token, or of the last one alone."""
        library = self._library
        for start in range(0, len(ids), BATCH_TOKENS):
            chunk = ids[start : start + BATCH_TOKENS]
            wanted = [every or start + at + 1 == len(ids) for at in range(len(chunk))]
            batch = library.llama_batch_init(len(chunk), 0, 1)
            batch.n_tokens = len(chunk)
            for at, token in enumerate(chunk):
                batch.token[at], batch.pos[at] = token, first + start + at
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, 0
                batch.logits[at] = wanted[at]
            with _logged(library) as lines:
                failed = library.llama_decode(self._context, batch)
            library.llama_batch_free(batch)
            if failed:
                raise UserError(f"gguf: llama.cpp could not compute {self._file} ({_last(lines)})")
            rows = [self._row(at) for at, asked in enumerate(wanted) if asked]
            if rows:
                yield np.stack(rows)

    def _row(self, at: int) -> NDArray[np.float32]:
        pointer = self._library.llama_get_logits_ith(self._context, at)
        return np.ctypeslib.as_array(pointer, shape=(self._size,)).copy()


def _threads() -> int:
    """Return how many threads compute: OMP_NUM_THREADS where it says so, else as many as there are cores for us."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdecimal() and int(told):
        return int(told)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_installed() -> bool:
    """Return True if llama-cpp-python can be imported."""
    try:
        _import_library()
    except UserError:
        return False
    return True


def _import_library() -> Any:
    try:
        return importlib.import_module("llama_cpp")
    except (ImportError, OSError, RuntimeError) as error:  # OSError, RuntimeError: its C library does not load
        missing = isinstance(error, ModuleNotFoundError) and error.name == "llama_cpp"
        raise UserError(
            EXTRA if missing else f"gguf: llama-cpp-python cannot be imported ({shorten_error(error)})"
        ) from error


@contextmanager
def _logged(library: Any) -> Generator[list[str]]:
    """Yield the errors that llama.cpp logs in the block, in place of its many lines on the terminal."""
    lines: list[str] = []

    def note(level: int, text: bytes, _data: Any) -> None:
        if level == _ERROR:
            lines.append(text.decode(errors="replace").strip())

    callback = library.llama_log_callback(note)
    library.llama_log_set(callback, ctypes.c_void_p(0))
    try:
        yield lines
    finally:
        library.llama_log_set(_silent(library), ctypes.c_void_p(0))


_SILENT: list[Any] = []  # C holds it as long as the library lives


def _silent(library: Any) -> Any:
    if not _SILENT:
        _SILENT.append(library.llama_log_callback(_ignore))
    return _SILENT[0]


def _ignore(_level: int, _text: bytes, _data: Any) -> None:
    """Leave a line of llama.cpp's unsaid."""


def _last(lines: Sequence[str]) -> str:
    return lines[-1] if lines else "it does not say why"
