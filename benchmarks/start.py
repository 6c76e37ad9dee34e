"""From the command to the first row: CPU seconds, and what was loaded by then, of `check` and of `train`.

    python benchmarks/start.py --tokenizer FOLDER                     # a small Qwen3 with that tokenizer is made
    PYTHONPATH=OLD/src python benchmarks/start.py --tokenizer FOLDER  # of other sources

Each verb runs twice, each time in a process of its own and with other rows, as after a correction: with an empty cache,
then with what the first left. `train` makes one step. CPU seconds are of all threads of the process, user and system.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HEAVY = ("torch", "torch._dynamo", "sympy", "transformers.modeling_utils")
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
ROW = {"question": "What does the heart pump?", "reasoning": "It is a muscle that moves a liquid.", "answer": "Blood."}


def make_model(tokenizer: Path, folder: Path) -> None:
    """Make a folder of a small Qwen3 whose vocabulary is the tokenizer's."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    known = AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(0)
    Qwen3ForCausalLM(Qwen3Config(vocab_size=len(known), intermediate_size=128, **SHAPE)).save_pretrained(folder)
    known.save_pretrained(folder)


def run_verb(verb: str, recipe: Path) -> None:
    """Run a verb, and print what it took until the first row was read, and until the end; in a process of its own."""
    import resource

    found: dict[str, Any] = {}
    from thinktune.data import pipeline
    from thinktune.data.reading import readers

    plain = readers.read_rows

    def read_rows(*arguments: Any, **options: Any) -> Any:
        if not found:
            found["cpu_seconds"] = time.process_time()
            found["loaded"] = [name for name in HEAVY if name in sys.modules]
        return plain(*arguments, **options)

    pipeline.read_rows = read_rows
    sys.argv = ["thinktune", verb, str(recipe)]
    from thinktune.cli import main

    try:
        main()
    except SystemExit as end:
        found["code"] = end.code or 0
    found["whole_cpu_seconds"] = time.process_time()
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(found))


def measure(verb: str, recipe: Path, cache: Path) -> dict[str, Any]:
    """Run a verb in a process of its own."""
    command = [sys.executable, __file__, "--verb", verb, "--recipe", str(recipe)]
    environment = os.environ | {"THINKTUNE_CACHE": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if not done.stdout.strip():
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def measure_all(tokenizer: Path, folder: Path) -> None:
    """Measure both verbs with an empty cache and a warm one."""
    make_model(tokenizer, folder / "model")
    time.sleep(3)  # files that were just written are not trusted to stay the same
    recipe, rows = folder / "recipe.yaml", folder / "rows.jsonl"
    for verb in ("check", "train"):
        for state in ("empty cache", "known model"):
            name = f"{verb}-{state.split()[0]}"
            tree = {"name": name, "model": {"name": str(folder / "model")}, "data": {"name": str(rows)}}
            tree |= {"train": {"rows_per_step": 2, "epochs": 1}, "runs_folder": str(folder / "runs")}
            recipe.write_text(json.dumps(tree), encoding="utf-8")
            made = (ROW | {"question": f"{name} {number}?"} for number in range(3))
            rows.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
            print(f"{verb}, {state}: {json.dumps(measure(verb, recipe, folder / f'cache-{verb}'))}", flush=True)


def main() -> None:
    """Measure, or be the process that is measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, help="a folder with a tokenizer and its chat template")
    parser.add_argument("--verb", help=argparse.SUPPRESS)
    parser.add_argument("--recipe", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.verb:
        run_verb(arguments.verb, arguments.recipe)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure_all(arguments.tokenizer.absolute(), Path(folder))


if __name__ == "__main__":
    main()
