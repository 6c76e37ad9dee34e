"""A recipe's rows to tokens: found, read, judged, rendered, divided, and kept on the disk for the next start."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from thinktune import cache
from thinktune.config.row_faults import KINDS
from thinktune.config.schema import Data, Recipe
from thinktune.data import columns as layout
from thinktune.data import readers, sources
from thinktune.data import summary as account
from thinktune.data import types as rows
from thinktune.data.chat_template import control_tokens, pieces
from thinktune.data.checks import judge
from thinktune.data.columns import Layout, refuse_unused
from thinktune.data.dataset import Rows, Store, Writer, choose, open_store
from thinktune.data.duplicates import question_text
from thinktune.data.sources import RowFile
from thinktune.data.split import TRAITS, divide
from thinktune.data.tokenizer import state
from thinktune.data.types import Example, Tally, Turn
from thinktune.data.worker import Chunk, Made, begin, spread, work, work_there
from thinktune.errors import UserError
from thinktune.files import read_json, write_json
from thinktune.progress import Progress, Say

CHUNK_ROWS = 256


BYTES_FOR_ALL_CORES = 12 * 2**20  # of text; below it, starting processes takes longer than the work


PACKAGE = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Prepared:
    """The rows to train on, those to evaluate on, the account of every row read, and why a run cannot start."""

    train: Rows
    validation: Rows
    account: dict[str, Any]
    fingerprint: str
    stops: tuple[str, ...] = ()


def prepare(recipe: Recipe, tokenizer: Any, say: Say = lambda _: None) -> Prepared:
    """Everything between the recipe and the tokens.

    Raises UserError where a fault's policy is `stop`, a column of text is not accounted for, or no row is left.
    """
    prepared = survey(recipe, tokenizer, say)
    if prepared.stops:
        raise UserError(prepared.stops)
    return prepared


def survey(recipe: Recipe, tokenizer: Any, say: Say = lambda _: None) -> Prepared:
    """What `prepare` gives, with its faults in `stops`, so that they can be shown beside the account.

    Rows are tokenized once: the next start finds them by what they were made from. Raises UserError where a file as a
    whole cannot be read or understood, or the template or the system prompt cannot be used.
    """
    files = sources.find_files(recipe)
    _refuse_clock(tokenizer)
    _refuse_faulty_system(recipe.data, tokenizer)
    entry = cache.cache_folder() / _key(files, recipe.data, tokenizer)
    if not cache.is_whole(entry):
        with cache.filling(entry) as aside:
            _make(files, recipe.data, tokenizer, aside, say)
    facts = read_json(entry / "facts.json")
    store = open_store(entry)
    train, validation = (choose(store, np.load(entry / f"{side}.npy")) for side in ("train", "validation"))
    fingerprint = blake2b(train.digests + b"/" + validation.digests, digest_size=16).hexdigest()
    return Prepared(train, validation, facts["account"], fingerprint, tuple(facts["stops"]))


def _make(files: list[RowFile], settings: Data, tokenizer: Any, folder: Path, say: Say) -> None:
    """Tokenize all rows into a folder, beside which of them are trained and held out, and the account of them."""
    with Writer(folder) as writer:
        gathered = _gather(files, settings, tokenizer, writer, say)
    train, validation = _divide(gathered, open_store(folder), settings)
    for side, chosen in (("train", train), ("validation", validation)):
        np.save(folder / f"{side}.npy", chosen.chosen)
    account = _account(gathered, train, validation, settings, tokenizer)
    write_json(folder / "facts.json", {"account": account, "stops": _stops(gathered, account, settings)})


@dataclass(slots=True)
class _Gathered:
    """What is known of all rows after each was worked on by itself."""

    files: list[RowFile]
    layouts: list[Layout]
    counts: list[int]
    columns: list[dict[str, list[int]]]
    tally: Tally = field(default_factory=Tally)
    traits: bytearray = field(default_factory=bytearray)
    lengths: bytearray = field(default_factory=bytearray)
    own_system_rows: int = 0
    largest_token: int = 0

    @property
    def shared_rows(self) -> int:
        """Rows that training and evaluation share."""
        return sum(count for file, count in zip(self.files, self.counts, strict=True) if not file.for_validation)


def _gather(files: list[RowFile], settings: Data, tokenizer: Any, writer: Writer, say: Say) -> _Gathered:
    layouts = _layouts(files, settings)
    gathered = _Gathered(files, layouts, [0] * len(files), [{} for _ in files])
    progress = Progress(say, "rows", sources.expected_rows(files))
    for made in _all_made(files, layouts, settings, tokenizer):
        before = sum(gathered.counts)
        for kept in made.kept:
            writer.add(before + kept.place, kept.source, kept.text, kept.replies)
            own = files[made.file].for_validation
            values = (before + kept.place, own, kept.share, kept.keys.question, kept.keys.row, kept.keys.bands)
            gathered.traits += np.array(values, TRAITS).tobytes()
            gathered.own_system_rows += kept.own_system
        _merge(gathered, made)
        progress.reached(sum(gathered.counts))
    return gathered


def _merge(gathered: _Gathered, made: Made) -> None:
    gathered.counts[made.file] += made.rows
    gathered.largest_token = max(gathered.largest_token, made.largest_token)
    gathered.lengths += np.array(made.lengths, np.int32).tobytes()
    for finding in made.findings:
        gathered.tally.add(finding)
    merged = gathered.columns[made.file]
    for name, (count, characters) in made.columns.items():
        sums = merged.setdefault(name, [0, 0])
        sums[0] += count
        sums[1] += characters


def _all_made(files: list[RowFile], layouts: list[Layout], settings: Data, tokenizer: Any) -> Iterator[Made]:
    chunks = _chunks(files, layouts, settings)
    if sum(map(sources.text_bytes, files)) < BYTES_FOR_ALL_CORES:
        return (work(chunk, settings, tokenizer) for chunk in chunks)
    return spread(work_there, chunks, begin, (settings, tokenizer))


def _chunks(files: list[RowFile], layouts: list[Layout], settings: Data) -> Iterator[Chunk]:
    for number, file in enumerate(files):
        coming = _read(file, settings)
        while chunk := list(islice(coming, CHUNK_ROWS)):
            yield Chunk(number, chunk, layouts[number])


def _read(file: RowFile, settings: Data) -> Iterator[rows.RawRow]:
    return readers.read_rows(file.path, file.shown, repair_encoding=settings.faults["encoding"] == "repair")


def _layouts(files: list[RowFile], settings: Data) -> list[Layout]:
    """How each file's columns are to be read; raises UserError with what every file lacks."""
    found: list[Layout] = []
    faults: list[str] = []
    for file in files:
        try:
            found.append(_layout(file, settings))
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)
    return found


def _layout(file: RowFile, settings: Data) -> Layout:
    """The layout of a file by its first rows that can be read; an empty file has none to show."""
    sample: list[rows.RawRow] = []
    unreadable: list[rows.RawRow] = []
    for row in _read(file, settings):
        (unreadable if row.columns is None else sample).append(row)
        if len(sample) == layout.SAMPLE_ROWS:
            break
    if not sample and not unreadable:
        return Layout()
    return layout.detect(sample or unreadable, settings.columns, settings.ignore, file.shown)


def _divide(gathered: _Gathered, store: Store, settings: Data) -> tuple[Rows, Rows]:
    traits = np.frombuffer(gathered.traits, TRAITS)
    train, validation, findings = divide(
        traits, settings, gathered.shared_rows, store.source, lambda number: question_text(store.example(number))
    )
    for finding in findings:
        gathered.tally.add(finding)
    return choose(store, train), choose(store, validation)


def _account(gathered: _Gathered, train: Rows, validation: Rows, settings: Data, tokenizer: Any) -> dict[str, Any]:
    files = [
        {"path": file.shown, "rows": count, "format": found.describe(), "validation": file.for_validation}
        for file, count, found in zip(gathered.files, gathered.counts, gathered.layouts, strict=True)
    ]
    lengths = np.frombuffer(gathered.lengths, np.int32).reshape(-1, 4)
    shown = train.replies([0]) if len(train) else []
    return account.draw_up(settings, gathered.tally, files, lengths) | {
        "train_rows": len(train),
        "validation_rows": len(validation),
        "train_tokens": int(train.lengths.sum()),
        "train_learned_tokens": int(train.learned.sum()),
        "own_system_rows": gathered.own_system_rows,
        "largest_token": gathered.largest_token,
        "shown": [{"row": row.row, "pieces": pieces(row, tokenizer)} for row in shown],
    }


def _stops(gathered: _Gathered, facts: dict[str, Any], settings: Data) -> list[str]:
    """Why a run with these rows cannot start, most general first."""
    stops: list[str] = []
    for file, found, columns in zip(gathered.files, gathered.layouts, gathered.columns, strict=True):
        try:
            refuse_unused(columns, found, file.shown)
        except UserError as error:
            stops += error.faults
    stops += gathered.tally.stops
    more = facts["stopping_rows"] - len(gathered.tally.stops)
    stops += [f"and {more:,} more such rows"] * (more > 0)
    if stops:
        return stops
    if not facts["train_rows"]:
        return _nothing_left(facts)
    if isinstance(settings.validation, str) and not facts["validation_rows"]:
        return [f"data.validation: no row of {settings.validation} is left to evaluate on; see the faults of its rows"]
    return []


def _nothing_left(facts: dict[str, Any]) -> list[str]:
    """Why no row is left to train on."""
    if facts["validation_rows"]:
        held = f"the {facts['validation_rows']:,} that are whole are held out"
        return [f"data.validation: no row is left to train on, for {held}; hold out fewer, or add rows"]
    dropped = [fault for fault in facts["faults"] if "dropped" in fault["actions"]]
    counted = "; ".join(f"{fault['fault']} {fault['actions']['dropped']:,}" for fault in dropped)
    keep = [fault["fault"] for fault in dropped if "keep" in KINDS[fault["fault"]].policies]
    remedy = f"mend the rows, or write data.faults: {{{keep[0]}: keep}}" if keep else "mend the rows"
    return [
        f"data.name: no row is left to train on ({counted or 'the files hold none'}); {remedy}",
        *(fault["examples"][0] for fault in dropped),
    ]


def _refuse_clock(tokenizer: Any) -> None:
    if "strftime_now" in str(tokenizer.chat_template):
        raise UserError(
            "model.name: its chat template writes today's date (strftime_now), so that the same row would be other "
            "tokens tomorrow; write a fixed date into the template"
        )


def _refuse_faulty_system(settings: Data, tokenizer: Any) -> None:
    """Raise UserError where the system prompt of all rows has a fault; rows are not blamed for it."""
    example = Example((Turn("system", settings.system or ""),), "the recipe")
    judged = judge(example, [("data.system", "")], settings.faults, (), control_tokens(tokenizer))
    if faults := [finding for finding in judged.findings if finding.action != "kept"]:
        mended = judged.example.turns[0].content if judged.example else None
        remedy = f"write {json.dumps(mended, ensure_ascii=False)}" if mended else "leave it out"
        raise UserError([f"{finding.sentence}; {remedy}" for finding in faults])


def _key(files: Sequence[RowFile], settings: Data, tokenizer: Any) -> str:
    """Changes with anything that the tokens or the account are made from: rows, recipe, template, tokenizer, code."""
    digest = blake2b(digest_size=16)
    elsewhere = {"name", "hub", "revision", "files"}  # they say where the rows are; what counts is what is there
    for part in (settings.model_dump_json(exclude=elsewhere), state(tokenizer), sys.version, _versions()):
        digest.update(blake2b(part.encode()).digest())
    for file in files:
        digest.update(json.dumps([file.shown, file.for_validation]).encode())
        for block in sources.blocks(file.path):
            digest.update(block)
    for code in sorted(PACKAGE.rglob("*.py")):
        digest.update(blake2b(code.read_bytes()).digest())
    return digest.hexdigest()


def _versions() -> str:
    import tokenizers
    import transformers

    arrow = version("pyarrow") if find_spec("pyarrow") else "none"
    return f"{transformers.__version__} {tokenizers.__version__} {jinja2.__version__} {np.__version__} {arrow}"
