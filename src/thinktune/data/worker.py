"""A chunk of raw rows to tokens: what every process does by itself, before rows are held against each other."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from typing import Any, TypeVar

import numpy as np

from thinktune.config import DataConfig
from thinktune.data.chat_template import Rendered, TokenKind, control_tokens, render_batch, trim_reasoning
from thinktune.data.checks import check_example
from thinktune.data.columns import ColumnMapping, count_unused_columns, to_example
from thinktune.data.dataset import example_to_json
from thinktune.data.duplicates import Fingerprint, fingerprint, question_text
from thinktune.data.messages import with_default_system_prompt
from thinktune.data.split import hash_fraction
from thinktune.data.types import ACTION_OF_POLICY, Action, Example, Finding, RawRow
from thinktune.errors import UserError


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """A row that became an example: its place in its chunk, its text, its tokens, and what finds its twins."""

    row_index: int
    source: str
    example_json: bytes
    replies: list[Rendered]
    fingerprint: Fingerprint
    hash_fraction: float
    has_own_system: bool


@dataclass(slots=True)
class ChunkResult:
    """What became of a chunk: its examples, all findings in order, unused columns, and every reply's lengths."""

    file_index: int
    row_count: int
    max_token_id: int = 0
    examples: list[TokenizedExample] = field(default_factory=list[TokenizedExample])
    findings: list[Finding] = field(default_factory=list[Finding])
    unused_columns: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    lengths: list[tuple[int, int, int, int]] = field(default_factory=list[tuple[int, int, int, int]])


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of one file (its number), one after another, and what its columns mean."""

    file_index: int
    rows: Sequence[RawRow]
    mapping: ColumnMapping


def process_chunk(chunk: Chunk, settings: DataConfig, tokenizer: Any) -> ChunkResult:
    """Examples with their tokens, or findings, for every row of a chunk."""
    made = ChunkResult(chunk.file_index, len(chunk.rows))
    controls = control_tokens(tokenizer)
    examples: dict[int, Example] = {}
    for place, row in enumerate(chunk.rows):
        example = _checked_example(row, chunk.mapping, settings, controls, made)
        if example:
            examples[place] = example
    rendered = render_batch(list(examples.values()), tokenizer)
    for (place, example), replies in zip(examples.items(), rendered, strict=True):
        made.lengths += map(lengths_by_kind, replies)
        made.max_token_id = max(made.max_token_id, *(int(reply.ids.max()) for reply in replies))
        fitting = _enforce_max_tokens(example, replies, settings, tokenizer, made)
        if fitting:
            made.examples.append(_tokenized_example(place, *fitting, settings))
    return made


def lengths_by_kind(reply: Rendered) -> tuple[int, int, int, int]:
    """Tokens of a reply's prompt, reasoning, answer, and of the whole."""
    counts = np.bincount(reply.kinds, minlength=len(TokenKind))
    return int(np.argmax(reply.kinds > 0)), int(counts[TokenKind.REASONING]), int(counts[TokenKind.ANSWER]), len(reply)


def _checked_example(
    row: RawRow, mapping: ColumnMapping, settings: DataConfig, controls: Sequence[str], result: ChunkResult
) -> Example | None:
    policies = settings.faults
    for finding in row.findings:
        result.findings.append(_apply_policy(finding, policies))
        if result.findings[-1].action in ("dropped", "stops"):
            return None
    if row.columns is None:
        return None
    count_unused_columns(row, mapping, result.unused_columns)
    drafted = to_example(row, mapping)
    if isinstance(drafted, Finding):
        result.findings.append(_apply_policy(drafted, policies))
        return None
    judged = check_example(drafted.example, drafted.field_names, policies, settings.handed_phrases, controls)
    result.findings += judged.findings
    if judged.example is None:
        return None
    return replace(judged.example, turns=with_default_system_prompt(judged.example.turns, settings.system))


def _apply_policy(finding: Finding, policies: dict[str, str]) -> Finding:
    """The finding with the action that its policy asks for; whether a repair was sure is known since the reading."""
    policy = policies[finding.fault]
    return finding if policy == "repair" else replace(finding, action=ACTION_OF_POLICY[policy])


def _enforce_max_tokens(
    example: Example, replies: list[Rendered], settings: DataConfig, tokenizer: Any, result: ChunkResult
) -> tuple[Example, list[Rendered]] | None:
    longest, limit = max(map(len, replies)), settings.max_tokens
    if longest <= limit:
        return example, replies
    policy = settings.faults["too_long"]
    trimmed = trim_reasoning(example, tokenizer, limit) if policy == "trim-reasoning" else None
    action: Action = "trimmed" if trimmed else "stops" if policy == "stop" else "dropped"
    told = ""
    if trimmed:
        told = f"; {max(map(len, trimmed[1]))} without some sentences of the reasoning's middle"
    elif policy == "trim-reasoning":
        told = ", and too many of them are no reasoning that could be trimmed"
    sentence = f"{example.source}: {longest} tokens, more than data.max_tokens {limit}{told}"
    result.findings.append(Finding("too_long", sentence, action))
    return trimmed


def _tokenized_example(
    row_index: int, example: Example, replies: list[Rendered], settings: DataConfig
) -> TokenizedExample:
    first = example.turns[0]
    own_system = bool(settings.system) and first.role == "system" and first.content != settings.system
    return TokenizedExample(
        row_index,
        example.source,
        example_to_json(example),
        replies,
        fingerprint(example),
        hash_fraction(question_text(example), settings.seed),
        own_system,
    )


_worker_args: tuple[DataConfig, Any] | None = None


def init_worker(settings: DataConfig, tokenizer: Any) -> None:
    """Called once in every worker process: what `process_chunk_in_worker` needs for each chunk."""
    global _worker_args
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # every core has a process already
    _worker_args = settings, tokenizer


def process_chunk_in_worker(chunk: Chunk) -> ChunkResult:
    """`process_chunk`, in a worker process."""
    assert _worker_args is not None
    return process_chunk(chunk, *_worker_args)


ItemT = TypeVar("ItemT")


ResultT = TypeVar("ResultT")


MAX_PROCESSES = 16  # one process reads the rows for all of them, and keeps about so many busy


CHUNKS_PER_PROCESS = 3  # waiting or at work


def map_in_processes(
    function: Callable[[ItemT], ResultT],
    items: Iterable[ItemT],
    initializer: Callable[..., None],
    initargs: tuple[Any, ...],
) -> Iterator[ResultT]:
    """`function` of every chunk, in order, by processes that have each called `initializer` with the context.

    An error of a chunk is raised where its turn is. Raises UserError where a process dies.
    """
    # Processes are forked from a clean server: a fork of this one would take over the locks of torch's threads.
    method = "forkserver" if sys.platform == "linux" else "spawn"
    processes = get_context(method)
    if method == "forkserver":
        processes.set_forkserver_preload(["transformers.tokenization_utils_tokenizers", initializer.__module__])
    count = min(usable_cores(), MAX_PROCESSES)
    with ProcessPoolExecutor(count, processes, initializer, initargs) as pool:
        waiting: deque[Future[ResultT]] = deque()
        try:
            for chunk in items:
                waiting.append(pool.submit(function, chunk))
                if len(waiting) > count * CHUNKS_PER_PROCESS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died, most likely for want of memory; free some and start again"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
