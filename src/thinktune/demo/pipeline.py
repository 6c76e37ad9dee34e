"""The whole pipeline in minutes on a CPU: a small Qwen3 made on the spot learns facts, and is asked in other words."""

import json
import random
import time
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console

from thinktune.commands import check_recipe, print_check
from thinktune.config import loading as recipes
from thinktune.demo.tiny_model import ModelShape, make_model, make_tokenizer
from thinktune.errors import UserError
from thinktune.eval import comparison_tables
from thinktune.eval.runner import EvalOptions, evaluate_run
from thinktune.files import atomic_write_text, write_json_lines
from thinktune.progress import Say, format_duration
from thinktune.report import write_run_page as write_page
from thinktune.run import RunFolder
from thinktune.train import train

MODEL_SHAPE = ModelShape(hidden_size=128, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=32, intermediate_size=384)


VOCAB_SIZE = 2500


SHOWN_SAMPLES = 4


BASE_RECIPE = """\
# The base: the small model learns the form, think and then answer, on rows of other facts.
model: {{name: {folder}/start}}
data:
  name: {folder}/rows/form.jsonl
  columns: {{reasoning: think}}
  ignore: [keypoint]
  validation: 0.05
  max_tokens: 512
train:
  epochs: 10
  tokens_per_step: 1024
  learning_rate: 2e-3
  warmup_fraction: 0.1
  weight_decay: 0.5
  seed: 1
  log_every_steps: 40
  evaluate_every_steps: 120
generate: {{max_new_tokens: 96, sample_questions: 0}}
runs_folder: {folder}
"""


EXPERT_RECIPE = """\
# The expert: the base learns 120 facts; each is asked afterwards in words that it never saw.
model: {{name: {folder}/base/final}}
data:
  name: {folder}/rows/train.jsonl
  validation: {folder}/rows/held-out.jsonl
  columns: {{reasoning: think, keypoint: keypoint}}
  max_tokens: 512
train:
  epochs: 12
  tokens_per_step: 1024
  learning_rate: 2e-3
  warmup_fraction: 0.05
  weight_decay: 1.0 # much, because a small model that remembers phrasings instead of facts fails on new ones
  seed: 1
  log_every_steps: 40
  evaluate_every_steps: 120
generate: {{max_new_tokens: 96, batch_rows: 120}}
runs_folder: {folder}
"""


def demo(folder: Path, console: Console) -> dict[str, Any]:
    """Make the rows, the model and the base; check, train and evaluate the expert; end with what came of it.

    Returns the evaluation. Begun and stopped, it goes on where it was; finished, it shows its result again.
    """
    begun = time.monotonic()
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "expert.yaml").is_file():
        raise UserError(
            f"{folder}: is not empty and no demo's folder; name another one, as in thinktune demo runs/demo"
        )
    for name, text in (("base", BASE_RECIPE), ("expert", EXPERT_RECIPE)):
        atomic_write_text(folder / f"{name}.yaml", text.format(folder=folder.as_posix()))
    write_rows(folder / "rows")
    if not (folder / "start").is_dir():
        _headline(console, "a small Qwen3 of random weights, and a tokenizer learned from the bundled rows")
        _make_initial_model(folder)
    say = _make_say(console)
    _headline(console, "base: learns the form, think and then answer, on other facts")
    train(recipes.load_recipe(folder / "base.yaml"), say)
    expert = recipes.load_recipe(folder / "expert.yaml")
    _headline(console, "check: what the expert will be trained on")
    print_check(check_recipe(expert, say)[1], console)
    _headline(console, "train: every parameter, on the facts")
    run = train(expert, say)
    _headline(console, "eval: base and expert answer the held-out phrasings")
    # Without the general probe: a model of a million parameters that knows 270 facts has no general ability to lose.
    found = evaluate_run(run, say, EvalOptions(probe=False))
    write_page(run)
    _print_results(console, run, found, time.monotonic() - begun)
    return found


def _make_initial_model(folder: Path) -> None:
    """Write the small model aside, then rename: a stop in between leaves no half of it."""
    aside = folder / "start.partial"
    tokenizer = make_tokenizer(_tokenizer_texts(folder / "rows"), VOCAB_SIZE)
    tokenizer.save_pretrained(aside)
    make_model(tokenizer, MODEL_SHAPE).save_pretrained(aside)
    aside.rename(folder / "start")


def write_rows(folder: Path) -> None:
    """The bundled facts as rows: every phrasing a row, the held-out ones in a file of their own."""
    facts, form = read_bundled("facts.jsonl"), read_bundled("form.jsonl")
    write_json_lines(folder / "form.jsonl", _to_rows(form, "questions"))
    write_json_lines(folder / "train.jsonl", _to_rows(facts, "questions"))
    mixed = random.Random(0).sample(facts, len(facts))  # so that the first ones, which are shown, are of every kind
    write_json_lines(folder / "held-out.jsonl", _to_rows(mixed, "held_out"))


def read_bundled(name: str) -> list[dict[str, Any]]:
    """The facts of a bundled file: each with its entity, key point, reasoning, answer and phrasings."""
    text = files("thinktune.demo").joinpath(name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _to_rows(facts: Iterable[dict[str, Any]], phrasings: str) -> Iterator[dict[str, str]]:
    for fact in facts:
        for question in fact[phrasings]:
            kept = {"think": fact["reasoning"], "answer": fact["answer"], "keypoint": fact["keypoint"]}
            yield {"question": question, **kept}


def _tokenizer_texts(rows: Path) -> Iterable[str]:
    """What the tokenizer learns from: the rows that are trained on, not the held-out ones."""
    for name in ("form.jsonl", "train.jsonl"):
        for line in (rows / name).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield from (row["question"], row["think"], row["answer"])


def _make_say(console: Console) -> Say:
    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    return say


def _headline(console: Console, text: str) -> None:
    console.print(f"\n[bold]■ {text}[/]", highlight=False, soft_wrap=True)


def _print_results(console: Console, run: Path, evaluation: dict[str, Any], seconds: float) -> None:
    _headline(console, "samples: held-out phrasings, answered before and after")
    for row in [json.loads(line) for line in RunFolder(run).evaluation().rows.read_text(encoding="utf-8").splitlines()][
        :SHOWN_SAMPLES
    ]:
        for text, style in (
            (f"› {row['question']}", "bold"),
            (f"  before  {row['base']['answer']}", "dim"),
            (f"  after   {row['tuned']['reasoning']}", "cyan"),
            (f"          {row['tuned']['answer']}", "green"),
        ):
            console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
    _headline(
        console, f"before and after, on questions in words that were not trained on ({format_duration(seconds)} in all)"
    )
    console.print(comparison_tables(evaluation))
    console.print(f"report: {RunFolder(run).report}\n", soft_wrap=True, highlight=False)
    console.print("next, type:", style="bold")
    for command in (
        f"thinktune chat {run}  # /reset before each question: it was trained on single ones",
        "thinktune check recipes/qwen3-1.7b-medical.yaml",
        "thinktune train recipes/qwen3-1.7b-medical.yaml",
    ):
        console.print(f"  {command}", soft_wrap=True, highlight=False)
