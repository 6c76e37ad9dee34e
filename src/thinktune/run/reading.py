"""Read the files of a run; one that was damaged since is named, with what to do about it."""

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, PositiveInt, TypeAdapter, ValidationError

from thinktune.config import MemoryTierName, Strategy
from thinktune.errors import UserError, shorten_error
from thinktune.files import name_path
from thinktune.run.folder import RunFolder

Record = dict[str, Any]

PUT_BACK = "put the original file back, or start a new run with name=..."
BLANK_OUT = "put the original file back, or overwrite the line with as many spaces to continue without it"


class AnyObject(BaseModel):
    """A JSON object with any keys."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class EnvironmentRecord(AnyObject):
    """The part of environment.json that decides how a run resumes."""

    model: str = ""
    model_dtype: str | None = None
    data_fingerprint: str
    tokenizer_fingerprint: str | None = None
    weights_fingerprint: str | None = None
    memory: MemoryTierName | None = None
    update_in_backward: bool | None = None
    activation_budget: float | None = None
    offload_activations: bool = False
    batch_tokens: PositiveInt | None = None
    strategy: Strategy | None = None
    chunk_rows: PositiveInt | None = None
    world_size: PositiveInt | None = None
    steps: int | None = None


class EvaluatedRecord(AnyObject):
    """The content of evaluated.json."""

    step: int
    journals: dict[str, int]


class MetricsRecord(AnyObject):
    """A line of metrics.jsonl."""

    kind: str
    step: int
    loss: float | None = None
    text: str | None = None


class SampleRecord(AnyObject):
    """A line of samples.jsonl."""

    step: int


class RowLossesRecord(AnyObject):
    """A line of losses.jsonl: the mean loss and the labels of each held-out row, by `file:line`."""

    step: int
    rows: dict[str, tuple[float, int]]


def read_object(path: Path, kind: type[BaseModel], remedy: str = PUT_BACK) -> Record:
    """Read a JSON object; raises UserError where it is damaged, {} where it is not there."""
    if not path.is_file():
        return {}
    with name_path(path):
        content = path.read_bytes()
    return _parse(content, TypeAdapter(kind), str(path), remedy)


def read_journal(path: Path, kind: type[BaseModel]) -> list[Record]:
    """Read a journal's records; a torn last line, as a crash leaves it, is left out.

    Raises UserError where another line is damaged.
    """
    return _parse_lines(_lines(path)[:-1], path, kind, BLANK_OUT)


def read_lines(path: Path, kind: type[BaseModel], remedy: str) -> list[Record]:
    """Read JSON objects, one a line, of a file that was written whole; raises UserError where a line is damaged."""
    return _parse_lines(_lines(path), path, kind, remedy)


def read_environment(run: Path) -> Record:
    """Read environment.json; {} where the run has not begun. Raises UserError where it is damaged."""
    return read_object(RunFolder(run).environment, EnvironmentRecord)


def damaged(place: str | Path, error: Exception, remedy: str = PUT_BACK) -> UserError:
    """Return the error for a file of a run that cannot be used."""
    return UserError(f"{place}: is damaged ({_describe(error)}); {remedy}")


@contextmanager
def refuse_damage(place: str | Path, remedy: str = PUT_BACK) -> Generator[None]:
    """Raise UserError where a block finds that the content of one file is not what it must be."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:  # whatever a value of another type raises where it is used
        raise damaged(place, error, remedy) from error


def _lines(path: Path) -> list[bytes]:
    if not path.exists():
        return []
    with name_path(path):
        return path.read_bytes().split(b"\n")


def _parse_lines(lines: Sequence[bytes], path: Path, kind: type[BaseModel], remedy: str) -> list[Record]:
    adapter = TypeAdapter(kind)
    return [_parse(line, adapter, f"{path}:{number}", remedy) for number, line in enumerate(lines, 1) if line.strip()]


def _parse(content: bytes, adapter: TypeAdapter[Any], place: str, remedy: str) -> Record:
    try:
        value: Any = json.loads(content)
        adapter.validate_python(value)
    except (ValueError, RecursionError) as error:  # ValidationError, JSONDecodeError, UnicodeDecodeError
        raise damaged(place, error, remedy) from None
    return value


def _describe(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        keys: Sequence[Any] = first["loc"]
        return f"{'.'.join(map(str, keys)) or 'it'}: {first['msg'][0].lower()}{first['msg'][1:]}"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    return shorten_error(error, 120) if isinstance(error, ValueError) else f"its content has another form, {error}"
