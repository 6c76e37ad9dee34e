"""The card of a real run: written at its end, made true by an evaluation, kept where people edited it; its code runs."""

import contextlib
import io
import json
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub.repocard import metadata_load
from support.runs import quiet, settings, small_tree
from typer.testing import CliRunner

import thinktune
from thinktune.checkpoint import resolve_model_folder
from thinktune.checkpoint.manifest import MANIFEST, manifest_mismatches
from thinktune.cli import app
from thinktune.config.loading import dump_recipe
from thinktune.eval.runner import EvalOptions, evaluate_run
from thinktune.report import write_final_card
from thinktune.run import journal
from thinktune.train import train

BASES_CARD = "---\nlicense: other\nlicense_name: tiny-license\nlicense_link: LICENSE\ntags: [x]\n---\n# The base\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("card")
    tree = small_tree(folder)
    tree["data"]["system"] = "Answer `briefly`, it's a test."
    tree["generate"]["sample_questions"] = 0
    (folder / "start" / "README.md").write_text(BASES_CARD, encoding="utf-8")
    (folder / "start" / "LICENSE").write_text("You may.\n", encoding="utf-8")
    return tree, train(settings(tree), quiet)


@pytest.fixture
def run(made, tmp_path) -> Path:
    return Path(shutil.copytree(made[1], tmp_path / "runs" / "small"))


@pytest.fixture(scope="module")
def evaluation(made, tmp_path_factory) -> tuple[Path, dict]:
    run = Path(shutil.copytree(made[1], tmp_path_factory.mktemp("evaluated") / "small"))
    report = evaluate_run(run, quiet, EvalOptions(probe=False, thinking=True))
    write_final_card(run)
    return run, report


@pytest.fixture
def evaluated(evaluation, tmp_path) -> Path:
    return Path(shutil.copytree(evaluation[0], tmp_path / "runs" / "small"))


def card(run: Path) -> str:
    return (run / "final" / "README.md").read_text(encoding="utf-8")


def again(made, run: Path, **changes) -> list[str]:
    """Run the same command again in a copy of the run; return what it says."""
    tree, said = made[0], []
    (run / "recipe.yaml").write_text(dump_recipe(settings(tree, runs_folder=str(run.parent))), encoding="utf-8")
    train(settings(tree, runs_folder=str(run.parent), **changes), said.append)
    return said


def test_the_run_ends_with_a_card_and_the_bases_terms(run):
    assert metadata_load(run / "final" / "README.md") | {"tags": None, "language": None} == {
        **{"license": "other", "license_name": "tiny-license", "license_link": "LICENSE", "language": None},
        **{"library_name": "transformers", "pipeline_tag": "text-generation", "tasks": ["text-generation"]},
        **{"frameworks": ["Pytorch"], "tags": None},
    }
    assert (run / "final" / "LICENSE").read_text(encoding="utf-8") == "You may.\n"
    assert "Not evaluated yet" in card(run)
    assert "尚未评估" in card(run)
    assert not manifest_mismatches(run / "final")
    assert "README.md" not in json.loads((run / "final" / MANIFEST).read_text()), (
        "rewriting it would break the manifest"
    )
    lines = [line for line in journal.read_metrics(run) if line["kind"] == "train"]
    step = json.loads((run / "final" / "state.json").read_text())["step"]
    assert f"{sum(line['tokens'] for line in lines if line['step'] <= step):,} tokens" in card(run)


def test_an_evaluation_writes_its_figures_and_asks_nothing_twice(evaluated, evaluation):
    loss = next(line for line in evaluation[1]["sets"][0]["measures"] if line["measure"] == "loss")
    for side in ("base", "tuned"):
        assert f"{loss[side]['value']:.3f} ({loss[side]['low']:.3f} to {loss[side]['high']:.3f})" in card(evaluated)
    said: list[str] = []
    evaluate_run(evaluated, said.append, EvalOptions(probe=False, thinking=True))
    assert not [line for line in said if line.startswith("tuned:")], "the card made the model another one"
    assert resolve_model_folder(evaluated) == evaluated / "final"


def test_every_verb_that_has_new_figures_writes_them(evaluated, monkeypatch):
    written = card(evaluated)
    assert "### Asked to think" in written
    assert "### 开启思考" in written
    for verb in (["report"], ["eval", "--regrade"]):
        (evaluated / "final" / "README.md").unlink()
        done = CliRunner().invoke(app, [*verb[:1], str(evaluated), *verb[1:]])
        assert done.exit_code == 0, done.output
        assert card(evaluated) == written
    (evaluated / "final" / "README.md").unlink()
    monkeypatch.setattr("thinktune.eval.runner.evaluate_run", lambda *_: {})
    thinktune.evaluate(evaluated)
    assert card(evaluated) == written


def test_a_card_may_be_edited_or_deleted_and_the_model_is_still_whole(run):
    (run / "final" / "README.md").write_text("mine", encoding="utf-8")
    assert resolve_model_folder(run) == run / "final"
    (run / "final" / "README.md").unlink()
    assert resolve_model_folder(run) == run / "final"
    (run / "final" / "config.json").write_text("{}", encoding="utf-8")
    assert manifest_mismatches(run / "final") != []


def test_a_new_final_model_keeps_the_card_that_people_edited(made, run):
    edited = card(run).replace("# small", "# Mine")
    (run / "final" / "README.md").write_text(edited, encoding="utf-8")
    (run / "final" / MANIFEST).unlink()  # so that it is written again
    said = again(made, run)
    assert card(run) == edited
    assert not manifest_mismatches(run / "final")
    assert "# small" in (run / "model-card.md").read_text(encoding="utf-8")
    assert any("README.md: was edited, so it is kept" in line for line in said)


def test_a_licence_of_the_rows_can_be_named_when_all_is_done(made, run, monkeypatch):
    monkeypatch.setattr("thinktune.data.pipeline._build_dataset", None)  # nothing is tokenized again
    weights = (run / "final" / "model.safetensors").read_bytes()
    said = again(made, run, data={"license": "cc-by-4.0"})
    assert any("expert.data_license (was None, is 'cc-by-4.0')" in line for line in said)
    assert "- Licence of the data: cc-by-4.0" in card(run)
    assert "- 数据许可证：cc-by-4.0" in card(run)
    assert (run / "final" / "model.safetensors").read_bytes() == weights


def test_a_damaged_record_never_costs_the_model(made, run):
    shutil.rmtree(run / "final")
    (run / "data.json").write_text("{", encoding="utf-8")
    said = again(made, run)
    assert any("data.json: is damaged" in line for line in said)
    assert not manifest_mismatches(run / "final")
    assert "# small" in card(run)


def test_the_python_on_the_card_runs_as_it_stands(run, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)\n```", card(run), flags=re.DOTALL)
    assert len(blocks) == 2
    assert blocks[0] == blocks[1]
    assert "it's a test" in blocks[0]
    monkeypatch.chdir(run / "final")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(blocks[0], {})
    assert len(printed.getvalue()) > 1
