"""The rooms of the package and which may import which."""

import ast
from pathlib import Path

import thinktune

PACKAGE = Path(thinktune.__file__).parent
# From the top down; rooms on one line do not import each other.
ROOMS = """
__main__
cli
demo
check chat cleaned serve launch
exchange
guard openapi voices
api
train evaluate
dry
watch answers
carried health
run
settle session vllm
engine endpoint beside small sinks plan
speed
report predict
evaluation_page schedule wire budget disk
comparison regrade trace
writer sample stream referee compare
step checkpoint manners slots ground shard
request written
model prepare curves outcome probe task_files overlap follow
to_swanlab to_tensorboard chart
entries sentences page
track
divide
work balance
loss pack optim attention layers counted parallel reply store trim account form
render adamw shares
unused ferry tiers chance
judge layout rows twins codec tasks
mend turns encoding sources script obey
data grade
hub
download recipe
knobs traffic
cache seal cards spread
bilingual meeting pulse environment faults files find flops progress tokens verdict workers spikes stop intervals completions extract
errors masking numerals
bundled
"""
LEVELS = {room: level for level, line in enumerate(ROOMS.split("\n")) for room in line.split()}
HEAVY = [
    "demo",
    "check",
    "chat",
    "serve",
    "exchange",
    "voices",
    "session",
    "train",
    "evaluate",
    "watch",
    "dry",
    "carried",
    "health",
    "answers",
    "run",
    "engine",
    "sample",
    "schedule",
    "slots",
    "small",
    "step",
    "checkpoint",
    "model",
    "loss",
    "attention",
    "layers",
    "pack",
    "optim",
    "settle",
    "plan",
    "speed",
    "predict",
    "budget",
    "counted",
    "disk",
    "trace",
    "adamw",
    "ferry",
    "codec",
    "parallel",
    "launch",
    "shard",
    "written",
    "balance",
    "shares",
    "tiers",
    "chance",
    "meeting",
    "pulse",
]
TORCH_FREE = set(LEVELS) - {*HEAVY, "__main__", "bundled"}


def imports(path: Path, *, top_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_only else list(ast.walk(tree))
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "thinktune":
            names |= {f"thinktune.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_every_import_points_down():
    for path in PACKAGE.rglob("*.py"):
        if path.stem == "__init__":
            continue
        for name in imports(path):
            if name.startswith("thinktune."):
                assert LEVELS[name.split(".")[1]] > LEVELS[path.stem], f"{path.stem} imports {name}"


def test_rooms_that_answer_at_once_load_no_torch():
    for room in TORCH_FREE:
        heavy = {name.split(".")[0] for name in imports(PACKAGE / f"{room}.py", top_only=True)} & {
            "torch",
            "transformers",
        }
        assert not heavy, f"{room} imports {heavy}"


def test_no_file_and_no_function_outgrows_one_head():
    for path in [*PACKAGE.rglob("*.py"), *Path(__file__).parent.rglob("*.py")]:
        source = path.read_text(encoding="utf-8")
        assert source.count("\n") <= 300, f"{path.name} has {source.count(chr(10))} lines"
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 40, f"{path.name}: {node.name} has more than 40 lines"
