"""Rows to tokens at scale: `check`'s own path against `datasets.map` with the same tokenizer, a process each.

    python benchmarks/check_rows.py --tokenizer FOLDER --rows 50000 100000

Rows are made on the spot: question, reasoning and answer of random sentences, about 800 tokens with Qwen3's tokenizer.
Ours checks, renders, verifies, splits and stores every row; the peer renders and tokenizes prompt and whole, masks the
prompt, and writes its table. Printed: seconds, rows/s, and the peak memory (RSS) of the main process and of a worker.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WORDS = Path(__file__).parent.parent / "src" / "thinktune" / "demo" / "facts.jsonl"
SYSTEM = "你是一个医学专家,你需要根据用户的问题,给出带有思考的回答。"


def make_rows(path: Path, count: int) -> None:
    """Write rows of random Chinese and English sentences; no two questions are equal."""
    generator = random.Random(0)
    facts = [json.loads(line) for line in WORDS.read_text(encoding="utf-8").splitlines()]
    sentences = [fact[part] for fact in facts for part in ("reasoning", "answer")]
    entities = [fact["entity"] for fact in facts]
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            question = "，".join(f"{generator.choice(entities)}{generator.randrange(10**6)}" for _ in range(4))
            reasoning = "\n".join(generator.choices(sentences, k=generator.randint(16, 32)))
            answer = " ".join(generator.choices(sentences, k=generator.randint(6, 14)))
            row = {"question": f"{question}？", "think": f"{number}. {reasoning}", "answer": answer}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def ours(rows: Path, tokenizer_folder: Path) -> dict[str, Any]:
    from thinktune.config.loading import validate_recipe
    from thinktune.data.pipeline import prepare
    from thinktune.tokenization import read_tokenizer

    tree = {
        "model": {"name": str(tokenizer_folder)},
        "data": {"name": str(rows), "system": SYSTEM, "max_tokens": 4096},
        "train": {"rows_per_step": 8},
    }
    tokenizer = read_tokenizer(tokenizer_folder)
    started = time.monotonic()
    prepared = prepare(validate_recipe(tree, "benchmark"), tokenizer, print)
    seconds = time.monotonic() - started
    started = time.monotonic()
    prepare(validate_recipe(tree, "benchmark"), tokenizer, print)
    tokens = prepared.summary["train_tokens"] + int(prepared.validation.lengths.sum())
    again = time.monotonic() - started
    return {
        "seconds": seconds,
        "again_seconds": again,
        "tokens": tokens,
        "lengths": prepared.summary["lengths"]["whole"],
    }


def peer(rows: Path, tokenizer_folder: Path) -> dict[str, Any]:
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)

    def tokenize(row: dict[str, str]) -> dict[str, list[int]]:
        prompt = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": row["question"]}]
        reply = {"role": "assistant", "content": row["answer"], "reasoning_content": row["think"]}
        given = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        whole = tokenizer.apply_chat_template([*prompt, reply], return_dict=False)
        return {"input_ids": whole, "labels": [-100] * len(given) + whole[len(given) :]}

    started = time.monotonic()
    loaded = load_dataset("json", data_files=str(rows), split="train")
    made = loaded.map(tokenize, num_proc=len(os.sched_getaffinity(0)), remove_columns=loaded.column_names)
    seconds = time.monotonic() - started
    return {"seconds": seconds, "rows": len(made)}


def measure(contender: str, rows: Path, tokenizer: Path, folder: Path) -> dict[str, Any]:
    """Run one contender in a process of its own, with caches of its own; return its results and peak memory."""
    caches = {name: str(folder / contender) for name in ("THINKTUNE_CACHE", "HF_HOME")}
    command = [sys.executable, __file__, "--contender", contender, "--tokenizer", str(tokenizer), str(rows)]
    peaks: dict[int, int] = {}
    with (folder / f"{contender}.log").open("w+") as output:
        running = subprocess.Popen(
            command, env=os.environ | caches, stdout=output, stderr=output, start_new_session=True
        )
        while running.poll() is None:
            note_peaks(running.pid, peaks)
            time.sleep(0.5)
        output.seek(0)
        lines = output.read().splitlines()
    if running.returncode:
        raise SystemExit("\n".join(lines[-20:]))
    main = peaks.pop(running.pid)
    return json.loads(lines[-1]) | {"main_memory_mib": main, "largest_worker_mib": max(peaks.values(), default=0)}


def note_peaks(session: int, peaks: dict[int, int]) -> None:
    """Note the peak memory (RSS) of each process of a session, in MiB."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == session:
                status = (folder / "status").read_text()
                [peak] = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
                peaks[int(folder.name)] = int(peak) // 1024
        except (OSError, ValueError):
            continue  # the process has just ended


def main() -> None:
    """Measure both for every number of rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, required=True, help="a folder with a tokenizer and its chat template")
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 100_000])
    parser.add_argument("--contender", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("file", nargs="?", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        result = {"ours": ours, "peer": peer}[arguments.contender](arguments.file, arguments.tokenizer)
        print(json.dumps(result))
        return
    for count in arguments.rows:
        with tempfile.TemporaryDirectory() as folder:
            rows = Path(folder) / "rows.jsonl"
            make_rows(rows, count)
            results = {name: measure(name, rows, arguments.tokenizer, Path(folder)) for name in ("ours", "peer")}
            for name, result in results.items():
                print(f"{count:,} rows {name}: {count / result['seconds']:,.0f} rows/s, {json.dumps(result)}")
            print(f"datasets.map takes {results['peer']['seconds'] / results['ours']['seconds']:.2f} x the time")


if __name__ == "__main__":
    main()
