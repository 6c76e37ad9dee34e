"""A recipe's rows to tokens: found, read, judged, rendered, divided, and kept on the disk for the next start."""

import json
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
from thinktune.config import ROW_FAULTS, DataConfig, Recipe
from thinktune.data import columns as layout
from thinktune.data import readers, sources
from thinktune.data import summary as account
from thinktune.data import types as rows
from thinktune.data.chat_template import control_tokens, decode_by_token
from thinktune.data.checks import check_example
from thinktune.data.columns import ColumnMapping, refuse_unused_columns
from thinktune.data.dataset import DatasetWriter, Subset, TokenizedDataset, open_dataset, select
from thinktune.data.duplicates import question_text
from thinktune.data.sources import RowFile
from thinktune.data.split import ROW_FEATURES, train_validation_split
from thinktune.data.tokenizer import tokenizer_state
from thinktune.data.types import Example, Tally, Turn
from thinktune.data.worker import (
    Chunk,
    ChunkResult,
    init_worker,
    map_in_processes,
    process_chunk,
    process_chunk_in_worker,
)
from thinktune.errors import UserError
from thinktune.files import read_json, write_json
from thinktune.progress import ProgressReporter, Say

CHUNK_ROWS = 256


MIN_PARALLEL_BYTES = 12 * 2**20  # of text; below it, starting processes takes longer than the work


# Our own source that decides tokens or the account of the rows: this package, the recipe's rules for rows, and the
# texts of errors, which the account quotes. The other packages that this one imports (`cache`, `files`, `hub`,
# `progress`) find, read and keep what is hashed here by its content.
TOKEN_SOURCES = ("data", "config", "errors")


@dataclass(frozen=True, slots=True)
class Prepared:
    """The rows to train on, those to evaluate on, the account of every row read, and why a run cannot start."""

    train: Subset
    validation: Subset
    summary: dict[str, Any]
    fingerprint: str
    stop_reasons: tuple[str, ...] = ()


def prepare(recipe: Recipe, tokenizer: Any, say: Say = lambda _: None) -> Prepared:
    """Everything between the recipe and the tokens.

    Raises UserError where a fault's policy is `stop`, a column of text is not accounted for, or no row is left.
    """
    prepared = prepare_with_faults(recipe, tokenizer, say)
    if prepared.stop_reasons:
        raise UserError(prepared.stop_reasons)
    return prepared


def prepare_with_faults(recipe: Recipe, tokenizer: Any, say: Say = lambda _: None) -> Prepared:
    """What `prepare` gives, with its faults in `stops`, so that they can be shown beside the account.

    Rows are tokenized once: the next start finds them by what they were made from. Raises UserError where a file as a
    whole cannot be read or understood, or the template or the system prompt cannot be used.
    """
    files = sources.find_files(recipe)
    _refuse_dated_template(tokenizer)
    _refuse_faulty_system(recipe.data, tokenizer)
    entry = cache.cache_folder() / _cache_key(files, recipe.data, tokenizer)
    if not cache.is_complete(entry):
        with cache.create_entry(entry) as aside:
            _build_dataset(files, recipe.data, tokenizer, aside, say)
    facts = read_json(entry / "facts.json")
    store = open_dataset(entry)
    train, validation = (select(store, np.load(entry / f"{side}.npy")) for side in ("train", "validation"))
    fingerprint = blake2b(train.digests + b"/" + validation.digests, digest_size=16).hexdigest()
    return Prepared(train, validation, facts["account"], fingerprint, tuple(facts["stops"]))


def _build_dataset(files: list[RowFile], settings: DataConfig, tokenizer: Any, folder: Path, say: Say) -> None:
    """Tokenize all rows into a folder, beside which of them are trained and held out, and the account of them."""
    with DatasetWriter(folder) as writer:
        gathered = _process_rows(files, settings, tokenizer, writer, say)
    train, validation = _split(gathered, open_dataset(folder), settings)
    for side, chosen in (("train", train), ("validation", validation)):
        np.save(folder / f"{side}.npy", chosen.example_indices)
    account = _summarize(gathered, train, validation, settings, tokenizer)
    write_json(folder / "facts.json", {"account": account, "stops": _stop_reasons(gathered, account, settings)})


@dataclass(slots=True)
class _ProcessedRows:
    """What is known of all rows after each was worked on by itself."""

    files: list[RowFile]
    mappings: list[ColumnMapping]
    row_counts: list[int]
    unused_columns: list[dict[str, list[int]]]
    tally: Tally = field(default_factory=Tally)
    features: bytearray = field(default_factory=bytearray)
    lengths: bytearray = field(default_factory=bytearray)
    own_system_rows: int = 0
    max_token_id: int = 0

    @property
    def shared_rows(self) -> int:
        """Rows that training and evaluation share."""
        return sum(count for file, count in zip(self.files, self.row_counts, strict=True) if not file.for_validation)


def _process_rows(
    files: list[RowFile], settings: DataConfig, tokenizer: Any, writer: DatasetWriter, say: Say
) -> _ProcessedRows:
    layouts = _detect_mappings(files, settings)
    gathered = _ProcessedRows(files, layouts, [0] * len(files), [{} for _ in files])
    progress = ProgressReporter(say, "rows", sources.estimate_row_count(files))
    for made in _process_chunks(files, layouts, settings, tokenizer):
        before = sum(gathered.row_counts)
        for kept in made.examples:
            writer.add(before + kept.row_index, kept.source, kept.example_json, kept.replies)
            own = files[made.file_index].for_validation
            values = (
                before + kept.row_index,
                own,
                kept.hash_fraction,
                kept.fingerprint.question_hash,
                kept.fingerprint.row_hash,
                kept.fingerprint.minhash,
            )
            gathered.features += np.array(values, ROW_FEATURES).tobytes()
            gathered.own_system_rows += kept.has_own_system
        _add_chunk(gathered, made)
        progress.update(sum(gathered.row_counts))
    return gathered


def _add_chunk(processed: _ProcessedRows, result: ChunkResult) -> None:
    processed.row_counts[result.file_index] += result.row_count
    processed.max_token_id = max(processed.max_token_id, result.max_token_id)
    processed.lengths += np.array(result.lengths, np.int32).tobytes()
    for finding in result.findings:
        processed.tally.add(finding)
    merged = processed.unused_columns[result.file_index]
    for name, (count, characters) in result.unused_columns.items():
        sums = merged.setdefault(name, [0, 0])
        sums[0] += count
        sums[1] += characters


def _process_chunks(
    files: list[RowFile], mappings: list[ColumnMapping], settings: DataConfig, tokenizer: Any
) -> Iterator[ChunkResult]:
    chunks = _chunks(files, mappings, settings)
    if sum(map(sources.estimate_text_bytes, files)) < MIN_PARALLEL_BYTES:
        return (process_chunk(chunk, settings, tokenizer) for chunk in chunks)
    return map_in_processes(process_chunk_in_worker, chunks, init_worker, (settings, tokenizer))


def _chunks(files: list[RowFile], mappings: list[ColumnMapping], settings: DataConfig) -> Iterator[Chunk]:
    for number, file in enumerate(files):
        coming = _read_file(file, settings)
        while chunk := list(islice(coming, CHUNK_ROWS)):
            yield Chunk(number, chunk, mappings[number])


def _read_file(file: RowFile, settings: DataConfig) -> Iterator[rows.RawRow]:
    return readers.read_rows(file.path, file.display_name, repair_encoding=settings.faults["encoding"] == "repair")


def _detect_mappings(files: list[RowFile], settings: DataConfig) -> list[ColumnMapping]:
    """How each file's columns are to be read; raises UserError with what every file lacks."""
    found: list[ColumnMapping] = []
    faults: list[str] = []
    for file in files:
        try:
            found.append(_detect_mapping(file, settings))
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)
    return found


def _detect_mapping(file: RowFile, settings: DataConfig) -> ColumnMapping:
    """The layout of a file by its first rows that can be read; an empty file has none to show."""
    sample: list[rows.RawRow] = []
    unreadable: list[rows.RawRow] = []
    for row in _read_file(file, settings):
        (unreadable if row.columns is None else sample).append(row)
        if len(sample) == layout.SAMPLE_ROWS:
            break
    if not sample and not unreadable:
        return ColumnMapping()
    return layout.detect_columns(sample or unreadable, settings.columns, settings.ignore, file.display_name)


def _split(processed: _ProcessedRows, dataset: TokenizedDataset, settings: DataConfig) -> tuple[Subset, Subset]:
    traits = np.frombuffer(processed.features, ROW_FEATURES)
    train, validation, findings = train_validation_split(
        traits, settings, processed.shared_rows, dataset.source, lambda number: question_text(dataset.example(number))
    )
    for finding in findings:
        processed.tally.add(finding)
    return select(dataset, train), select(dataset, validation)


def _summarize(
    processed: _ProcessedRows, train: Subset, validation: Subset, settings: DataConfig, tokenizer: Any
) -> dict[str, Any]:
    files = [
        {"path": file.display_name, "rows": count, "format": found.describe(), "validation": file.for_validation}
        for file, count, found in zip(processed.files, processed.row_counts, processed.mappings, strict=True)
    ]
    lengths = np.frombuffer(processed.lengths, np.int32).reshape(-1, 4)
    shown = train.replies([0]) if len(train) else []
    return account.summarize(settings, processed.tally, files, lengths) | {
        "train_rows": len(train),
        "validation_rows": len(validation),
        "train_tokens": int(train.lengths.sum()),
        "train_learned_tokens": int(train.label_tokens.sum()),
        "own_system_rows": processed.own_system_rows,
        "largest_token": processed.max_token_id,
        "shown": [{"row": row.source, "pieces": decode_by_token(row, tokenizer)} for row in shown],
    }


def _stop_reasons(processed: _ProcessedRows, summary: dict[str, Any], settings: DataConfig) -> list[str]:
    """Why a run with these rows cannot start, most general first."""
    stops: list[str] = []
    for file, found, columns in zip(processed.files, processed.mappings, processed.unused_columns, strict=True):
        try:
            refuse_unused_columns(columns, found, file.display_name)
        except UserError as error:
            stops += error.faults
    stops += processed.tally.stop_sentences
    more = summary["stopping_rows"] - len(processed.tally.stop_sentences)
    stops += [f"and {more:,} more such rows"] * (more > 0)
    if stops:
        return stops
    if not summary["train_rows"]:
        return _nothing_left(summary)
    if isinstance(settings.validation, str) and not summary["validation_rows"]:
        return [f"data.validation: no row of {settings.validation} is left to evaluate on; see the faults of its rows"]
    return []


def _nothing_left(summary: dict[str, Any]) -> list[str]:
    """Why no row is left to train on."""
    if summary["validation_rows"]:
        held = f"the {summary['validation_rows']:,} that are whole are held out"
        return [f"data.validation: no row is left to train on, for {held}; hold out fewer, or add rows"]
    dropped = [fault for fault in summary["faults"] if "dropped" in fault["actions"]]
    counted = "; ".join(f"{fault['fault']} {fault['actions']['dropped']:,}" for fault in dropped)
    keep = [fault["fault"] for fault in dropped if "keep" in ROW_FAULTS[fault["fault"]].policies]
    remedy = f"mend the rows, or write data.faults: {{{keep[0]}: keep}}" if keep else "mend the rows"
    return [
        f"data.name: no row is left to train on ({counted or 'the files hold none'}); {remedy}",
        *(fault["examples"][0] for fault in dropped),
    ]


def _refuse_dated_template(tokenizer: Any) -> None:
    if "strftime_now" in str(tokenizer.chat_template):
        raise UserError(
            "model.name: its chat template writes today's date (strftime_now), so that the same row would be other "
            "tokens tomorrow; write a fixed date into the template"
        )


def _refuse_faulty_system(settings: DataConfig, tokenizer: Any) -> None:
    """Raise UserError where the system prompt of all rows has a fault; rows are not blamed for it."""
    example = Example((Turn("system", settings.system or ""),), "the recipe")
    judged = check_example(example, [("data.system", "")], settings.faults, (), control_tokens(tokenizer))
    if faults := [finding for finding in judged.findings if finding.action != "kept"]:
        mended = judged.example.turns[0].content if judged.example else None
        remedy = f"write {json.dumps(mended, ensure_ascii=False)}" if mended else "leave it out"
        raise UserError([f"{finding.sentence}; {remedy}" for finding in faults])


def _cache_key(files: Sequence[RowFile], settings: DataConfig, tokenizer: Any) -> str:
    """Changes with anything that the tokens or the account are made from: rows, recipe, template, tokenizer, code."""
    digest = blake2b(digest_size=16)
    elsewhere = {"name", "hub", "revision", "files"}  # they say where the rows are; what counts is what is there
    for part in (
        settings.model_dump_json(exclude=elsewhere),
        tokenizer_state(tokenizer),
        cache.source_fingerprint(*TOKEN_SOURCES),
        _library_versions(),
    ):
        digest.update(blake2b(part.encode()).digest())
    for file in files:
        digest.update(json.dumps([file.display_name, file.for_validation]).encode())
        for block in sources.read_blocks(file.path):
            digest.update(block)
    return digest.hexdigest()


def _library_versions() -> str:
    import tokenizers
    import transformers

    arrow = version("pyarrow") if find_spec("pyarrow") else "none"
    return f"{transformers.__version__} {tokenizers.__version__} {jinja2.__version__} {np.__version__} {arrow}"
