"""Verbs that compute on a card wait for each other where they are asked to, each in a process of its own."""

import json
import os
import subprocess
import sys
from functools import partial

import pytest
from support import waiting
from support.card_locks import HOLDER
from support.runs import quiet, settings

from thinktune.config.loading import dump_recipe
from thinktune.progress import PROGRESS_FILE_VARIABLE
from thinktune.train import train

wait_until = partial(waiting.wait_until, seconds=240)


@pytest.mark.slow
def test_an_evaluation_a_teacher_a_pilot_and_a_training_wait_for_the_card_and_then_all_end(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "cache" / "tokens"))
    recipe = settings(tree)
    run = train(recipe, quiet)
    (tmp_path / "mine.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    rows = tmp_path / "asked.jsonl"  # without reasoning
    rows.write_text("".join(json.dumps({"question": f"{n}?", "answer": str(n)}) + "\n" for n in range(8)))
    asked = settings(tree | {"data": {"name": str(rows), "max_tokens": 200}})
    (tmp_path / "asked.yaml").write_text(dump_recipe(asked), encoding="utf-8")
    pilot = ["--rates=1e-3", "--epochs=1", "--share=1", "mine.yaml"]
    verbs = {
        "eval": ["--no-probe", "--thinking", str(run)],
        "think": ["--tries=1", "--reply-tokens=8", f"--to={tmp_path / 'thought'}", "asked.yaml"],
        "pilot": [*pilot, "generate.sample_questions=0"],
        "train": ["mine.yaml", "name=another"],
    }
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, "cpu", "wait", str(tmp_path / "holder")])
    wait_until((tmp_path / "holder").exists)
    processes = {
        verb: subprocess.Popen(
            [sys.executable, "-m", "thinktune", verb, "--wait", *arguments],
            cwd=tmp_path,
            env=os.environ | {PROGRESS_FILE_VARIABLE: str(tmp_path / f"{verb}.json")},
        )
        for verb, arguments in verbs.items()
    }

    def waits(verb):
        try:
            return json.loads((tmp_path / f"{verb}.json").read_text())["waits"]
        except OSError:
            return False

    try:
        wait_until(lambda: all(map(waits, processes)) or any(each.poll() is not None for each in processes.values()))
        assert [verb for verb, process in processes.items() if process.poll() is not None] == []
        (tmp_path / "holder.release").write_text("")
        ended = {verb: process.wait(240) for verb, process in processes.items()}
    finally:
        for process in (holder, *processes.values()):
            process.kill()
            process.wait()
    assert ended == {"eval": 0, "think": 2, "pilot": 0, "train": 0}, "no reply of a random teacher is kept"
