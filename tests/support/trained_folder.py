"""A studio's folder with a small run that is finished, and recipes of more work."""

import json
import shutil

import pytest
import yaml

from support.runs import small_tree

SUMS = [{"question": f"What is {first} + {first + 2}?", "answer": str(2 * first + 2)} for first in range(3, 9)]


def make_trained_folder(outside):
    """Make a folder with the run `small`, `long.yaml`, which trains for minutes, and `sums.yaml` for a teacher."""
    from thinktune import train

    tree = small_tree(outside / "made") | {"name": "small"}
    folder = outside / "folder"
    folder.mkdir()
    shutil.copy(outside / "made" / "rows.jsonl", folder)
    tree["data"]["name"], tree["runs_folder"] = "rows.jsonl", "runs"
    (folder / "small.yaml").write_text(yaml.safe_dump(tree))
    long = tree | {"name": "long", "train": tree["train"] | {"epochs": 4000, "evaluate_every_steps": 1000}}
    (folder / "long.yaml").write_text(yaml.safe_dump(long))
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SUMS))
    sums = {"model": tree["model"], "data": {"name": "sums.jsonl", "max_tokens": 200}}
    (folder / "sums.yaml").write_text(yaml.safe_dump(sums))
    with pytest.MonkeyPatch.context() as here:
        here.chdir(folder)
        train("small.yaml")
    return folder
