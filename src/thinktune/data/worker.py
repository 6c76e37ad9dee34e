"""Turn chunks of raw rows into tokens, each chunk by itself and in any process, before rows are compared."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from multiprocessing import forkserver, get_context
from typing import Any, TypeVar

import numpy as np

from thinktune.config import DataConfig
from thinktune.data.columns.mapping import ColumnMapping, UncheckedExample, to_example
from thinktune.data.columns.messages import with_default_system_prompt
from thinktune.data.columns.modes import apply_silent_share
from thinktune.data.columns.row_marks import find_row_marks
from thinktune.data.columns.unused import UnusedColumns
from thinktune.data.dataset import example_to_json
from thinktune.data.faults.checks import CheckedExample, CheckRules, check_example
from thinktune.data.faults.duplicates import Fingerprint, fingerprint, question_text
from thinktune.data.faults.habits import NO_HABITS, Habits
from thinktune.data.split import hash_fraction
from thinktune.data.types import ACTION_OF_POLICY, Action, Finding, RawRow
from thinktune.errors import UserError
from thinktune.library_output import captured_output, silence_libraries
from thinktune.tokenization import ChatTokenizer, Example, Rendered, TokenKind
from thinktune.tokenization.chat_template import render_batch
from thinktune.tokenization.tokenizer import control_tokens, exceeds_tokens, max_characters
from thinktune.tokenization.trimming import trim_reasoning


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


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows of one file, what its columns mean, and what its rows mostly do."""

    file_index: int
    rows: Sequence[RawRow]
    mapping: ColumnMapping
    habits: Habits = NO_HABITS


def process_chunk(chunk: Chunk, settings: DataConfig, tokenizer: ChatTokenizer) -> ChunkResult:
    """Read, check and tokenize every row of a chunk."""
    result = ChunkResult(chunk.file_index, len(chunk.rows))
    rules = CheckRules(settings.faults, settings.handed_phrases, control_tokens(tokenizer), chunk.habits)
    examples: dict[int, Example] = {}
    for row_index, row in enumerate(chunk.rows):
        reading_findings = _reading_findings(row, settings.faults)
        result.findings += reading_findings
        if row.columns is None or any(finding.action in ("dropped", "stops") for finding in reading_findings):
            continue
        result.unused_columns.add_row(row, chunk.mapping)
        marks = [_apply_policy(mark, settings.faults) for mark in find_row_marks(row, chunk.mapping)]
        result.findings += marks[: _fatal_index(marks) + 1]
        if _fatal_index(marks) < len(marks):
            continue
        checked = _checked_example(row, chunk.mapping, settings, rules, tokenizer)
        result.findings += checked.findings
        if checked.example is not None:
            examples[row_index] = checked.example
    rendered = render_batch(list(examples.values()), tokenizer, settings.max_tokens)
    for (row_index, example), replies in zip(examples.items(), rendered, strict=True):
        result.lengths += map(lengths_by_kind, replies or ())
        fitting = None if replies is None else (example, replies)
        if replies is None or max(map(len, replies)) > settings.max_tokens:
            fitting, finding = _handle_too_long(example, replies, settings, tokenizer)
            result.findings.append(finding)
        written = [*(replies or ()), *(fitting[1] if fitting else ())]
        result.max_token_id = max(result.max_token_id, *(int(reply.ids.max()) for reply in written), 0)
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
    unchecked = to_example(row, mapping)
    # A row is no shorter in its file, so only of a long one need the characters be counted.
    if isinstance(unchecked, UncheckedExample) and row.size > settings.max_tokens:
        trained = apply_silent_share(unchecked.example, settings.silent_share, settings.seed)
        unchecked = _find_too_long(trained, settings, tokenizer) or unchecked
    if isinstance(unchecked, Finding):
        return CheckedExample(None, (_apply_policy(unchecked, settings.faults),))
    checked = check_example(unchecked.example, unchecked.field_names, rules)
    if checked.example is None:
        return checked
    example = apply_silent_share(checked.example, settings.silent_share, settings.seed)
    turns = with_default_system_prompt(example.turns, settings.system)
    return CheckedExample(replace(example, turns=turns), checked.findings)


def _find_too_long(example: Example, settings: DataConfig, tokenizer: ChatTokenizer) -> Finding | None:
    """Return a finding for an example that is surely too long, before it is checked, rendered and tokenized.

    One that may be trimmed is left for later.
    """
    if settings.faults["too_long"] == "trim-reasoning":
        return None
    characters = longest = last = 0  # of the contents so far; of the longest reply with those before it; its place
    for place, turn in enumerate(example.turns):
        characters += len(turn.content.strip())
        size = characters + (len(turn.reasoning.strip()) if turn.thinks else 0)
        if turn.role == "assistant" and turn.trained and size > longest:
            longest, last = size, place
    if longest <= max_characters(settings.max_tokens, tokenizer):
        return None
    reply = example.turns[last]
    text = "".join(turn.content.strip() for turn in example.turns[: last + 1])
    text += reply.reasoning.strip() if reply.thinks else ""
    if not exceeds_tokens(text, settings.max_tokens, tokenizer):
        return None
    return Finding("too_long", f"{example.source}: {_describe_characters(longest, settings.max_tokens)}")


def _describe_characters(characters: int, max_tokens: int) -> str:
    return f"{characters:,} characters, more than data.max_tokens {max_tokens} can hold"


def _apply_policy(finding: Finding, policies: dict[str, str]) -> Finding:
    """Set the action that the fault's policy asks for; under `repair`, reading has set it already."""
    policy = policies[finding.fault]
    return finding if policy == "repair" else replace(finding, action=ACTION_OF_POLICY[policy])


def _handle_too_long(
    example: Example, replies: list[Rendered] | None, settings: DataConfig, tokenizer: ChatTokenizer
) -> tuple[tuple[Example, list[Rendered]] | None, Finding]:
    """Trim an example with a reply over `max_tokens`, where the policy says so and it can be; None drops it.

    `replies` are None where they were too long to be tokenized.
    """
    limit, policy = settings.max_tokens, settings.faults["too_long"]
    trimmed = trim_reasoning(example, tokenizer, limit) if policy == "trim-reasoning" else None
    action: Action = "trimmed" if trimmed else "stops" if policy == "stop" else "dropped"
    note = ""
    if trimmed:
        note = f"; {max(map(len, trimmed[1]))} after sentences were cut from the middle of the reasoning"
    elif policy == "trim-reasoning":
        note = ", and too few of them are reasoning that could be trimmed"
    if replies is None:
        what = _describe_characters(sum(len(turn.content) + len(turn.reasoning) for turn in example.turns), limit)
    else:
        what = f"{max(map(len, replies))} tokens, more than data.max_tokens {limit}"
    return trimmed, Finding("too_long", f"{example.source}: {what}{note}", action)


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
        is_silent=not any(turn.thinks for turn in example.turns if turn.role == "assistant" and turn.trained),
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
                "a worker process died, most likely because memory ran out; free some and start again"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def usable_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
