"""The stages of `first_card.py` in their order, with limits and the memory that each may take.

A group is what `--stages` picks. Those of `LATER` run only if they are named: they belong to a second call.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from card.leader import Stage, python
from card.places import TOKENS_PER_STEP, Places, job_folder

HERE = Path(__file__).parents[1]
PEER_BATCH_TOKENS = 16_384
LATER = ("8B", "parity", "resume")
TINY_PATIENCE = 20  # limits are for a card; a busy CPU may take this much longer
# Parts and numbers of the cases in small_cards.py.
SMALL = {"1.7B in 8 GiB": (1, 0), "1.7B in 6 GiB": (1, 1), "4B in 16 GiB": (2, 0), "8B in 24 GiB": (2, 1)}
PREDICTED = {"0.6B exact 8k": (0, 0), "1.7B exact 16k recomputed": (0, 4), "1.7B 8bit inside 8k": (0, 9)}
PREDICTED_GIB = {"0.6B exact 8k": 24.0, "1.7B exact 16k recomputed": 36.0, "1.7B 8bit inside 8k": 32.0}
SMALL_GIB = {"1.7B in 8 GiB": 8.0, "1.7B in 6 GiB": 6.0, "4B in 16 GiB": 16.0, "8B in 24 GiB": 24.0}

FLOAT8 = ({"precision": "fp8"}, {"precision": "fp8-row"})


def all_stages(places: Places) -> list[Stage]:
    """Return the stages in their order: first what must be known, last what may be cut off."""
    made = _stages(places)
    return (
        [replace(stage, limit_seconds=TINY_PATIENCE * stage.limit_seconds) for stage in made] if places.tiny else made
    )


def _stages(places: Places) -> list[Stage]:
    *peers, last_peer = _peers(places)
    plan_and_others = ({}, *_other_settings(places))
    tests = python("-m", "card.gpu_tests", places.out, "--staged")
    return [
        _weights(places, "1.7B", "about", "--about"),
        Stage("tests", "tests", tests, 100, 16, ("weights 1.7B",)),
        _Ours("ours 1.7B", "ours", "1.7B", 150, 105, plan_and_others, traced=True).stage(places),
        Stage("probe", "probe", python(HERE / "card_probe.py", *places.flags()), 80, 24),
        *peers,
        _weights(places, "0.6B", "sizes"),
        *_memory(places, "small", SMALL, SMALL_GIB),
        *_memory(places, "memory", PREDICTED, PREDICTED_GIB),
        _Ours("ours 1.7B, 4 rows a step", "tutorial", "1.7B", 50, 50, job="rows").stage(places),
        _Ours("ours 0.6B", "sizes", "0.6B", 60, 60).stage(places),
        _Ours("ours 1.7B, fp8", "fp8", "1.7B", 130, 105, FLOAT8).stage(places),
        _weights(places, "4B", "sizes"),
        _Ours("ours 4B", "sizes", "4B", 90, 130).stage(places),
        last_peer,
        _weights(places, "8B", "8B"),
        _Ours("ours 8B", "8B", "8B", 120, 135).stage(places),
        *(
            _Ours(f"parity, {tier}", "parity", "1.7B", 80, 60, ({"memory": tier},), "parity").stage(places)
            for tier in ("exact", "8bit", "4bit")
        ),
        Stage("resume 0.6B", "resume", python("-m", "card.resume", *_resumed(places)), 120, 40, ("weights 0.6B",)),
    ]


def choose(stages: Sequence[Stage], groups: Sequence[str]) -> list[Stage]:
    """Return the stages of some groups, or those of a first call, with every stage that they need."""
    chosen = [stage for stage in stages if stage.group in groups or (not groups and stage.group not in LATER)]
    needed = {name for stage in chosen for name in stage.needs}
    return [stage for stage in stages if stage in chosen or stage.name in needed]


def groups(stages: Sequence[Stage]) -> list[str]:
    """Return the groups in their order."""
    return list(dict.fromkeys(stage.group for stage in stages))


def missing_packages(stage: Stage, has: Callable[[str], bool]) -> list[str]:
    """Return the packages of a peer that are not installed."""
    files = {"peer_trl.py": ("trl", "datasets", "accelerate"), "peer_trainer.py": ("accelerate",)}
    files["peer_tutorial.py"] = ("accelerate",)
    needs = [name for file, names in files.items() if any(file in part for part in stage.command) for name in names]
    return [name for name in needs if not has(name)]


def _weights(places: Places, size: str, group: str, *more: str) -> Stage:
    gib = {"0.6B": 4.0, "1.7B": 8.0, "4B": 14.0, "8B": 22.0}[size]
    command = python("-m", "card.weights", places.work, size, *more, *places.flags())
    return Stage(f"weights {size}", group, command, 60, gib)


@dataclass(frozen=True)
class _Ours:
    """A stage of ours: its name and group, the model's size and its job, and the settings that it runs one by one."""

    name: str
    group: str
    size: str
    limit_seconds: float
    gib: float
    settings: Sequence[dict[str, Any]] = ({},)
    job: str = "steps"
    traced: bool = False

    def stage(self, places: Places) -> Stage:
        """Return the stage."""
        options = [part for each in self.settings for part in ("--settings", json.dumps(each))]
        options += ["--most", "2", *(["--trace"] if self.traced else [])]
        folder = job_folder(places.work, self.size, self.job)
        command = python("-m", "card.training", folder, places.out, *options, "--staged")
        return Stage(self.name, self.group, command, self.limit_seconds, self.gib, (f"weights {self.size}",))


def _other_settings(places: Places) -> list[dict[str, Any]]:
    """Return what is tried beside the plan's choice: a step as one batch, or if it is that, in four with less kept."""
    whole, quarter = (256, 128) if places.tiny else (TOKENS_PER_STEP, TOKENS_PER_STEP // 4)
    return [
        {"batch_tokens": whole, "activation_budget": 1.0},
        {"batch_tokens": quarter, "activation_budget": 0.7},
    ]


def _peers(places: Places) -> list[Stage]:
    tokens = 256 if places.tiny else PEER_BATCH_TOKENS

    def peer(name: str, file: str, variant: str, group: str, gib: float, *, halves: bool = True) -> Stage:
        options = ["--batch-tokens", tokens] if halves else []
        options += ["--threads", 1] if places.tiny else []
        job = job_folder(places.work, "1.7B", "steps")
        command = python(HERE / file, variant, job, *options, "--staged")
        made = Stage(name, group, command, 60, gib, ("weights 1.7B",))
        if not halves or places.tiny:
            return made
        half = tuple(str(tokens // 2) if part == str(tokens) else part for part in command)
        return replace(made, smaller=replace(made, name=f"{name}, half the batch", command=half))

    return [
        peer("Trainer, tuned", "peer_trainer.py", "tuned", "trainer", 120),
        peer("TRL, tuned, bf16 weights", "peer_trl.py", "tuned-bf16", "trl", 110),
        peer("the tutorial's loop", "peer_tutorial.py", "checkpointing", "tutorial", 24, halves=False),
        peer("TRL, tuned, fp32 weights", "peer_trl.py", "tuned", "trl-fp32", 130),
    ]


def _memory(places: Places, group: str, cases: dict[str, tuple[int, int]], gib: dict[str, float]) -> list[Stage]:
    """Return cases of small_cards.py, which ask for memory and not for speed, and so run side by side."""
    return [
        Stage(
            name,
            group,
            python(HERE / "small_cards.py", "--case", *case, *places.flags()),
            100,
            gib[name],
            ("weights 1.7B",),  # which says how much the driver takes
            patient=True,
        )
        for name, case in cases.items()
    ]


def _resumed(places: Places) -> list[object]:
    return [job_folder(places.work, "0.6B", "steps"), *places.flags()]
