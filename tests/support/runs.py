"""Small runs for tests: rows, recipes, interruptions, and comparisons."""

import json
import os
import signal
from pathlib import Path

from safetensors.torch import load_file

from thinktune.checkpoint import store
from thinktune.config import loading
from thinktune.errors import UserError
from thinktune.run import journal

FACTS = {
    "heart": "blood",
    "lung": "air",
    "eye": "light",
    "ear": "sound",
    "心脏": "血液",
    "肺": "空气",
    "眼": "光",
    "耳": "声音",
}


def write_rows(path: Path, facts=FACTS) -> Path:
    rows = [
        {"question": f"{part}?", "think": f"{part}: think.", "answer": f"{part} - {what}."}
        for part, what in facts.items()
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def settings(tree, **changes):
    merged = json.loads(json.dumps(tree))
    for section, values in changes.items():
        merged[section] = {**merged[section], **values} if isinstance(values, dict) else values
    return loading.validate_recipe(merged, "here")


def small_tree(folder: Path):
    """Return a recipe's tree, with its rows and model made in a folder; without any fixture."""
    from thinktune.demo.tiny_model import ModelShape, make_model, make_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(3 * ["What does the heart pump? It pumps blood.", "心脏泵什么？心脏泵血液。"], 400)
    make_model(tokenizer, ModelShape()).save_pretrained(folder / "start")
    tokenizer.save_pretrained(folder / "start")
    # The whole share: otherwise speed decides what is sampled.
    generate = {"max_new_tokens": 6, "sample_questions": 1, "sample_share": 1}
    return {**small_tree_of(folder, folder / "start"), "generate": generate}


def small_tree_of(folder: Path, start: Path):
    """Return a recipe's tree, with its rows made in a folder, for a given model."""
    return {
        "name": "small",
        "runs_folder": str(folder / "runs"),
        "model": {"name": str(start)},
        "data": {
            "name": str(write_rows(folder / "rows.jsonl")),
            "columns": {"reasoning": "think"},
            "validation": 0.3,
            "max_tokens": 200,
        },
        "train": {
            "rows_per_step": 2,
            "epochs": 3,
            "learning_rate": 1e-3,
            "evaluate_every_steps": 3,
            "log_every_steps": 2,
        },
        "generate": {
            "max_new_tokens": 12,
            "sample_questions": 1,
            "sample_share": 1,
        },  # otherwise speed decides what is sampled
    }


def last_step(folder: Path) -> int:
    """Return the step of a run's last checkpoint; 0 if there is none yet."""
    try:
        kept = store.find_checkpoint(folder, "last")
    except UserError:
        return 0
    return kept.step if kept else 0


def quiet(_line):
    pass


def stop_after(step):
    """Return a `say` that ends the run when a step has been saved, as a power cut would."""
    from thinktune.train import loop

    told_from, loop.SLOW_SAVE_SECONDS = loop.SLOW_SAVE_SECONDS, 0  # each save is told

    def say(line):
        if line.startswith(f"step {step}/") and "saved" in line:
            loop.SLOW_SAVE_SECONDS = told_from
            raise KeyboardInterrupt

    return say


def without_times(records):
    return [
        {key: value for key, value in record.items() if key not in ("seconds", "tokens_per_second", "memory_gib")}
        for record in records
    ]


def equal(mine, theirs):
    """Check that two finished runs have the same weights, state, metrics, samples and files."""
    last = store.find_checkpoint(mine, "last").folder.name
    for file in (
        f"checkpoints/{last}/model.safetensors",
        f"checkpoints/{last}/state/state.safetensors",
        "final/model.safetensors",
    ):
        ours, other = load_file(mine / file), load_file(theirs / file)
        assert ours.keys() == other.keys()
        assert all(ours[name].equal(other[name]) for name in ours), file
    assert without_times(journal.read_metrics(mine)) == without_times(journal.read_metrics(theirs))
    assert journal.read_samples(mine) == journal.read_samples(theirs)
    assert {path.relative_to(mine) for path in mine.rglob("*")} == {
        path.relative_to(theirs) for path in theirs.rglob("*")
    }


def stop_in_step(monkeypatch, step, number=signal.SIGTERM):
    """Send a signal during a step of this process."""
    from thinktune.train import loop

    real, calls = loop.step, []

    def stepping(*args):
        calls.append(real(*args))
        if len(calls) == step:
            os.kill(os.getpid(), number)
        return calls[-1]

    monkeypatch.setattr(loop, "step", stepping)
