"""Turn chunks of raw rows into tokens, each chunk by itself and in any process, before rows are compared."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from multiprocessing import forkserver, get_context
from typing import Any, TypeVar

import numpy as np

from thinktune.config import DataConfig
from thinktune.data.columns.mapping import ColumnMapping, to_example
from thinktune.data.columns.messages import with_default_system_prompt
from thinktune.data.columns.modes import apply_silent_share
from thinktune.data.columns.row_marks import find_row_marks
from thinktune.data.columns.unused import UnusedColumns
from thinktune.data.columns.values import spell_values
from thinktune.data.dataset import example_to_json
from thinktune.data.faults.checks import CheckedExample, CheckRules, check_example
from thinktune.data.faults.decisions import RowDecision, digest_row
from thinktune.data.faults.duplicates import Fingerprint, fingerprint, question_text
from thinktune.data.faults.habits import NO_HABITS, Habits
from thinktune.data.faults.quoted_columns import with_unused_columns
from thinktune.data.split import hash_fraction
from thinktune.data.too_long import cut_surely_too_long, handle_too_long
from thinktune.data.types import ACTION_OF_POLICY, Finding, RawRow
from thinktune.errors import UserError
from thinktune.library_output import captured_output, silence_libraries
from thinktune.tokenization import ChatTokenizer, Example, Rendered, TokenKind
from thinktune.tokenization.chat_template import render_batch
from thinktune.tokenization.tokenizer import control_tokens


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """A row that became an example: its index in its chunk, its text as JSON, its tokens, and its fingerprint."""

    row_index: int
    source: str
    example_json: bytes
    replies: list[Rendered]
    fingerprint: Fingerprint
    hash_fraction: float
    has_own_system: bool
    is_silent: bool  # no reply is trained with reasoning


@dataclass(slots=True)
class ChunkResult:
    """Result of a chunk of rows; `lengths` holds every reply's `lengths_by_kind`, before any is shortened."""

    file_index: int
    row_count: int
    max_token_id: int = 0
    examples: list[TokenizedExample] = field(default_factory=list[TokenizedExample])
    findings: list[Finding] = field(default_factory=list[Finding])
    unused_columns: UnusedColumns = field(default_factory=UnusedColumns)
    lengths: list[tuple[int, int, int, int]] = field(default_factory=list[tuple[int, int, int, int]])
    decided: list[str] = field(default_factory=list[str])  # rows about which a person's decision counts
    changed: list[str] = field(default_factory=list[str])  # rows that are others than those that were decided about


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows of one file, what its columns mean, what its rows mostly do, and decisions about some."""

    file_index: int
    rows: Sequence[RawRow]
    mapping: ColumnMapping
    habits: Habits = NO_HABITS
    decisions: Mapping[str, RowDecision] = field(default_factory=dict[str, RowDecision])


def process_chunk(chunk: Chunk, settings: DataConfig, tokenizer: ChatTokenizer) -> ChunkResult:
    """Read, check and tokenize every row of a chunk."""
    result = ChunkResult(chunk.file_index, len(chunk.rows))
    rules = check_rules(chunk, settings, tokenizer)
    settings_of: dict[int, DataConfig] = {}  # of rows that a person decided about
    examples: dict[int, Example] = {}
    cut: set[int] = set()  # rows of which too long replies were left out before they were rendered
    for row_index, row in enumerate(chunk.rows):
        own = settings
        if row.source in chunk.decisions:
            own = settings_of[row_index] = _settings_by_decision(row, chunk.decisions[row.source], settings, result)
        if row.columns is not None and not _drops(_reading_findings(row, own.faults)):
            result.unused_columns.add_row(row, chunk.mapping)
        row_rules = rules if own is settings else replace(rules, policies=own.faults)
        checked = check_row(row, chunk.mapping, own, row_rules, tokenizer)
        result.findings += checked.findings
        if checked.example is not None:
            examples[row_index] = checked.example
            if any(finding.fault == "too_long" for finding in checked.findings):
                cut.add(row_index)
    rendered = render_batch(list(examples.values()), tokenizer, settings.max_tokens)
    for (row_index, example), replies in zip(examples.items(), rendered, strict=True):
        measured = [reply for reply in replies if reply is not None]
        result.lengths += map(lengths_by_kind, measured)
        fitting = example, measured
        if len(measured) < len(replies) or max(map(len, measured), default=0) > settings.max_tokens:
            fitting, finding = handle_too_long(example, replies, settings_of.get(row_index, settings), tokenizer)
            if fitting is None or row_index not in cut:  # else it is counted already
                result.findings.append(finding)
        written = [*measured, *(fitting[1] if fitting else ())]
        result.max_token_id = max([result.max_token_id, *(int(reply.ids.max()) for reply in written)])
        if fitting is not None:
            result.examples.append(_tokenized_example(row_index, *fitting, settings))
    return result


def _fatal_index(findings: Sequence[Finding]) -> int:
    """Return the index of the first finding that drops its row or stops the run, or their number if none does."""
    return next((i for i, finding in enumerate(findings) if finding.action in ("dropped", "stops")), len(findings))


def lengths_by_kind(reply: Rendered) -> tuple[int, int, int, int]:
    """Count the tokens of a reply's prompt, reasoning and answer, and of the whole."""
    counts = np.bincount(reply.kinds, minlength=len(TokenKind))
    return int(np.argmax(reply.kinds > 0)), int(counts[TokenKind.REASONING]), int(counts[TokenKind.ANSWER]), len(reply)


def check_rules(chunk: Chunk, settings: DataConfig, tokenizer: ChatTokenizer) -> CheckRules:
    """Return what the checks of a chunk's rows go by."""
    controls, tags = control_tokens(tokenizer), settings.think_tags or ()
    return CheckRules(settings.faults, settings.handed_phrases, controls, chunk.habits, tags)


def _settings_by_decision(row: RawRow, decision: RowDecision, settings: DataConfig, result: ChunkResult) -> DataConfig:
    """Return a row's settings by a decision about it, which counts only while the row is the same."""
    if row.columns is None or digest_row(row.columns) != decision.digest:
        result.changed.append(row.source)
        return settings
    result.decided.append(row.source)
    return settings_for_row(settings, decision.policies)


def settings_for_row(settings: DataConfig, policies: Mapping[str, str]) -> DataConfig:
    """Return settings with other policies for some faults."""
    return settings.model_copy(update={"faults": {**settings.faults, **policies}})


def check_row(
    row: RawRow, mapping: ColumnMapping, settings: DataConfig, rules: CheckRules, tokenizer: ChatTokenizer
) -> CheckedExample:
    """Read a row as an example, by its findings in reading and all checks."""
    findings = tuple(_reading_findings(row, settings.faults))
    if row.columns is None or _drops(findings):
        return CheckedExample(None, findings)
    marks = [_apply_policy(mark, settings.faults) for mark in find_row_marks(row, mapping)]
    findings += tuple(marks[: _fatal_index(marks) + 1])
    if _drops(findings):
        return CheckedExample(None, findings)
    checked = _checked_example(row, mapping, settings, rules, tokenizer)
    return CheckedExample(checked.example, findings + checked.findings)


def _drops(findings: Iterable[Finding]) -> bool:
    return any(finding.action in ("dropped", "stops") for finding in findings)


def _reading_findings(row: RawRow, policies: dict[str, str]) -> list[Finding]:
    """Apply the policies to what was found in reading, up to the first finding that drops the row."""
    findings: list[Finding] = []
    for finding in row.findings:
        findings.append(_apply_policy(finding, policies))
        if findings[-1].action in ("dropped", "stops"):
            break
    return findings


def _checked_example(
    row: RawRow, mapping: ColumnMapping, settings: DataConfig, rules: CheckRules, tokenizer: ChatTokenizer
) -> CheckedExample:
    """Read a row as an example and check it; a passing example gets the recipe's system prompt."""
    spelled = None
    if settings.faults["not_text"] == "repair":
        row, spelled = spell_values(row, mapping)
    unchecked = to_example(row, mapping)
    if isinstance(unchecked, Finding):
        return CheckedExample(None, (_apply_policy(unchecked, settings.faults),))
    found = tuple(_apply_policy(finding, settings.faults) for finding in unchecked.findings)
    if any(finding.action != "kept" for finding in found):
        return CheckedExample(None, found)
    example, findings = unchecked.example, (*((spelled,) if spelled else ()), *found)
    # A row is no shorter in its file, so only of a long one need the characters be counted.
    if row.size > settings.max_tokens:
        example, cut = cut_surely_too_long(example, settings, tokenizer)
        findings += cut
        if example is None:
            return CheckedExample(None, findings)
    checked = check_example(example, unchecked.field_names, rules)
    checked = with_unused_columns(checked, row.columns or {}, mapping, settings.faults)
    if checked.example is None:
        return CheckedExample(None, findings + checked.findings)
    example = apply_silent_share(checked.example, settings.silent_share, settings.seed)
    turns = with_default_system_prompt(example.turns, settings.system)
    return CheckedExample(replace(example, turns=turns), findings + checked.findings)


def _apply_policy(finding: Finding, policies: dict[str, str]) -> Finding:
    """Set the action that the fault's policy asks for; under `repair`, reading has set it already."""
    policy = policies[finding.fault]
    return finding if policy == "repair" else replace(finding, action=ACTION_OF_POLICY[policy])


def _tokenized_example(
    row_index: int, example: Example, replies: list[Rendered], settings: DataConfig
) -> TokenizedExample:
    first = example.turns[0]
    return TokenizedExample(
        row_index,
        example.source,
        example_to_json(example),
        replies,
        fingerprint(example),
        hash_fraction(question_text(example), settings.seed),
        has_own_system=bool(settings.system) and first.role == "system" and first.content != settings.system,
        is_silent=not any(turn.thinks for turn in example.turns if turn.is_trained_reply),
    )


_worker_args: tuple[DataConfig, ChatTokenizer] | None = None


def init_worker(settings: DataConfig, tokenizer: ChatTokenizer) -> None:
    """Store, once in every worker process, what `process_chunk_in_worker` needs for each chunk."""
    global _worker_args
    silence_libraries()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # every core already has a process
    _worker_args = settings, tokenizer


def process_chunk_in_worker(chunk: Chunk) -> ChunkResult:
    """Run `process_chunk` in a worker process."""
    assert _worker_args is not None
    return process_chunk(chunk, *_worker_args)


ItemT = TypeVar("ItemT")


ResultT = TypeVar("ResultT")


MAX_PROCESSES = 16  # one process reads the rows for all of them, and can keep about so many busy


CHUNKS_PER_PROCESS = 3  # queued or being processed


def map_in_processes(
    function: Callable[[ItemT], ResultT],
    items: Iterable[ItemT],
    initializer: Callable[..., None],
    initargs: tuple[Any, ...],
) -> Iterator[ResultT]:
    """Map `function` over items in worker processes, in order; each process first calls `initializer(*initargs)`.

    An item's error is raised when its turn comes. Raises UserError if a process dies.
    """
    # Processes are forked from a clean server: a fork of this one would inherit the locks of torch's threads.
    method = "forkserver" if sys.platform == "linux" else "spawn"
    processes = get_context(method)
    if method == "forkserver":
        processes.set_forkserver_preload(["transformers.tokenization_utils_tokenizers", initializer.__module__])
        with captured_output():  # for good: what its workers raise comes back with their results
            forkserver.ensure_running()
    count = min(usable_cores(), MAX_PROCESSES)
    with ProcessPoolExecutor(count, processes, initializer, initargs) as pool:
        waiting: deque[Future[ResultT]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > count * CHUNKS_PER_PROCESS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died, most likely because memory ran out; free some memory, then run the same command"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def usable_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
