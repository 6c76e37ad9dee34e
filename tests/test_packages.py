"""The house: which package may import which, what loads torch, each package's door, and how large a file may grow."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import thinktune

ROOT = Path(thinktune.__file__).parent
TESTS = Path(__file__).parent
# From the top down; what stands on one line does not import each other.
LEVELS = [
    line.split()
    for line in """
__main__
cli
demo
commands studio
train export synthesis
report
eval serve
planner inference tracking
model checkpoint
data optim run
hub distributed tokenization
verdicts
config cache
progress http
library_output
exit_codes help_pages
terminal arguments termination verb_help
errors files wrapping
translation
""".strip().split("\n")
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
WITHOUT_TORCH = ["config", "hub", "tokenization", "data", "run", "report", "tracking", "http", "studio"]
MODULES_WITHOUT_TORCH = [
    "cli", "cache", "verdicts", "errors", "files", "library_output", "progress", "terminal", "termination", "checkpoint.store", "checkpoint.manifest",
    "eval.comparison", "eval.grading", "eval.scoring", "eval.statistics", "eval.tasks", "eval.task_files",
    "inference.requests", "inference.replies", "inference.openai_client",
]  # fmt: skip


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in ROOT.rglob("*.py")}
PACKAGES = sorted(path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file())


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path, *, at_import: bool = False) -> list[tuple[str, str]]:
    """Modules of ours that a file imports, each with the name taken from it; of `at_import`, those run with the file."""
    tree = parse(path)
    found = []
    for node in tree.body if at_import else ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "thinktune":
            base = (node.module or "").removeprefix("thinktune").lstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                found.append((inner, "") if inner in MODULES else (base, alias.name))
    return found


def package(module: str) -> str:
    return module.split(".")[0]


def test_imports_only_point_down():
    assert {*PACKAGES, *(p.stem for p in ROOT.glob("*.py") if p.stem != "__init__")} == set(LEVEL)
    for name, path in MODULES.items():
        for target, _ in imports(path):
            if name and target and package(target) != package(name):
                assert LEVEL[package(target)] > LEVEL[package(name)], f"{name} imports {target}"


def test_no_module_imports_itself_by_way_of_others():
    graph = {name: {target for target, _ in imports(path, at_import=True)} for name, path in MODULES.items()}
    for name in PACKAGES:  # a package's door runs before its modules, so their imports of it would be cycles
        for module in MODULES:
            if module.startswith(f"{name}."):
                assert name not in graph[module], f"{module} imports its own door"
    TopologicalSorter(graph).prepare()  # raises CycleError and names the cycle


def test_light_packages_load_neither_torch_nor_transformers():
    light = [name for name in MODULES if package(name) in WITHOUT_TORCH] + MODULES_WITHOUT_TORCH
    code = "import importlib, sys\n" + "".join(
        f"importlib.import_module('thinktune.{name}')\n" for name in sorted(light)
    )
    code += "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("name", PACKAGES)
def test_each_package_has_a_door_that_outsiders_use(name):
    tree = ast.parse((ROOT / name / "__init__.py").read_text(encoding="utf-8"))
    sentence = ast.get_docstring(tree) or ""
    assert sentence.endswith(".")
    assert "\n\n" not in sentence, "a door's docstring is one sentence"
    door = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("thinktune.")
        for alias in node.names
    }
    listed = next(ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign))
    assert set(listed) == door
    assert len(door) <= 8
    for module, path in MODULES.items():
        if package(module) != name:
            for target, taken in imports(path):
                if package(target) == name:
                    assert not taken.startswith("_"), f"{module} imports {taken} of {target}"
                    assert target == name or taken not in door, (
                        f"{module} imports {taken} from {target}, not by the door"
                    )


def test_files_and_functions_stay_small():
    for path in [*ROOT.rglob("*.py"), *TESTS.rglob("*.py")]:
        source = path.read_text(encoding="utf-8")
        assert source.count("\n") <= 500, f"{path} has {source.count(chr(10))} lines"
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path.name}: {node.name} has more than 60 lines"
    for name in PACKAGES:
        assert len(list((ROOT / name).glob("*.py"))) <= 20, f"{name} has more than 20 files"
