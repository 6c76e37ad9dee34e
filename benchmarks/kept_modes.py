"""Whether tuning keeps the switch for thinking: on thinking rows alone, and with a share of silent rows.

`python benchmarks/kept_modes.py --shares 0 0.1 0.2`; the demo's small model learns both modes on its bundled rows about
general facts, and is then tuned on other facts, once for each share (`data.silent_share`). Held-out phrasings are asked
in both modes by `thinktune eval`. On a CPU each tuning takes some minutes.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thinktune.config.loading import validate_recipe
from thinktune.demo.pipeline import MODEL_SHAPE, VOCAB_SIZE, write_rows
from thinktune.demo.tiny_model import make_model, make_tokenizer
from thinktune.eval.runner import EvalOptions, evaluate_run
from thinktune.progress import say_nothing
from thinktune.train import train

BASE_SILENT_SHARE = 0.5
TRAIN = {"tokens_per_step": 1024, "learning_rate": 2e-3, "weight_decay": 0.5, "evaluate_every_steps": 10_000, "seed": 1}


def make_base(folder: Path, epochs: int) -> Path:
    """Train a small model, from random weights, to answer in both modes; returns its folder."""
    write_rows(folder / "rows")
    texts = [text for name in ("form", "train") for row in read_rows(folder, name) for text in row.values()]
    tokenizer = make_tokenizer(texts, VOCAB_SIZE)
    make_model(tokenizer, MODEL_SHAPE).save_pretrained(folder / "start")
    tokenizer.save_pretrained(folder / "start")
    tree = recipe_tree(folder, "base", folder / "start", "form", epochs)
    tree["data"] |= {"silent_share": BASE_SILENT_SHARE, "validation": 0.05}
    return train(validate_recipe(tree, "kept_modes"), say_nothing) / "final"


def tune(folder: Path, base: Path, share: float, epochs: int) -> dict[str, Any]:
    """Tune the base with a share of silent rows, and return the report of its evaluation in both modes."""
    tree = recipe_tree(folder, f"share-{share:g}", base, "train", epochs)
    tree["data"] |= {"silent_share": share, "validation": str(folder / "rows" / "held-out.jsonl")}
    run = train(validate_recipe(tree, "kept_modes"), say_nothing)
    return evaluate_run(run, say_nothing, EvalOptions(probe=False))


def recipe_tree(folder: Path, name: str, model: Path, rows: str, epochs: int) -> dict[str, Any]:
    """Make the tree of a recipe on the rows of one bundled file."""
    columns = {"reasoning": "think", "keypoint": "keypoint"}
    return {
        "name": name,
        "runs_folder": str(folder / "runs"),
        "model": {"name": str(model)},
        "data": {"name": str(folder / "rows" / f"{rows}.jsonl"), "columns": columns, "max_tokens": 512},
        "train": {**TRAIN, "epochs": epochs},
        "generate": {"max_new_tokens": 96, "sample_questions": 0, "evaluate_tokens": 96, "batch_rows": 120},
    }


def read_rows(folder: Path, name: str) -> list[dict[str, str]]:
    """Read the bundled rows of one file."""
    return [json.loads(line) for line in (folder / "rows" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def keep_facts(folder: Path, facts: int) -> None:
    """Leave only the rows about the first facts in the files that the model is tuned on and asked from."""
    held_out = sorted(read_rows(folder, "held-out"), key=lambda row: row["answer"])
    answers = sorted({row["answer"] for row in held_out})[:facts]
    for name, rows in (("train", read_rows(folder, "train")), ("held-out", held_out)):
        kept = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows if row["answer"] in answers]
        (folder / "rows" / f"{name}.jsonl").write_text("".join(kept), encoding="utf-8")


def figures(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return how often each switch was obeyed and, in each mode, the share of correct answers, of both models."""
    found: dict[str, Mapping[str, Any]] = {}
    for mode, each in (("thinking", report), ("silent", report["silent"])):
        found |= {f"{mode} obeyed": switch for switch in each["switches"] if switch["mode"] == mode}
        [held_out] = [one for one in each["sets"] if one["name"] == "held-out"]
        found |= {f"{mode} right": figure for figure in held_out["measures"] if figure["measure"] == "right"}
    return found


def main() -> None:
    """Train, tune, evaluate, and print a row for each share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shares", type=float, nargs="+", default=[0, 0.1, 0.2])
    parser.add_argument("--facts", type=int, default=120, help="facts to tune on; 120 are bundled")
    parser.add_argument("--base-epochs", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--folder", type=Path, help="where to keep the runs; a temporary folder otherwise")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        base = make_base(folder, options.base_epochs)
        keep_facts(folder, options.facts)
        print_rows(folder, base, options.shares, options.epochs)


def print_rows(folder: Path, base: Path, shares: Sequence[float], epochs: int) -> None:
    """Tune with each share and print what became of both modes."""
    for share in shares:
        for name, figure in figures(tune(folder, base, share, epochs)).items():
            sides = "  ".join(
                f"{side} {figure[side]['value']:6.1%} ({figure[side]['low']:.1%} to {figure[side]['high']:.1%})"
                for side in ("base", "tuned", "difference")
            )
            print(f"share {share:<5g} {name:<16} {figure['rows']:4} rows  {sides}", flush=True)


if __name__ == "__main__":
    main()
