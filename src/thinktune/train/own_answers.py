"""Own answers made before a run: the base writes them once, each on the disk when it ends, then they are an entry."""

import gc
import os
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from thinktune import cache
from thinktune.config import Recipe
from thinktune.data import prepare
from thinktune.data.own_answers.entry import (
    ANSWERS_FILE,
    OwnAnswers,
    find_own_answers,
    naming_source,
    read_entry,
    restore_own_answers,
    write_own_answers,
)
from thinktune.data.own_answers.exact import OwnReply, entry_files, read_replies, reply_line
from thinktune.distributed import SINGLE, World
from thinktune.errors import UserError
from thinktune.files import name_path
from thinktune.hub import locate_model
from thinktune.inference import Request
from thinktune.inference.engine import Engine
from thinktune.inference.session import load_engine
from thinktune.progress import ProgressReporter, Say
from thinktune.run import RunFolder
from thinktune.tokenization import ChatTokenizer
from thinktune.train.samples import any_operations, sampling_modes

JOURNAL_FILE, LOCK_FILE = "replies.jsonl", ".lock"
SECONDS_BETWEEN_TRIES = 0.5


def make_own_answers(recipe: Recipe, tokenizer: ChatTokenizer, say: Say, world: World = SINGLE) -> None:
    """Make the own answers of a recipe's sources, where the cache has none; all ranks must call.

    The main rank writes them, on its own device, after the rows of all sources are known to be usable; each machine
    then has the entry. Raises UserError for faults of the rows, and where no reply can be trained.
    """
    numbers = [number for number, source in enumerate(recipe.sources) if source.answers != "rows"]
    for number in numbers:
        files = world.run_on_main(
            lambda number=number: _read_or_make(recipe, number, tokenizer, say, send=world.size > 1)
        )
        if files:
            alone = recipe.of_source(number)
            world.run_on_all(lambda alone=alone, files=files: _write_here(alone, tokenizer, files, world))


def _read_or_make(
    recipe: Recipe, number: int, tokenizer: ChatTokenizer, say: Say, *, send: bool
) -> dict[str, str] | None:
    """Return the files of a source's own answers where other machines may lack them, made where there are none."""
    restore_own_answers(recipe, tokenizer, RunFolder(recipe.run_folder).own_answers)
    alone = recipe.of_source(number)
    with naming_source(recipe, number):
        own = find_own_answers(alone, tokenizer)
    if not own.is_made(say):
        prepare(recipe, tokenizer, say, may_be_bound=True)  # a row's fault is told before the base writes for hours
        with naming_source(recipe, number):
            _make(alone, own, tokenizer, say)
    return read_entry(own) if send else None


def _write_here(alone: Recipe, tokenizer: ChatTokenizer, files: dict[str, str], world: World) -> None:
    """Write an entry that the main rank has, by the first rank of each machine."""
    if world.local_rank == 0:
        write_own_answers(find_own_answers(alone, tokenizer), files)


def _make(recipe: Recipe, own: OwnAnswers, tokenizer: ChatTokenizer, say: Say) -> None:
    """Have the base write what is missing, and make the entry of all; a killed process loses no reply that ended."""
    folder = cache.unfinished_folder(own.entry)
    lock = FileLock(folder / LOCK_FILE)
    _wait_for(lock, say)
    try:
        if not own.is_made():  # by the process that was waited for
            _complete(recipe, own, tokenizer, folder / JOURNAL_FILE, say)
    finally:
        lock.release()
    with suppress(OSError):  # another process may wait for the lock, and removes it then
        for name in (JOURNAL_FILE, LOCK_FILE):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def _complete(recipe: Recipe, own: OwnAnswers, tokenizer: ChatTokenizer, journal: Path, say: Say) -> None:
    """Add what is missing to the journal, and make the entry of its replies."""
    _cut_torn_line(journal)
    known = read_replies(journal.read_text(encoding="utf-8").splitlines()) if journal.is_file() else []
    missing = sorted({number for number, _, _ in own.asked} - {reply.asked for reply in known})
    if missing:
        before = f", {len(known):,} are already saved" if known else ""
        say(f"own answers: the base writes {len(missing):,} replies to {own.questions.count:,} questions{before}")
        try:
            known += _write_replies(recipe, own, missing, journal, say)
        except torch.OutOfMemoryError as error:
            raise UserError(
                "data.answers: this device is too small to write own answers, which needs the whole base in "
                "memory; write them on a larger one with the same THINKTUNE_CACHE, lower expert.batch_rows, or "
                "leave data.answers out"
            ) from error
    files = entry_files(own, known, tokenizer, recipe.model.name)
    if not files[ANSWERS_FILE]:
        raise UserError(
            f"data.answers: none of the {len(known):,} replies of the base can be trained to the token (see "
            f"{journal}); raise data.max_tokens if its replies are long, or leave data.answers out"
        )
    write_own_answers(own, files)


def _write_replies(recipe: Recipe, own: OwnAnswers, missing: Sequence[int], journal: Path, say: Say) -> list[OwnReply]:
    """Have the base write replies, each in the journal when it ends, and return them."""
    source, model = locate_model(recipe), recipe.model
    engine = load_engine(source, trust_remote_code=model.trust_remote_code, template=model.template, say=say)
    device = engine.model.device
    made: list[OwnReply] = []
    try:
        requests = _requests(own, engine, missing)
        progress = ProgressReporter(say, "own answers", len(requests))
        with any_operations(), closing(engine), name_path(journal), journal.open("ab") as file:
            for index, reply, ids in engine.complete_with_ids(requests, recipe.generate.batch_rows):
                made.append(OwnReply(missing[index], tuple(ids), reply.reasoning, reply.answer, reply.finish))
                file.write(reply_line(made[-1]).encode())
                file.flush()
                os.fsync(file.fileno())
                os.utime(journal.parent)  # it is in use
                progress.update(len(made))
    finally:
        del engine  # its memory is the run's from here on
        gc.collect()
        if device.type != "cpu":
            torch.get_device_module(device).empty_cache()
    return made


def _requests(own: OwnAnswers, engine: Engine, numbers: Sequence[int]) -> list[Request]:
    """Return the requests for replies by their numbers, each drawn by a seed of its own where tokens are drawn."""
    rooms = {number: (asked, room) for number, asked, room in own.asked}
    generation, mode = engine.model.generation_config, "own" if own.is_sampled else "greedy"
    if mode not in sampling_modes(generation, 1):
        raise UserError(
            "data.answers: is own-sampled, but the model has no sampling settings of its own (generation_config.json); "
            "write data.answers: own"
        )
    requests: list[Request] = []
    for number in numbers:
        asked, room = rooms[number]
        sampling = replace(sampling_modes(generation, room)[mode], seed=number)
        requests.append(Request(asked.turns, sampling, asked.thinking))
    return requests


def _wait_for(lock: FileLock, say: Say) -> None:
    """Acquire a lock; another process that makes the same answers is waited for."""
    try:
        lock.acquire(timeout=SECONDS_BETWEEN_TRIES)
    except Timeout:
        say("own answers: another process is writing the same ones; waiting for it")
        while True:
            try:
                lock.acquire(blocking=False)
            except Timeout:
                time.sleep(SECONDS_BETWEEN_TRIES)  # not in the lock, so that a signal is heard
            else:
                return


def _cut_torn_line(journal: Path) -> None:
    """Cut off what a kill has left of a line."""
    if journal.is_file():
        content = journal.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(journal, content.rfind(b"\n") + 1)
