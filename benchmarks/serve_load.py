"""Many streams at once against `thinktune serve`'s own server: errors, mixed-up replies, and tokens/s.

    python benchmarks/serve_load.py --streams 32 --seconds 120
    python benchmarks/serve_load.py --model runs/demo/expert   # another model than the small random one

The server runs in a process of its own, on loopback. First all questions are answered alone, greedily, in turn;
then so many clients ask for so many seconds, each its next question as soon as the last is answered. A reply
that differs from the one given alone in a character is counted as mixed up; whatever is no whole stream is an error.
One client in sixteen leaves in the middle of its reply, as people do. It ends by itself, with exit code 1 if anything
was wrong.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

SUBJECTS = ["heart", "lung", "eye", "ear", "心脏", "肺", "眼睛", "耳朵"]
QUESTIONS = [f"{subject} {number}?" for subject in SUBJECTS for number in range(8)]
LEAVES_ONE_IN = 16


@dataclass
class Tally:
    """What the clients met, written by all of them under one lock."""

    replies: int = 0
    tokens: int = 0
    left: int = 0
    errors: list[str] = field(default_factory=list)
    mixed_up: list[str] = field(default_factory=list)
    first_seconds: list[float] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)


def serve_in_process(folder: Path, port: Any) -> None:
    import torch

    from thinktune.serve import find_models, serve

    torch.set_num_threads(2)

    def say(line: str) -> None:
        if line.startswith("page: "):
            port.put(line.split()[1].rstrip("/"))

    serve(find_models(folder, None, None, "here", say), "127.0.0.1", 0, say)


def make_small(folder: Path) -> None:
    """A random Qwen3 of the tests' size, decided enough that rounding does not choose its tokens."""
    import torch

    from thinktune.demo.tiny_model import ModelShape, make_model, make_tokenizer

    tokenizer = make_tokenizer(QUESTIONS * 3, 400)
    model = make_model(tokenizer, ModelShape())
    torch.manual_seed(3)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def ask(client: httpx.Client, question: str, tokens: int, leave: bool = False) -> tuple[str, int, float]:
    """The whole text of a streamed reply, its tokens, and the seconds to its first piece."""
    body = {
        "messages": [{"role": "user", "content": question}],
        "stream": True,
        "stream_options": {"include_usage": True, "allow_moved": True},
        "temperature": 0,
        "max_tokens": tokens,
    }
    begun, first, text, used, done = time.monotonic(), 0.0, "", 0, False
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise RuntimeError(f"{response.status_code} {response.read()!r}")
        for line in response.iter_lines():
            if line == "data: [DONE]":
                done = True
            elif line:
                event = json.loads(line.removeprefix("data: "))
                used = event.get("usage", {}).get("completion_tokens", used)
                for choice in event["choices"]:
                    first = first or time.monotonic() - begun
                    text += json.dumps(choice["delta"], ensure_ascii=False)
                if leave and first:
                    return text, 0, first
    if not done or not used:
        raise RuntimeError("the stream ended early")
    return _joined(text), used, first


def _joined(text: str) -> str:
    """The deltas' texts in their order; how they were cut into pieces does not count."""
    decoder, at, said = json.JSONDecoder(), 0, {"reasoning": "", "content": ""}
    while at < len(text):
        delta, at = decoder.raw_decode(text, at)
        if delta.get("moved"):
            said = {"reasoning": said["content"], "content": ""}
        for place in said:
            said[place] += delta.get(place) or ""
    return json.dumps(said, ensure_ascii=False)


def keep_asking(address: str, alone: dict[str, str], tally: Tally, until: float, tokens: int, number: int) -> None:
    draw = random.Random(number)
    with httpx.Client(base_url=address, timeout=120) as client:
        while time.monotonic() < until:
            question, leave = draw.choice(QUESTIONS), draw.randrange(LEAVES_ONE_IN) == 0
            try:
                text, used, first = ask(client, question, tokens, leave)
            except Exception as error:  # whatever a client meets is what this looks for
                with tally.lock:
                    tally.errors.append(f"{type(error).__name__}: {error}")
                continue
            with tally.lock:
                tally.first_seconds.append(first)
                tally.left += leave
                tally.replies += not leave
                tally.tokens += used
                if not leave and text != alone[question]:
                    tally.mixed_up.append(question)


def measure(address: str, streams: int, seconds: float, tokens: int) -> dict[str, Any]:
    """Alone first, then all at once."""
    with httpx.Client(base_url=address, timeout=120) as client:
        ask(client, QUESTIONS[0], tokens)
        begun = time.monotonic()
        answers = {question: ask(client, question, tokens) for question in QUESTIONS}
        alone_seconds = time.monotonic() - begun
    alone_speed = sum(used for _, used, _ in answers.values()) / alone_seconds
    alone = {question: text for question, (text, _, _) in answers.items()}
    tally, begun = Tally(), time.monotonic()
    clients = [
        threading.Thread(target=keep_asking, args=(address, alone, tally, begun + seconds, tokens, number))
        for number in range(streams)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    elapsed = time.monotonic() - begun
    return {
        "streams": streams,
        "seconds": round(elapsed, 1),
        "replies": tally.replies,
        "left_in_the_middle": tally.left,
        "errors": len(tally.errors),
        "first_errors": tally.errors[:3],
        "mixed_up": len(tally.mixed_up),
        "different_replies": len(set(alone.values())),
        "tokens_per_second_alone": round(alone_speed, 1),
        "tokens_per_second_under_load": round(tally.tokens / elapsed, 1),
        "ratio": round(tally.tokens / elapsed / alone_speed, 2),
        "median_seconds_to_first_piece": round(statistics.median(tally.first_seconds or [0]), 3),
    }


def main() -> None:
    """Serve, measure, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a run's or a model's folder; none makes a small one")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--tokens", type=int, default=64, help="the longest reply")
    asked = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as made:
        if asked.model is None:
            make_small(Path(made))
        addresses: Any = context.Queue()
        server = context.Process(target=serve_in_process, args=(asked.model or Path(made), addresses), daemon=True)
        server.start()
        try:
            found = measure(addresses.get(timeout=300), asked.streams, asked.seconds, asked.tokens)
        finally:
            server.terminate()
            server.join(30)
    print(json.dumps(found, ensure_ascii=False, indent=2))
    if found["errors"] or found["mixed_up"] or not found["replies"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
