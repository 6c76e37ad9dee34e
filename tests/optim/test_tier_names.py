"""Names of memory tiers: the recipe offers those of the table, and no other module spells one."""

import ast
from pathlib import Path
from typing import get_args

import thinktune
from thinktune.config import MemoryTierName
from thinktune.config.schema import Precision, TrainConfig
from thinktune.optim import TIERS, candidate_tiers

PACKAGE = Path(thinktune.__file__).parent
OWNERS = {"optim/memory_tiers.py", "config/schema.py"}
ARITHMETIC = {"precision", "wanted"}  # variables that hold a precision, whose names partly are those of tiers


def spelled_tiers(source: str) -> list[str]:
    """String constants of a file that are a tier's name, but where one is compared with a precision."""
    tree = ast.parse(source)
    precisions = {
        id(constant)
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare) and _last_name(node.left) in ARITHMETIC
        for constant in ast.walk(node)
        if isinstance(constant, ast.Constant) and constant.value in get_args(Precision)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in TIERS
        if id(node) not in precisions
    ]


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def test_no_other_module_spells_the_name_of_a_tier():
    files = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
    assert {name for name, path in files.items() if spelled_tiers(path.read_text())} == OWNERS


def test_a_spelled_name_is_found_and_a_precision_is_not():
    assert spelled_tiers('memory = "8bit"') == ["8bit"]
    assert spelled_tiers('plan(memory == "fp32", train.precision == "fp32")') == ["fp32"]


def test_a_recipe_offers_the_tiers_of_the_table_in_its_order():
    assert get_args(MemoryTierName) == tuple(TIERS)


def test_a_plan_chooses_among_the_tiers_of_the_arithmetic_best_first():
    assert candidate_tiers(TrainConfig(rows_per_step=1)) == ("exact", "exact-bf16", "8bit", "8bit-streamed", "4bit")
    assert candidate_tiers(TrainConfig(rows_per_step=1, precision="fp32")) == ("fp32",)
    assert candidate_tiers(TrainConfig(rows_per_step=1, memory="4bit")) == ("4bit",)
