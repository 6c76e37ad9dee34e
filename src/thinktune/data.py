"""Rows of files to examples: every row is either an example or a counted fault with its `file:line`."""

import csv
import hashlib
import json
import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from thinktune.errors import UserError, brief
from thinktune.recipe import Columns, Data

Role = Literal["system", "user", "assistant"]
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
# Files that hubs put beside the rows; they describe the data set and hold none of it.
DESCRIPTIONS = {"dataset_infos.json", "dataset_info.json", "configuration.json", "config.json"}
TEXT_HEAVY_CHARACTERS = 20  # a column longer than this on average is prose that someone may have meant to train
EXAMPLES_PER_FAULT = 5
THINK_TAGS = ("<think>", "</think>")


@dataclass(frozen=True, slots=True)
class Turn:
    """One message; only an assistant's carries reasoning."""

    role: Role
    content: str
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation, where it stands (`file:line`), and what a right answer holds, where the rows say so."""

    turns: tuple[Turn, ...]
    source: str
    keypoint: str | None = None

    @property
    def question(self) -> str:
        """What the last user turn asks."""
        return next(turn.content for turn in reversed(self.turns) if turn.role == "user")


@dataclass(slots=True)
class Tally:
    """What was found in the rows, fault by fault."""

    counts: dict[str, int] = field(default_factory=dict[str, int])
    examples: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    def add(self, fault: str, sentence: str) -> None:
        """Count one fault; the first few sentences are kept."""
        self.counts[fault] = self.counts.get(fault, 0) + 1
        kept = self.examples.setdefault(fault, [])
        if len(kept) < EXAMPLES_PER_FAULT:
            kept.append(sentence)


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as it stands in its file: its columns, or why it could not be read."""

    source: str
    columns: dict[str, Any]
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a row: the fault's name under `data.faults`, and a sentence with `file:line: column`."""

    name: str
    sentence: str


def find_files(path: Path, pattern: str | None, field: str) -> list[Path]:
    """The files of rows that a path and `data.files` mean; raises UserError, naming `field`, where that is unclear."""
    if path.is_file():
        if pattern is not None:
            raise UserError(
                f"data.files: is {pattern!r}, but {path} is a file already; name its folder, or leave files out"
            )
        return [path]
    try:
        matching = sorted(path.rglob(pattern or "*"))
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"data.files: {pattern!r} is no pattern ({error}); write one such as train*.jsonl") from None
    found = [file for file in matching if file.is_file() and file.suffix.lower() in SUFFIXES]
    if pattern is None:
        found = [file for file in found if file.name not in DESCRIPTIONS]
    if not found:
        wanted = f"matches {pattern!r}" if pattern else "is there"
        raise UserError(f"{field}: no file of rows ({', '.join(SUFFIXES)}) {wanted} in {path}; correct it")
    if len(found) > 1 and pattern is None:
        listing = ", ".join(str(file.relative_to(path)) for file in found[:8])
        remedy = f"choose, as in data.files: {found[0].name}" if field == "data.name" else "name one of them"
        raise UserError(f"{field}: {path} holds several files of rows ({listing}); {remedy}")
    return found


def read_rows(file: Path) -> Iterator[RawRow]:
    """The rows of one file in order, faulty ones included. Raises UserError where the file as a whole is unreadable."""
    readers = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
    if file.suffix.lower() not in readers:
        raise UserError(f"{file}: its ending is none of {', '.join(SUFFIXES)}; convert the rows or rename the file")
    try:
        yield from readers[file.suffix.lower()](file)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: is not UTF-8 (byte {error.start} is {error.object[error.start]:#x}); save it as UTF-8"
        ) from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from None


def check_columns(rows: Sequence[RawRow], columns: Columns, ignore: Collection[str]) -> None:
    """Raise UserError where a mapped column is nowhere, or prose stands in a column that nobody mapped or ignored."""
    readable = [row for row in rows if row.fault is None]
    if not readable:
        return
    present = {name for row in readable for name in row.columns}
    mapped = {knob: name for knob, name in columns.model_dump().items() if name is not None}
    listing = ", ".join(sorted(present))
    place = readable[0].source.rpartition(":")[0]
    faults = [
        f"data.columns.{knob}: no row of {place} has a column {name!r}; its columns are {listing}"
        for knob, name in mapped.items()
        if name not in present
    ]
    for name in sorted(present - set(mapped.values()) - set(ignore)):
        texts = [value for row in readable if isinstance(value := row.columns.get(name), str)]
        if texts and sum(map(len, texts)) / len(texts) > TEXT_HEAVY_CHARACTERS:
            faults.append(
                f"data.ignore: column {name!r} of {place} is full of text and is not used; "
                f"map it under data.columns, or write data.ignore: [{name}]"
            )
    if faults:
        raise UserError(faults)


def to_example(row: RawRow, data: Data, control_tokens: Collection[str]) -> Example | Fault:
    """The example that a row holds, or its first fault."""
    if row.fault is not None:
        return Fault("unreadable", f"{row.source}: {row.fault}")
    columns = data.columns
    names = {"question": columns.question, "reasoning": columns.reasoning, "answer": columns.answer}
    for name in names.values():
        if name not in row.columns:
            return Fault("unreadable", f"{row.source}: {name}: the row has no such column")
    texts: dict[str, str] = {}
    for knob, name in names.items():
        value = row.columns[name]
        if knob == "reasoning" and not isinstance(value, str | None):
            return Fault("unreadable", f"{row.source}: {name}: is {_shown(value)}, not text")
        texts[knob] = value if isinstance(value, str) and value.strip() else ""
        if not texts[knob] and (knob != "reasoning" or data.faults.no_reasoning != "keep"):
            fault = "no_reasoning" if knob == "reasoning" else "blank"
            return Fault(fault, f"{row.source}: {name}: is {_shown(value)}, not text")
        if _half_character(texts[knob]):
            return Fault("unreadable", f"{row.source}: {name}: holds half a character (a lone surrogate)")
    for fault, marks in (("think_tag", THINK_TAGS), ("control_token", control_tokens)):
        for knob, text in texts.items():
            mark = next((mark for mark in marks if mark in text), None)
            if mark is not None:
                return Fault(fault, f"{row.source}: {names[knob]}: holds {mark}")
    system = (Turn("system", data.system),) if data.system else ()
    turns = (*system, Turn("user", texts["question"]), Turn("assistant", texts["answer"], texts["reasoning"]))
    keypoint = row.columns.get(columns.keypoint) if columns.keypoint else None
    return Example(turns, row.source, None if keypoint is None else str(keypoint))


def held_out(questions: Sequence[str], share: float, split: Literal["hash", "shuffle"], seed: int) -> set[int]:
    """Indices of the rows that are evaluation rows.

    `hash` decides each question by itself, so that new rows never move old ones and twins stay together; `shuffle` is
    the common recipe: all rows shuffled with Python's generator, the last share of them held out.
    """
    if split == "hash":
        return {index for index, question in enumerate(questions) if _hash_share(question, seed) < share}
    order = list(range(len(questions)))
    random.Random(seed).shuffle(order)
    return set(order[int(len(order) * (1 - share)) :]) if share else set()


def twin_key(question: str) -> str:
    """A question without case and white space: the same for twins."""
    return "".join(question.split()).casefold()


def fingerprint(texts: Iterable[str]) -> str:
    """A short hash that changes with any text or their order."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()


def _half_character(text: str) -> bool:
    """JSON can spell half of a surrogate pair, which no UTF-8 file and no tokenizer can hold."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _hash_share(question: str, seed: int) -> float:
    digest = hashlib.blake2b(f"{seed}\0{twin_key(question)}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def _read_jsonl(file: Path) -> Iterator[RawRow]:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            source = f"{file.name}:{number}"
            try:
                yield _row(source, json.loads(line))
            except (ValueError, RecursionError) as error:
                yield RawRow(source, {}, f"is no JSON ({error})")


def _read_json(file: Path) -> Iterator[RawRow]:
    text = file.read_text(encoding="utf-8-sig")
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("{"):  # many tools name JSON lines `.json`
            yield from _read_jsonl(file)
            return
        raise UserError(f"{file}: is no JSON ({error}); mend it, or save the rows as JSON lines") from None
    for number, item in enumerate(tree if isinstance(tree, list) else [tree], start=1):
        yield _row(f"{file.name}:{number}", item)


def _read_csv(file: Path) -> Iterator[RawRow]:
    csv.field_size_limit(2**31 - 1)
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        try:
            _refuse_double_names(file, reader.fieldnames or [])
            for columns in reader:
                source = f"{file.name}:{reader.line_num}"
                if None in columns or None in columns.values():
                    yield RawRow(source, {}, f"has not the {len(reader.fieldnames or [])} columns of the header")
                else:
                    yield RawRow(source, dict(columns))
        except csv.Error as error:
            raise UserError(f"{file}:{reader.line_num}: is no CSV ({error})") from None


def _refuse_double_names(file: Path, names: Sequence[str]) -> None:
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise UserError(f"{file}:1: names the column {', '.join(double)} more than once; rename all but one")


def _read_parquet(file: Path) -> Iterator[RawRow]:
    try:
        from pyarrow import ArrowException, parquet  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(f"{file}: Parquet needs one more package; install thinktune[parquet]") from None
    try:
        number = 0
        for batch in parquet.ParquetFile(file).iter_batches():
            for columns in batch.to_pylist():
                number += 1
                yield RawRow(f"{file.name}:{number}", columns)
    except ArrowException as error:
        raise UserError(f"{file}: is no Parquet file ({brief(error)})") from None


def _row(source: str, item: Any) -> RawRow:
    if isinstance(item, dict):
        return RawRow(source, {str(name): value for name, value in item.items()})
    return RawRow(source, {}, f"is {type(item).__name__}, not an object with columns")
