"""Check and train side by side: what one says of a recipe, the other does."""

import math
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from support.model_folders import WEIGHTS
from support.runs import last_step, quiet
from support.tiny_models import tiny_config
from thinktune.commands.check import check_recipe
from thinktune.config import Recipe
from thinktune.errors import UserError
from thinktune.model.twin import fill_weights
from thinktune.run.journal import read_metrics
from thinktune.train import train

VOCABULARY = 448  # what the tests' tokenizer needs, in a multiple of 64
ONE_STEP = {"epochs": 1, "rows_per_step": 8}


def save_kind(name: str, folder: Path, **changes: Any) -> Any:
    """Replace a folder's model by a tiny one of another kind, with the tokenizer's vocabulary; return the model."""
    config = tiny_config(name)
    for key, value in {"vocab_size": VOCABULARY, "vocab_size_per_layer_input": VOCABULARY, **changes}.items():
        if hasattr(config, key):
            setattr(config, key, value)
    (folder / WEIGHTS).unlink()
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config)
    fill_weights(made, 0)
    made.save_pretrained(folder)
    return made.eval()


def said_by(verb: Any, recipe: Recipe, say: Any = quiet) -> Any:
    """Return what a verb returns, or the sentences with which it refuses."""
    try:
        return verb(recipe, say)
    except UserError as error:
        return error.faults


def check_and_train(recipe: Recipe) -> tuple[list[str] | None, Path | None, list[str]]:
    """Ask `check`, then `train`, and hold them together.

    `ready` means that the first step was taken and saved, and its losses are finite; anything else that train refuses
    in the same words, and that no run is there. Returns what was refused (None), the run (None) and the notes.
    """
    checked, lines = said_by(check_recipe, recipe), list[str]()
    refused = checked if isinstance(checked, list) else checked[1]["stops"]
    trained = said_by(train, recipe, lines.append)
    if refused:
        assert trained == refused
        assert not recipe.run_folder.exists()
        return refused, None, []
    assert checked[1]["verdict"] == "ready"
    assert isinstance(trained, Path), trained
    assert last_step(trained) >= 1
    losses = [record["loss"] for record in read_metrics(trained) if "loss" in record]
    assert len(losses) >= 2
    assert all(math.isfinite(loss) for loss in losses)
    notes = [line for line in lines if line.startswith("model.name: ")]
    assert notes == checked[1]["model_notes"]
    return None, trained, notes
