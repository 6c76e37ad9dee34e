"""The whole pipeline in minutes on a CPU: a small Qwen3 learns facts, and is asked for them in other words."""

import json
import random
import time
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console

from thinktune.commands.check import check_recipe, print_check
from thinktune.config import Recipe, load_recipe
from thinktune.demo.tiny_model import ModelShape, make_model, make_tokenizer, save_model_folder
from thinktune.errors import UserError
from thinktune.eval import comparison_tables
from thinktune.eval.runner import EvalOptions, evaluate_run
from thinktune.files import atomic_write_text, write_json_lines
from thinktune.progress import Say, format_duration, progress_bar
from thinktune.report import write_final_card, write_run_page
from thinktune.run import RunFolder
from thinktune.run.environment import shell_command
from thinktune.terminal import translated
from thinktune.train import train
from thinktune.translation import translate

MODEL_SHAPE = ModelShape(hidden_size=128, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=32, intermediate_size=384)
VOCAB_SIZE = 2500
SHOWN_SAMPLES = 4
REAL_RECIPE = Path("recipes/qwen3-1.7b-medical.yaml")  # in a clone, from where README starts the demo
RECIPE_FOLDER = "runs/demo"  # as the bundled recipes name it


def demo(folder: Path, console: Console) -> dict[str, Any]:
    """Make rows, a model and its base; check, train and evaluate the expert; print the results.

    Returns the evaluation report. Called again on the same folder, it resumes where it stopped, or shows the result
    again if it had finished.
    """
    started = time.monotonic()
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "expert.yaml").is_file():
        raise UserError(
            f"{folder}: is not empty and not a folder of the demo; name another one, as in thinktune demo runs/demo"
        )
    say = _make_say(console)
    say("takes 1 to 4 minutes on two cores if nothing else runs on this machine, and longer if something does")
    for name in ("base.yaml", "expert.yaml"):
        atomic_write_text(folder / name, read_text(name).replace(RECIPE_FOLDER, folder.as_posix()))
    write_rows(folder / "rows")
    if not (folder / "start").is_dir():
        _headline(console, "a small Qwen3 with random weights, and a tokenizer trained on the bundled rows")
        make_initial_model(folder)
    _headline(console, "base: learn to think first and then answer, from other facts")
    _train(load_recipe(folder / "base.yaml"), console)
    expert = load_recipe(folder / "expert.yaml")
    _headline(console, "check: what the expert will be trained on")
    print_check(check_recipe(expert, say)[1], console)
    _headline(console, "train: all parameters, on the facts")
    run = _train(expert, console)
    _headline(console, "eval: base and expert answer held-out phrasings")
    # Without the general probe: a model of a million parameters that knows 270 facts has no general ability to lose.
    evaluation = evaluate_run(run, say, EvalOptions(probe=False, thinking=True))
    write_run_page(run)
    if kept := write_final_card(run):
        say(kept)
    _print_results(console, run, evaluation, time.monotonic() - started)
    return evaluation


def next_commands(run: Path) -> list[tuple[str, str]]:
    """Return what to type next, and what for; each runs as it stands in the shell that the demo was started from.

    The purpose is a line of its own: interactive zsh and cmd.exe know no comments.
    """
    commands = [
        (shell_command("chat", run), "/reset before each question: it was trained on single turns"),
        (shell_command("serve", run), "the same on a page, base and tuned side by side"),
    ]
    if REAL_RECIPE.is_file():  # the demo also runs without a clone
        purpose = "a real model and its rows, before an hour of a GPU is spent on them"
        commands.append((shell_command("check", REAL_RECIPE), purpose))
    return commands


def make_initial_model(folder: Path) -> None:
    """Write the small model to a temporary folder, then rename it, so that a stop leaves no half of it."""
    partial = folder / "start.partial"
    tokenizer = make_tokenizer(_tokenizer_texts(folder / "rows"), VOCAB_SIZE)
    save_model_folder(partial, tokenizer, make_model(tokenizer, MODEL_SHAPE))
    partial.rename(folder / "start")


def write_rows(folder: Path) -> None:
    """Write the bundled facts as rows, one for each phrasing; held-out phrasings go to a file of their own."""
    facts, form = read_bundled("facts.jsonl"), read_bundled("form.jsonl")
    write_json_lines(folder / "form.jsonl", _to_rows(form, "questions"))
    write_json_lines(folder / "train.jsonl", _to_rows(facts, "questions"))
    shuffled = random.Random(0).sample(facts, len(facts))  # so that the samples shown are of every kind
    write_json_lines(folder / "held-out.jsonl", _to_rows(shuffled, "held_out"))


def read_bundled(name: str) -> list[dict[str, Any]]:
    """Read the facts of a bundled file: each has an entity, key point, reasoning, answer and phrasings."""
    return [json.loads(line) for line in read_text(name).splitlines()]


def read_text(name: str) -> str:
    """Read a bundled file."""
    return files("thinktune.demo").joinpath(name).read_text(encoding="utf-8")


def _to_rows(facts: Iterable[dict[str, Any]], phrasings: str) -> Iterator[dict[str, str]]:
    for fact in facts:
        for question in fact[phrasings]:
            reply = {"think": fact["reasoning"], "answer": fact["answer"], "keypoint": fact["keypoint"]}
            yield {"question": question, **reply}


def _tokenizer_texts(rows: Path) -> Iterable[str]:
    """Iterate over the texts that the tokenizer is trained on: those of the training rows, not of the held-out ones."""
    for name in ("form.jsonl", "train.jsonl"):
        for line in (rows / name).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield from (row["question"], row["think"], row["answer"])


def _train(recipe: Recipe, console: Console) -> Path:
    """Train with the bar that `thinktune train` shows, and return the run's folder."""
    with progress_bar(console) as (say_above, bar):
        return train(recipe, say_above if console.is_interactive else _make_say(console), bar=bar)


def _make_say(console: Console) -> Say:
    def say(line: str) -> None:
        console.print(translate(line), highlight=False, markup=False, soft_wrap=True)

    return say


def _headline(console: Console, text: str) -> None:
    console.print(f"\n[bold]■ {translate(text)}[/]", highlight=False, soft_wrap=True)


def _print_results(console: Console, run: Path, evaluation: dict[str, Any], seconds: float) -> None:
    _headline(console, "samples: held-out phrasings, answered before and after training")
    lines = RunFolder(run).evaluation().rows.read_text(encoding="utf-8").splitlines()
    for row in map(json.loads, lines[:SHOWN_SAMPLES]):
        for text, style in (
            (f"› {row['question']}", "bold"),
            (f"  {translate('before')}  {row['base']['answer']}", "dim"),
            (f"  {translate('after')}   {row['tuned']['reasoning']}", "cyan"),
            (f"          {row['tuned']['answer']}", "green"),
        ):
            console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
    _headline(console, f"before and after, on phrasings that were not trained on ({format_duration(seconds)} in all)")
    console.print(translated(comparison_tables(evaluation)))
    console.print(translate(f"report: {RunFolder(run).report}\n"), soft_wrap=True, markup=False, highlight=False)
    console.print(translate("next:"), style="bold")
    for command, purpose in next_commands(run):
        console.print(f"  {command}", soft_wrap=True, highlight=False, markup=False)
        console.print(f"      {translate(purpose)}", style="dim", soft_wrap=True, highlight=False, markup=False)
    console.print(translate("then, with the name of your own file of rows:"), style="bold")
    console.print(f"  {shell_command('init', 'my-rows.jsonl')}", soft_wrap=True, highlight=False, markup=False)
