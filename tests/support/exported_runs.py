"""A tiny run that has learned to reason, answer and stop, from a base as it was published: what exports are made of."""

from functools import cache
from pathlib import Path

from support.bases import make_base
from support.runs import quiet, settings, small_tree_of, write_rows
from thinktune.train.loop import train

PARTS = ("heart", "lung", "eye", "ear", "心脏", "肺")
PLACES = ("one", "two", "blood", "red", "蓝", "绿", "12", "345")


def train_export_run(folder: Path, base: str = "untied", make=make_base, **changes) -> Path:
    """Train a run of a base of `bases.BASES` and return its folder; 23 rows are held out."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = small_tree_of(folder, make(folder / "start", base))
    facts = {f"{part} {place}": f"{place} {part}" for part in PARTS for place in PLACES}
    tree["data"]["name"] = str(write_rows(folder / "rows.jsonl", facts))
    train_settings = {"epochs": 10, "rows_per_step": 4, "learning_rate": 5e-3, "evaluate_every_steps": 30}
    return train(
        settings(
            tree,
            **{
                "train": train_settings,
                "generate": {"max_new_tokens": 30, "sample_questions": 0},
                **changes,
            },
        ),
        quiet,
    )


FORMS = ("f32", "bf16", "q8_0", "q4_k_m")
_RUNS: dict[str, Path] = {}


def export_run(factory, base: str = "untied") -> Path:
    """Return the folder of such a run, made once in a process; nothing may be written into it."""
    if base not in _RUNS:
        _RUNS[base] = train_export_run(factory.mktemp("exported"), base)
    return _RUNS[base]


@cache
def reference_of(run: Path, *forms: str):
    """Return our own engine's answers for a run, made once in a process."""
    from thinktune.export import find_source
    from thinktune.export.reference import make_reference

    return make_reference(find_source(run), forms, quiet)
