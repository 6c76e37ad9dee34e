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

from thinktune.config.schema import Data
from thinktune.data.chat_template import Part, Rendered, control_tokens, render_all, trim
from thinktune.data.checks import judge
from thinktune.data.columns import Layout, count_columns, to_example
from thinktune.data.dataset import write_example
from thinktune.data.duplicates import Keys, keys, question_text
from thinktune.data.messages import with_general_system
from thinktune.data.split import hash_share
from thinktune.data.types import ACTIONS, Action, Example, Finding, RawRow
from thinktune.errors import UserError


@dataclass(frozen=True, slots=True)
class Kept:
    """A row that became an example: its place in its chunk, its text, its tokens, and what finds its twins."""

    place: int
    source: str
    text: bytes
    replies: list[Rendered]
    keys: Keys
    share: float
    own_system: bool


@dataclass(slots=True)
class Made:
    """What became of a chunk: its examples, all findings in order, unused columns, and every reply's lengths."""

    file: int
    rows: int
    largest_token: int = 0
    kept: list[Kept] = field(default_factory=list[Kept])
    findings: list[Finding] = field(default_factory=list[Finding])
    columns: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    lengths: list[tuple[int, int, int, int]] = field(default_factory=list[tuple[int, int, int, int]])


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of one file (its number), one after another, and what its columns mean."""

    file: int
    rows: Sequence[RawRow]
    layout: Layout


def work(chunk: Chunk, settings: Data, tokenizer: Any) -> Made:
    """Examples with their tokens, or findings, for every row of a chunk."""
    made = Made(chunk.file, len(chunk.rows))
    controls = control_tokens(tokenizer)
    examples: dict[int, Example] = {}
    for place, row in enumerate(chunk.rows):
        example = _example(row, chunk.layout, settings, controls, made)
        if example:
            examples[place] = example
    rendered = render_all(list(examples.values()), tokenizer)
    for (place, example), replies in zip(examples.items(), rendered, strict=True):
        made.lengths += map(lengths_of, replies)
        made.largest_token = max(made.largest_token, *(int(reply.ids.max()) for reply in replies))
        fitting = _fit(example, replies, settings, tokenizer, made)
        if fitting:
            made.kept.append(_kept(place, *fitting, settings))
    return made


def lengths_of(reply: Rendered) -> tuple[int, int, int, int]:
    """Tokens of a reply's prompt, reasoning, answer, and of the whole."""
    counts = np.bincount(reply.parts, minlength=len(Part))
    return int(np.argmax(reply.parts > 0)), int(counts[Part.REASONING]), int(counts[Part.ANSWER]), len(reply)


def _example(row: RawRow, layout: Layout, settings: Data, controls: Sequence[str], made: Made) -> Example | None:
    policies = settings.faults
    for finding in row.findings:
        made.findings.append(_under(finding, policies))
        if made.findings[-1].action in ("dropped", "stops"):
            return None
    if row.columns is None:
        return None
    count_columns(row, layout, made.columns)
    drafted = to_example(row, layout)
    if isinstance(drafted, Finding):
        made.findings.append(_under(drafted, policies))
        return None
    judged = judge(drafted.example, drafted.places, policies, settings.handed_phrases, controls)
    made.findings += judged.findings
    if judged.example is None:
        return None
    return replace(judged.example, turns=with_general_system(judged.example.turns, settings.system))


def _under(finding: Finding, policies: dict[str, str]) -> Finding:
    """The finding with the action that its policy asks for; whether a repair was sure is known since the reading."""
    policy = policies[finding.fault]
    return finding if policy == "repair" else replace(finding, action=ACTIONS[policy])


def _fit(
    example: Example, replies: list[Rendered], settings: Data, tokenizer: Any, made: Made
) -> tuple[Example, list[Rendered]] | None:
    longest, limit = max(map(len, replies)), settings.max_tokens
    if longest <= limit:
        return example, replies
    policy = settings.faults["too_long"]
    trimmed = trim(example, tokenizer, limit) if policy == "trim-reasoning" else None
    action: Action = "trimmed" if trimmed else "stops" if policy == "stop" else "dropped"
    told = ""
    if trimmed:
        told = f"; {max(map(len, trimmed[1]))} without some sentences of the reasoning's middle"
    elif policy == "trim-reasoning":
        told = ", and too many of them are no reasoning that could be trimmed"
    sentence = f"{example.source}: {longest} tokens, more than data.max_tokens {limit}{told}"
    made.findings.append(Finding("too_long", sentence, action))
    return trimmed


def _kept(place: int, example: Example, replies: list[Rendered], settings: Data) -> Kept:
    first = example.turns[0]
    own_system = bool(settings.system) and first.role == "system" and first.content != settings.system
    return Kept(
        place,
        example.source,
        write_example(example),
        replies,
        keys(example),
        hash_share(question_text(example), settings.seed),
        own_system,
    )


_context: tuple[Data, Any] | None = None


def begin(settings: Data, tokenizer: Any) -> None:
    """Called once in every worker process: what `work_there` needs for each chunk."""
    global _context
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # every core has a process already
    _context = settings, tokenizer


def work_there(chunk: Chunk) -> Made:
    """`work`, in a worker process."""
    assert _context is not None
    return work(chunk, *_context)


Given = TypeVar("Given")


Result = TypeVar("Result")


MOST_PROCESSES = 16  # one process reads the rows for all of them, and keeps about so many busy


CHUNKS_PER_PROCESS = 3  # waiting or at work


def spread(
    function: Callable[[Given], Result], chunks: Iterable[Given], begin: Callable[..., None], context: tuple[Any, ...]
) -> Iterator[Result]:
    """`function` of every chunk, in order, by processes that have each called `begin` with the context.

    An error of a chunk is raised where its turn is. Raises UserError where a process dies.
    """
    # Processes are forked from a clean server: a fork of this one would take over the locks of torch's threads.
    method = "forkserver" if sys.platform == "linux" else "spawn"
    processes = get_context(method)
    if method == "forkserver":
        processes.set_forkserver_preload(["transformers.tokenization_utils_tokenizers", begin.__module__])
    count = min(cores(), MOST_PROCESSES)
    with ProcessPoolExecutor(count, processes, begin, context) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for chunk in chunks:
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


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
