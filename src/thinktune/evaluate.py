"""Base against tuned on the same held-out rows: the same prompts, the same budget, one report."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from thinktune import checkpoint, grade, hub, recipe, report
from thinktune.data import Example
from thinktune.engine import Completion, Engine, Request, Sampling, record
from thinktune.errors import UserError
from thinktune.files import write_json, write_json_lines
from thinktune.knobs import Recipe
from thinktune.model import load_model, padding, pick_device, pick_precision
from thinktune.pack import pack
from thinktune.prepare import prepare
from thinktune.progress import Say
from thinktune.run import batch_capacity, refuse_other_data
from thinktune.step import evaluate
from thinktune.store import Rows
from thinktune.tokens import read_tokenizer


def evaluate_run(folder: Path, say: Say) -> dict[str, Any]:
    """Measure a run's base and tuned model, write `eval/`, and return what its report.json holds.

    Losses are over all held-out rows; replies are written greedily to the first `generate.evaluate_questions` of them.
    """
    checkpoint.refuse_no_run(folder)
    settings = recipe.load(folder / "recipe.yaml")
    tuned = checkpoint.model_folder(folder)
    base = hub.locate_model(settings)
    tokenizer = read_tokenizer(tuned)
    prepared = prepare(settings, tokenizer, say)
    refuse_other_data(prepared, folder)
    rows = prepared.validation
    if not len(rows):
        raise UserError("data.validation: the run held out no rows; start a run with a share or a file of them")
    asked = rows.examples(settings.generate.evaluate_questions)
    facts: dict[str, Any] = {"rows": len(asked), "budget_tokens": settings.generate.max_new_tokens}
    for name, model_folder in (("base", base), ("tuned", tuned)):
        facts[name] = _measure(name, model_folder, rows, asked, settings, folder, say)
    write_json(folder / "eval" / "report.json", facts)
    report.write(folder)
    return facts


def _measure(
    name: str, source: Path, rows: Rows, asked: Sequence[Example], settings: Recipe, folder: Path, say: Say
) -> dict[str, float | None]:
    """Losses and rates of one model; its completions are kept in eval/NAME.jsonl."""
    device = pick_device()
    precision = pick_precision(settings.train.precision, device, settings.train.memory)
    tokenizer = read_tokenizer(source)
    model = load_model(source, device)
    packed = pack(rows.replies(), batch_capacity(settings, rows, device), pad=padding(device, tokenizer))
    losses = evaluate(model, packed, device, precision).values()
    sampling = Sampling(settings.generate.max_new_tokens)
    requests = [Request(example.turns[:-1], sampling) for example in asked]
    done: dict[int, Completion] = {}
    with closing(Engine(model, tokenizer, precision)) as engine:
        for index, reply in engine.complete(requests, settings.generate.batch_rows):
            done[index] = reply
            if len(done) % settings.generate.batch_rows == 0 or len(done) == len(asked):
                say(f"{name}: {len(done)} of {len(asked)} questions answered")
    replies = [done[index] for index in range(len(asked))]
    records = [_graded(example, reply) for example, reply in zip(asked, replies, strict=True)]
    write_json_lines(folder / "eval" / f"{name}.jsonl", records)
    graded = [kept["right"] for kept in records if kept["right"] is not None]
    return {
        "right": sum(graded) / len(graded) if graded else None,
        "right_rows": len(graded),
        "reasoning_closed": sum(reply.closed for reply in replies) / len(replies),
        "ended": sum(reply.finish == "end" for reply in replies) / len(replies),
        "eval_loss": losses["loss"],
    } | {key: value for key, value in losses.items() if key != "loss"}


def _graded(example: Example, reply: Completion) -> dict[str, Any]:
    right = grade.holds(reply.answer, example.keypoint) if example.keypoint else None
    return {**record(example, reply), "keypoint": example.keypoint, "right": right}


def comparison(facts: dict[str, Any]) -> Table:
    """What `evaluate_run` found as a table: before, after."""
    table = Table("on the held-out rows", "before", "after", title=None, box=box.SIMPLE_HEAD)
    rates = {"right": "answers right", "reasoning_closed": "reasoning closed", "ended": "ended by itself"}
    for key, label in rates.items():
        if facts["tuned"][key] is not None:
            rows = facts["tuned"]["right_rows"] if key == "right" else facts["rows"]
            shares = [facts[name][key] for name in ("base", "tuned")]
            table.add_row(label, *(f"{share:.0%} ({round(share * rows)} of {rows})" for share in shares))
    table.add_row("eval loss", *(f"{facts[name]['eval_loss']:.3f}" for name in ("base", "tuned")))
    return table
