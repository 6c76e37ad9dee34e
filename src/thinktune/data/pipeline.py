"""Turn a recipe's rows into tokens: find, read, check, tokenize and split them, and cache the result on disk."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from hashlib import blake2b
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from thinktune import cache
from thinktune.config import DataConfig, Recipe
from thinktune.data import remedies
from thinktune.data.columns.mapping import ColumnMapping
from thinktune.data.columns.modes import has_thinking_switch, refuse_share_without_switch
from thinktune.data.columns.recipe_change import RecipeChange
from thinktune.data.columns.unused import UnusedColumns
from thinktune.data.dataset import DatasetWriter, Prepared, Subset, TokenizedDataset, open_dataset, select
from thinktune.data.faults.checks import CheckRules, check_example
from thinktune.data.faults.decisions import RowDecision, decisions_file, read_decisions
from thinktune.data.faults.language import LANGUAGE_SAMPLE_ROWS, count_languages
from thinktune.data.mixture import SourceRows, join_sources
from thinktune.data.own_answers.bound import bound_faults, write_bound
from thinktune.data.own_answers.entry import find_own_answers
from thinktune.data.reading import sources
from thinktune.data.reading.containers import locate_part
from thinktune.data.reading.readers import MAX_ROW_BYTES, read_rows
from thinktune.data.reading.sources import RowFile
from thinktune.data.remedies import Rehearsal
from thinktune.data.sample import FileForm, FileSample, detect_form, read_sample
from thinktune.data.split import ROW_FEATURES, train_validation_split
from thinktune.data.summary import summarize
from thinktune.data.types import RawRow, Tally, gentler_policy
from thinktune.data.worker import (
    Chunk,
    ChunkResult,
    init_worker,
    map_in_processes,
    process_chunk,
    process_chunk_in_worker,
)
from thinktune.errors import UserError
from thinktune.files import name_path, read_json, write_json
from thinktune.progress import ProgressReporter, Say
from thinktune.tokenization import ChatTokenizer, Example, Turn
from thinktune.tokenization.chat_template import decode_by_token
from thinktune.tokenization.tags import read_tags
from thinktune.tokenization.tokenizer import control_tokens, max_characters, tokenizer_state

CHUNK_ROWS, CHUNK_BYTES = 256, 2**20  # of the file; tokenizing takes some two hundred times that


MAX_CHARACTER_BYTES = 6  # in a file: \\u and four digits


MAX_CACHE_ATTEMPTS = 3


MIN_PARALLEL_BYTES = 12 * 2**20  # of text; below it, starting processes takes longer than it saves


# Our own source that decides tokens or the summary of the rows: this package, the recipe's rules for rows, and the
# texts of errors, which the summary quotes. The other packages that this one imports (`cache`, `files`, `hub`,
# `progress`) find, read and keep what is hashed here by its content.
TOKEN_SOURCES = ("data", "tokenization", "config", "errors")


def prepare(
    recipe: Recipe, tokenizer: ChatTokenizer, say: Say = lambda _: None, *, may_be_bound: bool = False
) -> Prepared:
    """Prepare a recipe's rows for training.

    Raises UserError where a fault's policy is `stop`, a column of text is neither used nor ignored, no row is left, or
    own answers are not made yet, unless the rows `may_be_bound`.
    """
    prepared = prepare_with_faults(recipe, tokenizer, say)
    faults = [*prepared.stop_reasons, *([] if may_be_bound else bound_faults(recipe, prepared.summary))]
    if faults:
        raise UserError(faults)
    return prepared


def prepare_with_faults(recipe: Recipe, tokenizer: ChatTokenizer, say: Say = lambda _: None) -> Prepared:
    """Prepare a recipe's rows like `prepare`, but return reasons to stop, so that the summary can be shown with them.

    Rows are tokenized once: later starts find them in the cache, by everything they were made from. Raises UserError
    where a whole file cannot be read or understood, or the template or the system prompt cannot be used.
    """
    if not recipe.is_mixture:
        return _prepare_source(recipe, tokenizer, say).prepared
    sources_alone: list[SourceRows] = []
    faults: list[str] = []
    for number in range(len(recipe.sources)):
        try:
            sources_alone.append(_prepare_source(recipe.of_source(number), tokenizer, say))
        except UserError as error:
            faults += (recipe.in_source(fault, number) for fault in error.faults)
    if faults:
        raise UserError(faults)
    return join_sources(recipe, sources_alone)


def _prepare_source(recipe: Recipe, tokenizer: ChatTokenizer, say: Say) -> SourceRows:
    """Prepare the rows of one source, which is the recipe's `data`."""
    if recipe.data.answers != "rows":
        return _prepare_own_answers(recipe, tokenizer, say)
    files = sources.find_files(recipe)
    _refuse_dated_template(tokenizer)
    _refuse_faulty_system(recipe.data, tokenizer)
    refuse_share_without_switch(recipe.data.silent_share, tokenizer)
    key = _cache_key(files, recipe.data, tokenizer)
    return _open_or_build(key, lambda folder: _build_dataset(files, recipe.data, tokenizer, folder, say), say)


def _prepare_own_answers(recipe: Recipe, tokenizer: ChatTokenizer, say: Say) -> SourceRows:
    """Prepare the base's own answers to a source's questions; until they are made, a bound of them stands for each."""
    _refuse_dated_template(tokenizer)
    own = find_own_answers(recipe, tokenizer)
    if own.is_made(say):
        rows = _prepare_source(recipe.model_copy(update={"data": own.settings}), tokenizer, say)
    else:
        key = blake2b(f"{own.entry.name} {cache.source_fingerprint(*TOKEN_SOURCES)}".encode(), digest_size=16)
        rows = _open_or_build(key.hexdigest(), lambda folder: write_bound(folder, own, tokenizer), say)
    return replace(rows, prepared=replace(rows.prepared, summary=own.told_in(rows.prepared.summary)))


def _open_or_build(key: str, build: Callable[[Path], None], say: Say) -> SourceRows:
    """Open the entry of a key, which `build` fills where it is not there."""
    entry = cache.cache_folder() / key
    for _ in range(MAX_CACHE_ATTEMPTS):
        if not cache.is_complete(entry, say):
            with cache.create_entry(entry) as temporary:
                build(temporary)
        try:
            return _open_prepared(entry)
        except FileNotFoundError:  # removed in this moment, as by another machine whose clock is wrong
            cache.discard(entry)
    raise UserError(
        f"{entry}: is removed as soon as it is made; set THINKTUNE_CACHE to a folder that nothing else empties"
    )


def _open_prepared(entry: Path) -> SourceRows:
    """Open a whole entry of the cache; it is not needed any more once it is open."""
    facts = read_json(entry / "facts.json")
    dataset = open_dataset(entry)
    train, validation = (select(dataset, np.load(entry / f"{side}.npy")) for side in ("train", "validation"))
    fingerprint = blake2b(train.digests + b"/" + validation.digests, digest_size=16).hexdigest()
    prepared = Prepared(train, validation, facts["summary"], fingerprint, tuple(facts["stop_reasons"]))
    # Of use for several sources alone, and larger than all else that is opened here: so nothing of them is read yet.
    features, lengths = (np.load(entry / f"{name}.npy", mmap_mode="r") for name in ("features", "lengths"))
    return SourceRows(prepared, features, lengths, facts["decided"])


def _build_dataset(
    files: list[RowFile], settings: DataConfig, tokenizer: ChatTokenizer, folder: Path, say: Say
) -> None:
    """Tokenize all rows into a folder, with the indices of both sides of the split, and their summary."""
    with DatasetWriter(folder) as writer:
        processed = _process_rows(files, settings, tokenizer, writer, say)
    train, validation = _split(processed, open_dataset(folder), settings)
    for side, chosen in (("train", train), ("validation", validation)):
        np.save(folder / f"{side}.npy", chosen.example_indices)
    summary = _summarize(processed, train, validation, settings, tokenizer)
    # For a recipe of several sources, which compares their rows and measures them together.
    np.save(folder / "features.npy", processed.row_features)
    np.save(folder / "lengths.npy", processed.reply_lengths)
    stops = _stop_reasons(processed, summary, settings, tokenizer)
    facts = {"summary": summary, "stop_reasons": stops, "decided": processed.decided_policies}
    write_json(folder / "facts.json", facts)


@dataclass(slots=True)
class _ProcessedFile:
    """A file of rows, and the sums over its chunks."""

    file: RowFile
    mapping: ColumnMapping
    sample: FileSample
    decisions: Mapping[str, RowDecision]
    row_count: int = 0
    unused_columns: UnusedColumns = field(default_factory=UnusedColumns)
    decided: list[str] = field(default_factory=list[str])
    changed: list[str] = field(default_factory=list[str])

    @property
    def decision_facts(self) -> dict[str, Any]:
        """Plain values: how many decisions count, which rows changed since, and which are not there any more."""
        gone = sorted(self.decisions.keys() - {*self.decided, *self.changed})
        name = decisions_file(Path(self.file.display_name)).as_posix()
        return {"file": name, "applied": len(self.decided), "changed": self.changed, "gone": gone}


@dataclass(slots=True)
class _ProcessedRows:
    """Sums over all chunks, before rows are compared; the examples themselves go to the dataset's writer."""

    files: list[_ProcessedFile]
    row_count: int = 0
    tally: Tally = field(default_factory=Tally)
    features: bytearray = field(default_factory=bytearray)  # rows of ROW_FEATURES
    lengths: bytearray = field(default_factory=bytearray)  # (replies, 4) int32
    own_system_rows: int = 0
    silent_rows: int = 0
    max_token_id: int = 0

    def add(self, result: ChunkResult, writer: DatasetWriter) -> None:
        """Add the next chunk of rows in the order of reading."""
        processed = self.files[result.file_index]
        for example in result.examples:
            row = self.row_count + example.row_index
            writer.add(row, example.source, example.example_json, example.replies)
            found = example.fingerprint
            features = (
                *(row, processed.file.for_validation, example.hash_fraction),
                *(found.question_hash, found.answer_hash, found.row_hash, found.minhash),
            )
            self.features += np.array(features, ROW_FEATURES).tobytes()
            self.own_system_rows += example.has_own_system
            self.silent_rows += example.is_silent
        self.row_count += result.row_count
        processed.row_count += result.row_count
        processed.unused_columns.merge(result.unused_columns)
        processed.decided += result.decided
        processed.changed += result.changed
        self.max_token_id = max(self.max_token_id, result.max_token_id)
        self.lengths += np.array(result.lengths, np.int32).tobytes()
        for finding in result.findings:
            self.tally.add(finding)

    @property
    def row_features(self) -> NDArray[Any]:
        """What the split needs of every example, of ROW_FEATURES."""
        return np.frombuffer(self.features, ROW_FEATURES)

    @property
    def reply_lengths(self) -> NDArray[np.int32]:
        """Tokens of each reply by kind, (replies, 4)."""
        return np.frombuffer(self.lengths, np.int32).reshape(-1, 4)

    @property
    def decided_policies(self) -> dict[str, Mapping[str, str]]:
        """Policies that count for single rows, by `file:line`."""
        return {source: one.decisions[source].policies for one in self.files for source in one.decided}

    @property
    def shared_rows(self) -> int:
        """Rows that are split between training and validation."""
        return sum(processed.row_count for processed in self.files if not processed.file.for_validation)


def _process_rows(
    files: list[RowFile], settings: DataConfig, tokenizer: ChatTokenizer, writer: DatasetWriter, say: Say
) -> _ProcessedRows:
    forms, samples = _detect_forms(files, settings, tokenizer)
    decisions = _read_all_decisions(files)
    processed = _ProcessedRows(
        [
            _ProcessedFile(file, form.mapping, sample, own)
            for file, form, sample, own in zip(files, forms, samples, decisions, strict=True)
        ]
    )
    progress = ProgressReporter(say, "rows", sources.estimate_row_count(files))
    chunks = _decided_chunks(_chunks(files, forms, settings, tokenizer), decisions)
    for result in _process_chunks(files, chunks, settings, tokenizer):
        processed.add(result, writer)
        progress.update(processed.row_count)
    return processed


def is_small(files: Sequence[RowFile]) -> bool:
    """Return True if files of rows are prepared within seconds, by this process alone."""
    return sum(map(sources.estimate_text_bytes, files)) < MIN_PARALLEL_BYTES


def _process_chunks(
    files: list[RowFile], chunks: Iterator[Chunk], settings: DataConfig, tokenizer: ChatTokenizer
) -> Iterator[ChunkResult]:
    if is_small(files):
        return (process_chunk(chunk, settings, tokenizer) for chunk in chunks)
    return map_in_processes(process_chunk_in_worker, chunks, init_worker, (settings, tokenizer))


def _chunks(
    files: list[RowFile], forms: list[FileForm], settings: DataConfig, tokenizer: ChatTokenizer
) -> Iterator[Chunk]:
    for file_index, (file, form) in enumerate(zip(files, forms, strict=True)):
        rows: list[RawRow] = []
        size = 0
        for row in _read_file(file, settings, tokenizer):
            rows.append(row)
            size += row.size
            if len(rows) == CHUNK_ROWS or size >= CHUNK_BYTES:
                yield Chunk(file_index, rows, form.mapping, form.habits)
                rows, size = [], 0
        if rows:
            yield Chunk(file_index, rows, form.mapping, form.habits)


def read_chunks(files: list[RowFile], settings: DataConfig, tokenizer: ChatTokenizer) -> Iterator[Chunk]:
    """Read all rows in chunks, each with what its file's columns mean and the decisions about its rows.

    Raises UserError where a file cannot be read or understood.
    """
    forms, _ = _detect_forms(files, settings, tokenizer)
    return _decided_chunks(_chunks(files, forms, settings, tokenizer), _read_all_decisions(files))


def _decided_chunks(chunks: Iterator[Chunk], decisions: Sequence[Mapping[str, RowDecision]]) -> Iterator[Chunk]:
    """Give each chunk the decisions about its own rows."""
    for chunk in chunks:
        of_file = decisions[chunk.file_index]
        own = {row.source: of_file[row.source] for row in chunk.rows if row.source in of_file} if of_file else {}
        yield replace(chunk, decisions=own) if own else chunk


def _read_all_decisions(files: Sequence[RowFile]) -> list[dict[str, RowDecision]]:
    """Read the decisions about each file's rows; raises one UserError with the mistakes of all."""
    decisions: list[dict[str, RowDecision]] = []
    faults: list[str] = []
    for file in files:
        try:
            decisions.append(read_decisions(file.path, file.display_name))
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)
    return decisions


def _read_file(file: RowFile, settings: DataConfig, tokenizer: ChatTokenizer) -> Iterator[RawRow]:
    longest = max(MAX_ROW_BYTES, MAX_CHARACTER_BYTES * max_characters(settings.max_tokens, tokenizer))
    repair = settings.faults["encoding"] == "repair"
    with name_path(file.path):
        yield from read_rows(
            file.path, file.display_name, repair_encoding=repair, max_row_bytes=longest, rows_key=settings.rows
        )


def _detect_forms(
    files: list[RowFile], settings: DataConfig, tokenizer: ChatTokenizer
) -> tuple[list[FileForm], list[FileSample]]:
    """Detect each file's form from sample rows; raises one UserError with the faults of all files."""
    forms: list[FileForm] = []
    samples: list[FileSample] = []
    faults: list[str] = []
    for file in files:
        sample = FileSample(file.display_name)
        try:
            sample = read_sample(file.display_name, _read_file(file, settings, tokenizer))
            forms.append(detect_form(sample, settings))
            samples.append(sample)
        except UserError as error:
            faults += remedies.explain_refusal(sample, file.path, settings, tokenizer, error)
    if faults:
        raise UserError(faults)
    for sample, form in zip(samples, forms, strict=True):
        faults += remedies.explain_pairs(sample, form.mapping, settings, tokenizer)
    if faults:
        raise UserError(faults)
    return forms, [sample.for_trials for sample in samples]


def _split(processed: _ProcessedRows, dataset: TokenizedDataset, settings: DataConfig) -> tuple[Subset, Subset]:
    train, validation, findings = train_validation_split(
        processed.row_features,
        settings,
        processed.shared_rows,
        dataset.source,
        dataset.example,
        processed.decided_policies,
    )
    for finding in findings:
        processed.tally.add(finding)
    return select(dataset, train), select(dataset, validation)


def _summarize(
    processed: _ProcessedRows, train: Subset, validation: Subset, settings: DataConfig, tokenizer: ChatTokenizer
) -> dict[str, Any]:
    files = [
        {
            "path": one.file.display_name,
            "rows": one.row_count,
            "format": one.mapping.describe(),
            "columns": one.mapping.as_recipe_value,
            "validation": one.file.for_validation,
            "unused": one.unused_columns.facts(one.mapping),
        }
        for one in processed.files
    ]
    shown = train.replies([0]) if len(train) else []
    return summarize(settings, processed.tally, files, processed.reply_lengths) | {
        "train_rows": len(train),
        "validation_rows": len(validation),
        "train_tokens": int(train.lengths.sum()),
        "train_learned_tokens": int(train.label_tokens.sum()),
        "own_system_rows": processed.own_system_rows,
        "silent_share": settings.silent_share,
        "silent_rows": processed.silent_rows,
        "has_thinking_switch": has_thinking_switch(tokenizer),
        "think_tags": astuple(read_tags(tokenizer)),
        "languages": count_languages(_sample_texts(train)),
        "largest_token": processed.max_token_id,
        "decisions": [one.decision_facts for one in processed.files if one.decisions],
        "shown": [{"row": row.source, "pieces": decode_by_token(row, tokenizer)} for row in shown],
    }


def _sample_texts(rows: Subset) -> Iterator[str]:
    """Yield the text of evenly spaced rows, so that files of several languages all count; the system prompt's not."""
    step = max(1, -(-len(rows) // LANGUAGE_SAMPLE_ROWS))
    for index in rows.example_indices[::step].tolist():
        turns = rows.dataset.example(index).turns
        yield "\n".join(f"{turn.content}\n{turn.reasoning}" for turn in turns if turn.role != "system")


def _stop_reasons(
    processed: _ProcessedRows, summary: dict[str, Any], settings: DataConfig, tokenizer: ChatTokenizer
) -> list[str]:
    """List why a run with these rows cannot start, the most general reason first."""
    stopping = processed.tally.stops
    relaxed = RecipeChange(faults={finding.fault: gentler_policy(finding.fault) for finding in stopping})
    rehearsal = Rehearsal([one.sample for one in processed.files if one.row_count], settings, tokenizer)
    files = [(one.sample, one.mapping, one.unused_columns) for one in processed.files]
    stops = remedies.explain_unused(files, replace(rehearsal, settings=relaxed.apply(settings) or settings))
    helps = bool(stopping) and rehearsal.try_change(relaxed).rows_left > 0
    for finding in stopping:
        policy = f"{{{finding.fault}: {gentler_policy(finding.fault)}}}"
        stops.append(f"{finding.sentence}; fix the row" + (f", or write data.faults: {policy}" if helps else ""))
    more = summary["stopping_rows"] - len(stopping)
    stops += [f"and {more:,} more such rows"] * (more > 0)
    if stops:
        return stops
    if not summary["train_rows"] and summary["validation_rows"]:
        held = f"all {summary['validation_rows']:,} usable rows are held out"
        return [f"data.validation: no row is left to train on: {held}; hold out fewer, or add rows"]
    if not summary["train_rows"]:
        return remedies.explain_nothing_left(summary, rehearsal)
    if isinstance(settings.validation, str) and not summary["validation_rows"]:
        return [f"data.validation: no row of {settings.validation} is left to evaluate on; see the faults of its rows"]
    return []


def _refuse_dated_template(tokenizer: ChatTokenizer) -> None:
    if "strftime_now" in str(tokenizer.chat_template):
        raise UserError(
            "model.name: its chat template writes today's date (strftime_now), so the same row would give different "
            "tokens tomorrow; put a fixed date into the template"
        )


def _refuse_faulty_system(settings: DataConfig, tokenizer: ChatTokenizer) -> None:
    """Raise UserError where the recipe's system prompt has a fault, which would else be every row's."""
    example = Example((Turn("system", settings.system or ""),), "the recipe")
    checked = check_example(example, [("data.system", "")], CheckRules(settings.faults, (), control_tokens(tokenizer)))
    if faults := [finding for finding in checked.findings if finding.action != "kept"]:
        repaired = checked.example.turns[0].content if checked.example else None
        remedy = f"write {json.dumps(repaired, ensure_ascii=False)}" if repaired else "leave it out"
        raise UserError([f"{finding.sentence}; {remedy}" for finding in faults])


def _cache_key(files: Sequence[RowFile], settings: DataConfig, tokenizer: ChatTokenizer) -> str:
    """Hash everything that tokens and summary are made from: rows, recipe, template, tokenizer, code."""
    digest = blake2b(digest_size=16)
    # Where the rows are, and under which licence; what counts is their content.
    elsewhere = {"name", "hub", "revision", "files", "license", "share", "replay", "answers"}
    for part in (
        settings.model_dump_json(exclude=elsewhere),
        tokenizer_state(tokenizer),
        cache.source_fingerprint(*TOKEN_SOURCES),
        _library_versions(),
    ):
        digest.update(blake2b(part.encode()).digest())
    for file in files:
        digest.update(json.dumps([file.display_name, locate_part(file.path).part, file.for_validation]).encode())
        for block in sources.read_blocks(file.path):
            digest.update(block)
        if (decided := decisions_file(file.path)).is_file():
            digest.update(blake2b(decided.read_bytes()).digest())
    return digest.hexdigest()


def _library_versions() -> str:
    import tokenizers
    import transformers

    readers = " ".join(version(name) if find_spec(name) else "none" for name in ("pyarrow", "openpyxl"))
    return f"{transformers.__version__} {tokenizers.__version__} {jinja2.__version__} {np.__version__} {readers}"
