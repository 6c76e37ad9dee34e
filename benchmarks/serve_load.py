"""Load test of `thinktune serve`, with many clients of every API at once: errors, mixed-up replies, memory, tokens/s.

    python benchmarks/serve_load.py --streams 32 --seconds 120 --requests 5000
    python benchmarks/serve_load.py --model runs/demo/expert   # a model other than the small random one

The server runs in a process of its own, on loopback. First each kind of request (`load_kinds.py`) is asked each
question alone, greedily; then `--streams` clients ask for `--seconds` seconds, and until `--requests` replies have
come, each its next request as soon as the last is answered. A reply that differs in any character from the one given
alone is mixed up; an incomplete one is an error. One streamed request in sixteen is left in the middle, as people do.
The server's memory is read each half second: it is flat if between the second fifth of the replies and the last it grew
by at most `--growth-mib`. Exits with code 1 if anything was wrong.
"""

import argparse
import json
import multiprocessing
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from load_kinds import SAME_REPLY, Kind, Reply, check_form, events_of, kinds_here

SUBJECTS = ["heart", "lung", "eye", "ear", "心脏", "肺", "眼睛", "耳朵"]
QUESTIONS = [f"{subject} {number}?" for subject in SUBJECTS for number in range(2)]
LEAVES_ONE_IN = 16
MEMORY_SECONDS = 0.5  # between two readings
MAX_ERRORS = 1000  # more say nothing new, and a server that is gone would be asked for ever


@dataclass
class Tally:
    """Results of the clients, written by all of them under one lock."""

    replies: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    left: int = 0
    errors: list[str] = field(default_factory=list)
    mixed_up: list[str] = field(default_factory=list)
    first_seconds: list[float] = field(default_factory=list)
    memory: list[tuple[int, float]] = field(default_factory=list)  # (replies so far, MiB)
    lock: Any = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Load:
    """How long, and how many clients ask what, of which server."""

    address: str
    process: int | None
    streams: int
    seconds: float
    requests: int
    tokens: int


def serve_in_process(folder: Path, threads: int, address: Any) -> None:
    import torch

    from thinktune.serve import find_models, serve

    torch.set_num_threads(threads)

    def say(line: str) -> None:
        if line.startswith("page: "):
            address.put(line.split()[1].rstrip("/"))

    serve(find_models(folder, None, None, "here", say), "127.0.0.1", 0, say)


def make_small(folder: Path) -> None:
    """Write a random Qwen3 of the tests' size, with weights too large for rounding to choose its tokens."""
    import torch

    from thinktune.demo.tiny_model import ModelShape, make_model, make_tokenizer

    tokenizer = make_tokenizer(QUESTIONS * 3, 400)
    model = make_model(tokenizer, ModelShape())
    torch.manual_seed(3)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def ask(client: httpx.Client, kind: Kind, question: str, tokens: int, leave: bool = False) -> tuple[Reply, float]:
    """Ask for a reply; return it, and the seconds to its first piece."""
    started, first, reply = time.monotonic(), 0.0, Reply()
    with client.stream("POST", kind.path, json=kind.body(question, tokens)) as response:
        if response.status_code != 200:
            raise RuntimeError(f"{response.status_code} {response.read()!r}")
        for event in events_of(response.iter_lines()):
            kind.read(event, reply)
            first = first or (time.monotonic() - started if reply.parts else 0.0)
            if leave and first:
                return reply, first
    if not reply.is_whole:
        raise RuntimeError("the reply ended early")
    if kind.name == "schema":
        check_form(reply)
    return reply, first


def keep_asking(load: Load, alone: dict[tuple[str, str], str], tally: Tally, until: float, number: int) -> None:
    generator, kinds = random.Random(number), kinds_here()
    with httpx.Client(base_url=load.address, timeout=120) as client:
        while time.monotonic() < until or tally.replies.total() < load.requests:
            kind, question = generator.choice(kinds), generator.choice(QUESTIONS)
            leave = kind.is_stream and generator.randrange(LEAVES_ONE_IN) == 0
            try:
                reply, first = ask(client, kind, question, load.tokens, leave)
            except Exception as error:  # any error that a client meets is a result
                with tally.lock:
                    tally.errors.append(f"{kind.name}: {type(error).__name__}: {error}")
                if len(tally.errors) > MAX_ERRORS:
                    return
                continue
            with tally.lock:
                tally.first_seconds.append(first)
                tally.left += leave
                if not leave:
                    tally.replies[kind.name] += 1
                    tally.tokens += reply.tokens
                    if reply.text != alone[kind.name, question]:
                        tally.mixed_up.append(f"{kind.name}: {question}")


def watch_memory(process: int | None, tally: Tally, done: threading.Event) -> None:
    """Read how much memory a process holds, until `done`; where there is no /proc, nothing is read."""
    status = Path(f"/proc/{process}/status")
    while process is not None and not done.wait(MEMORY_SECONDS) and status.exists():
        resident = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
        tally.memory.append((tally.replies.total(), int(resident.split()[1]) / 1024))


def describe_memory(readings: list[tuple[int, float]]) -> dict[str, Any]:
    """Return the medians of the second and the last fifth of the replies, and what lies between them, in MiB."""
    total = readings[-1][0] if readings else 0
    fifths = [
        [mib for count, mib in readings if total * low <= count <= total * high] for low, high in ((0.2, 0.4), (0.8, 1))
    ]
    if not all(fifths) or total == 0:
        return {"memory_mib": None, "memory_growth_mib": None}
    early, late = (statistics.median(fifth) for fifth in fifths)
    return {
        "memory_mib": {"second_fifth": round(early, 1), "last_fifth": round(late, 1)},
        "memory_growth_mib": round(late - early, 1),
    }


def ask_alone(load: Load) -> tuple[dict[tuple[str, str], str], float]:
    """Ask each kind of request each question, one at a time; return the replies' texts, and tokens/s."""
    with httpx.Client(base_url=load.address, timeout=120) as client:
        for kind in kinds_here():
            ask(client, kind, QUESTIONS[0], load.tokens)
        started = time.monotonic()
        replies = {
            (kind.name, question): ask(client, kind, question, load.tokens)[0]
            for kind in kinds_here()
            for question in QUESTIONS
        }
        seconds = time.monotonic() - started
    speed = sum(reply.tokens for reply in replies.values()) / seconds
    return {asked: reply.text for asked, reply in replies.items()}, speed


def measure(load: Load) -> dict[str, Any]:
    """Ask one question at a time, then all at once."""
    alone, alone_speed = ask_alone(load)
    unequal = [question for question in QUESTIONS if len({alone[name, question] for name in SAME_REPLY}) > 1]
    tally, done, started = Tally(), threading.Event(), time.monotonic()
    watcher = threading.Thread(target=watch_memory, args=(load.process, tally, done))
    clients = [
        threading.Thread(target=keep_asking, args=(load, alone, tally, started + load.seconds, number))
        for number in range(load.streams)
    ]
    for thread in (watcher, *clients):
        thread.start()
    for client in clients:
        client.join()
    done.set()
    watcher.join()
    elapsed = time.monotonic() - started
    return {
        "streams": load.streams,
        "seconds": round(elapsed, 1),
        "replies": tally.replies.total(),
        "replies_by_kind": dict(sorted(tally.replies.items())),
        "left_in_the_middle": tally.left,
        "errors": len(tally.errors),
        "first_errors": tally.errors[:3],
        "mixed_up": len(tally.mixed_up),
        "first_mixed_up": tally.mixed_up[:3],
        "different_replies": len(set(alone.values())),
        "questions_answered_otherwise_by_some_api": len(unequal),
        "tokens_per_second_alone": round(alone_speed, 1),
        "tokens_per_second_under_load": round(tally.tokens / elapsed, 1),
        "ratio": round(tally.tokens / elapsed / alone_speed, 2),
        "median_seconds_to_first_piece": round(statistics.median(tally.first_seconds or [0]), 3),
        **describe_memory(tally.memory),
    }


def main() -> None:
    """Serve, measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a run's or a model's folder; without it, a small model is made")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--requests", type=int, default=5000, help="replies at least, however long they take")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a reply at most")
    parser.add_argument("--growth-mib", type=float, default=16, help="growth of memory that counts as none")
    # With more threads than idle cores, each small operation waits for a thread that has no core: 50 times as slow.
    parser.add_argument("--threads", type=int, default=1, help="threads of the server's arithmetic")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as made:
        if options.model is None:
            make_small(Path(made))
        addresses: Any = context.Queue()
        server = context.Process(
            target=serve_in_process, args=(options.model or Path(made), options.threads, addresses), daemon=True
        )
        server.start()
        try:
            address = addresses.get(timeout=300)
            load = Load(address, server.pid, options.streams, options.seconds, options.requests, options.tokens)
            found = measure(load)
        finally:
            server.terminate()
            server.join(30)
    print(json.dumps(found, ensure_ascii=False, indent=2))
    grown = (found["memory_growth_mib"] or 0) > options.growth_mib
    wrong = found["errors"] or found["mixed_up"] or found["questions_answered_otherwise_by_some_api"] or grown
    if wrong or not found["replies"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
