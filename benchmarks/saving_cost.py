"""What saving costs of a run: seconds of a save and its parts, and the time that training waits for it.

`python benchmarks/saving_cost.py --hidden 512 --layers 8 --rounds 3`; a small Qwen3 made on the spot, on this machine's
device, one process a round. Evaluation and save overlap as in a run, so the share depends on both, and on the steps
between two evaluations: all are told.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from thinktune.checkpoint import saving, store
from thinktune.config import loading as recipe
from thinktune.demo.tiny_model import ModelShape, make_model, make_tokenizer
from thinktune.train import loop, metrics


def make_recipe(folder: Path, size: ModelShape, chosen: argparse.Namespace) -> recipe.Recipe:
    """Rows, a model and a recipe in a folder."""
    text = "The heart pumps blood through the body, and the lungs give it air. "
    rows = [{"question": f"{n}? {text}", "think": text * 4, "answer": text * 2} for n in range(chosen.rows)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = make_tokenizer([text], 400)
    make_model(tokenizer, size).save_pretrained(folder / "start")
    tokenizer.save_pretrained(folder / "start")
    faults = dict.fromkeys(("duplicate", "near_duplicate", "leak"), "keep")  # the rows are all alike
    tree = {
        "name": "saving",
        "runs_folder": str(folder / "runs"),
        "model": {"name": str(folder / "start")},
        "data": {"name": str(folder / "rows.jsonl"), "validation": 0.2, "faults": faults},
        "train": {"rows_per_step": 4, "epochs": 1, "evaluate_every_steps": chosen.steps, "memory": chosen.memory},
        "generate": {"sample_questions": 0},
    }
    return recipe.validate_recipe(tree, "here")


def timed(taken: dict[str, float], holder: object, name: str) -> None:
    """Add up the seconds that a function takes."""
    real = getattr(holder, name)

    def calling(*given, **options):
        begun = time.monotonic()
        try:
            return real(*given, **options)
        finally:
            taken[name] = taken.get(name, 0.0) + time.monotonic() - begun

    setattr(holder, name, calling)


def measure(chosen: argparse.Namespace) -> dict[str, float]:
    """One run: seconds in all, in saves, in their parts, in evaluations, and those that training waited."""
    with tempfile.TemporaryDirectory(dir=chosen.folder) as place:
        os.environ["THINKTUNE_CACHE"] = f"{place}/cache"
        size = ModelShape(hidden_size=chosen.hidden, num_layers=chosen.layers, intermediate_size=3 * chosen.hidden)
        settings = make_recipe(Path(place), size, chosen)
        taken: dict[str, float] = {}
        for holder, name in (
            (saving, "save"),
            (saving, "write_manifest"),
            (saving, "fsync_tree"),
            (metrics, "evaluate_held_out"),
        ):
            timed(taken, holder, name)
        timed(taken, loop, "_train")
        said: list[str] = []
        run = loop.train(settings, said.append)
        last = store.find_checkpoint(run, "last")
        assert last
        waited = next(line for line in said if line.startswith("training waited"))
        saved = sum(path.stat().st_size for path in last.folder.iterdir())
        return taken | {"mib": saved / 2**20, "waited": float(waited.split()[2])}


def main() -> None:
    """Medians over rounds, as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--memory", default="auto")
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=1)
    chosen = parser.parse_args()
    if chosen.rounds == 1:
        torch.set_num_threads(1)
        print(json.dumps({key: round(value, 3) for key, value in measure(chosen).items()}))
        return
    import subprocess
    import sys

    command = [sys.executable, *sys.argv, "--rounds", "1"]
    rounds = [
        json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        for _ in range(chosen.rounds)
    ]
    print(json.dumps({key: median(each[key] for each in rounds) for key in rounds[0]}))


if __name__ == "__main__":
    main()
