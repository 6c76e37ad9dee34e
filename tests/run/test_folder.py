"""The layout of a run's folder has one owner: no other package spells the name of a file or folder in it."""

import ast
from pathlib import Path

import thinktune
from thinktune.run import RunFolder
from thinktune.run.folder import checkpoint_step

ROOT = Path(thinktune.__file__).parent
RUN = RunFolder(Path("run"))
EVALUATION = RUN.evaluation()
NAMES = {
    path.name
    for path in (
        RUN.recipe, RUN.environment, RUN.data_summary, RUN.row_digests, *RUN.journals, RUN.lock, RUN.checkpoints,
        RUN.last, RUN.best, RUN.evaluated, RUN.final, RUN.report, EVALUATION.path, EVALUATION.settings,
        EVALUATION.tasks, EVALUATION.judgements, EVALUATION.rows, EVALUATION.report, EVALUATION.completions("base"),
        EVALUATION.losses("base"), RUN.evaluation(thinking=False).path, RUN.tracker("swanlab"),
        RUN.tracker("tensorboard"), RUN.swanlab_id, RUN.averaging.path, RUN.averaged, RUN.curve, RUN.average(0.5),
    )
}  # fmt: skip


def spelled(tree):
    """Names in a module: strings that hold a name with an ending, and words that are joined to a path by `/`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value[1:]:
            yield node.value
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Constant):
            yield str(node.right.value)


def test_no_other_module_spells_a_name_of_the_run_folder():
    for path in ROOT.rglob("*.py"):
        if path != ROOT / "run" / "folder.py":
            for text in spelled(ast.parse(path.read_text(encoding="utf-8"))):
                assert not NAMES & set(text.split("/")), f"{path.relative_to(ROOT)} spells {text}"


def test_only_names_of_checkpoints_have_a_step():
    assert checkpoint_step(RUN.checkpoint(7).name) == 7
    assert checkpoint_step(RUN.checkpoint(12_345_678).name) == 12_345_678
    for name in ("step-7", "step-000007.old", "my-step-000007", ".step-000007.1.partial", "final"):
        assert checkpoint_step(name) is None
