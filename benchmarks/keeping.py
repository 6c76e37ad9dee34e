"""What a small model forgets when it is tuned on a domain, and what each cure keeps.

    python benchmarks/keeping.py [--conditions none replay …] [--seeds 1 2 3] [--rows 480] [--folder FOLDER]
    python benchmarks/keeping.py --table      # of the cells that are there, as Markdown
    python benchmarks/keeping.py --pictures docs

A Qwen3 of a million parameters with random weights first learns general tasks of eight kinds in two languages. Then it
is tuned on a domain of another form, once for each cure and seed, and asked questions of both that no row has. A
finished cell is a line of `cells.jsonl` in the folder; the same command goes on after the last one.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from keeping_domain import draw_domain
from keeping_general import Question, draw_general
from keeping_pictures import draw_pictures
from keeping_table import BASE, Cell, add_cell, print_tables, read_cells

from thinktune.commands.average import average_run
from thinktune.config.loading import validate_recipe
from thinktune.demo.tiny_model import ModelShape, make_model, make_tokenizer, save_model_folder
from thinktune.eval.averaging.curve import WEIGHTS, WeightScores, choose_weight, measure_points
from thinktune.eval.tasks import Task, grade_answer
from thinktune.files import write_json_lines
from thinktune.inference import Request, SamplingParams
from thinktune.inference.session import load_engine
from thinktune.progress import say_nothing
from thinktune.train import train

FOLDER = Path("benchmark-results/keeping")
SHAPE = ModelShape(hidden_size=128, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=32, intermediate_size=384)
VOCAB_SIZE = 1400
MAX_NEW_TOKENS = 64
MAX_TOKENS = 192
BATCH_ROWS = 128
# Answers are short here, and the first replies of dialogues are not reasoned about.
FAULTS = {"no_reasoning": "silent", "fragment": "keep", "answer_is_question": "keep", "loop": "keep"}
TRAIN = {"weight_decay": 0.1, "evaluate_every_steps": 1_000_000, "batch_tokens": 512, "log_every_steps": 50}


@dataclass(frozen=True, slots=True)
class Cure:
    """What a tuning does against forgetting."""

    answers: str = ""  # of replayed general rows: `rows`, or the base's `own`; "" replays nothing
    share: float = 0.1  # of the tokens, that are replayed
    rows: str = "replay"  # or `base`: more rows, those that the base learned from
    rate: float = 2e-3
    loss: str = ""  # `train.loss`, where it is another one
    averages: bool = False  # base and tuned, at the weight that the product's rule chooses


CURES = {
    "none": Cure(),
    "replay": Cure(answers="rows"),
    "self-replay": Cure(answers="own"),
    "averaging": Cure(averages=True),
    "dft": Cure(loss="dft"),
    "together": Cure(answers="own", loss="dft", averages=True),
    "replay-30": Cure(answers="rows", share=0.3),
    "replay-30-wide": Cure(answers="rows", share=0.3, rows="base"),
    "replay-50-wide": Cure(answers="rows", share=0.5, rows="base"),
    "replay-70-wide": Cure(answers="rows", share=0.7, rows="base"),
    "low-rate": Cure(rate=5e-4),
    "low-rate-replay": Cure(answers="rows", rate=5e-4),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of the experiment; `counts` are general questions of one kind in one language, by use."""

    counts: dict[str, int] = field(default_factory=lambda: {"test": 25, "choice": 13, "replay": 40, "base": 700})
    base_epochs: int = 4
    base_rate: float = 3e-3
    silent_share: float = 0.25  # of the base's rows, so that it knows both modes
    epochs: int = 10
    bound: float = 5  # points of general questions that an average may lose
    shape: ModelShape = SHAPE


@dataclass(frozen=True, slots=True)
class Bench:
    """The folder of an experiment, its sizes and its general questions by use."""

    folder: Path
    plan: Plan
    general: dict[str, list[Question]]


_Made = TypeVar("_Made")


def open_bench(folder: Path, plan: Plan) -> Bench:
    """Write the general rows to a folder, and make its base unless it is there."""
    bench = Bench(folder, plan, draw_general(plan.counts))
    folder.mkdir(parents=True, exist_ok=True)
    for use in ("base", "replay"):
        write_json_lines(folder / f"{use}.jsonl", [one.row() for one in bench.general[use]])
    if all(cell.condition != BASE for cell in read_cells(folder)):
        _make_base(bench)
    return bench


def _make_base(bench: Bench) -> None:
    """Train a model with random weights on the general rows, and write what it knows as the first cell."""
    if not (start := bench.folder / "start").is_dir():
        taught = [*bench.general["base"], *bench.general["replay"]]
        texts = [text for one in taught for text in (one.prompt, one.think, one.answer)]
        texts += [text for entry in draw_domain()["train"] for text in entry.row().values()]
        tokenizer = make_tokenizer(texts, VOCAB_SIZE)
        partial = bench.folder / "start.partial"
        save_model_folder(partial, tokenizer, make_model(tokenizer, bench.plan.shape))
        partial.rename(start)
    plan = bench.plan
    tree = _tree(bench, BASE, start, [_source(bench.folder / "base.jsonl", silent_share=plan.silent_share)])
    tree["train"] |= {"epochs": plan.base_epochs, "learning_rate": plan.base_rate, "seed": 1, "tokens_per_step": 2048}
    run, seconds, peak_mib = measured(lambda: train(validate_recipe(tree, "keeping"), say_nothing))
    add_cell(bench.folder, Cell(BASE, 0, 0, *ask_all(bench, run / "final"), seconds, peak_mib))


def run_cells(bench: Bench, conditions: Sequence[str], seeds: Sequence[int], rows: Sequence[int]) -> None:
    """Run the cells that are missing: every condition with one seed before the next seed."""
    wanted = [(name, seed, size) for size in rows for seed in seeds for name in CURES if name in conditions]
    for key in wanted:
        if all(cell.key != key for cell in read_cells(bench.folder)):
            print(run_cell(bench, *key).summary(), flush=True)


def run_cell(bench: Bench, condition: str, seed: int, rows: int) -> Cell:
    """Tune the base with one cure on `rows` rows of the domain, and write the cell of what came of it."""
    cure, plan = CURES[condition], bench.plan
    domain = bench.folder / f"domain-{rows}.jsonl"
    write_json_lines(domain, [entry.row() for entry in draw_domain(rows)["train"]])
    sources = [_source(domain, columns={"reasoning": "think"})]
    if cure.answers:
        own = {} if cure.answers == "rows" else {"answers": cure.answers}
        sources.append(_source(bench.folder / f"{cure.rows}.jsonl", share=cure.share, **own))
    # Averaging alone trains as no cure does, to the bit.
    name = f"{'none' if condition == 'averaging' else condition}-{rows}-{seed}"
    tree = _tree(bench, name, bench.folder / "runs" / BASE / "final", sources)
    tree["train"] |= {"epochs": plan.epochs, "learning_rate": cure.rate, "seed": seed, "tokens_per_step": 1024}
    tree["train"] |= {"loss": cure.loss} if cure.loss else {}
    run, seconds, peak_mib = measured(lambda: train(validate_recipe(tree, "keeping"), say_nothing))
    if condition == "averaging":  # its run was trained, and counted, for no cure
        none = next(cell for cell in read_cells(bench.folder) if cell.key == ("none", seed, rows))
        seconds, peak_mib = none.seconds, none.peak_mib
    model, weight, curve = run / "final", 1.0, list[tuple[float, float, float]]()
    if cure.averages:
        (model, weight, curve), more, peak = measured(lambda: average(bench, run))
        seconds, peak_mib = seconds + more, max(peak_mib, peak)
    asked = ask_all(bench, model)
    cell = Cell(condition, seed, rows, *asked, seconds, peak_mib, weight, curve)
    add_cell(bench.folder, cell)
    return cell


def average(bench: Bench, run: Path) -> tuple[Path, float, list[tuple[float, float, float]]]:
    """Average base and tuned at each of the product's weights; return the model that its rule chooses, and the curve.

    The rule is that of `train.average`, which asks the bundled probe. This base knows nothing of that, so the choice is
    made by questions of the experiment's own, none of which is asked again.
    """
    models = {weight: average_run(run, weight, say_nothing) for weight in WEIGHTS}
    models |= {0.0: bench.folder / "runs" / BASE / "final", 1.0: run / "final"}
    domain = [entry.task("domain", place) for place, entry in enumerate(draw_domain()["choice"])]
    general = [one.task("general", place) for place, one in enumerate(bench.general["choice"])]
    scores: dict[float, WeightScores] = {}
    for weight, model in models.items():
        right = [{"right": score} for score in ask(model, [*domain, *general])]
        # The held-out loss, which the product shows beside them, chooses nothing.
        scores[weight] = WeightScores(right[: len(domain)], right[len(domain) :], [{"loss": 0.0}])
    _, points = measure_points(scores)
    weight, _ = choose_weight(points, bench.plan.bound)
    return models[weight], weight, [(each.weight, each.domain.value, each.general.value) for each in points]


def ask_all(bench: Bench, model: Path) -> tuple[list[float], list[float], list[float]]:
    """Return which test questions a model answers right: of the domain, general ones, and these without thinking."""
    domain = [entry.task("domain", place) for place, entry in enumerate(draw_domain()["test"])]
    general = [one.task("general", place) for place, one in enumerate(bench.general["test"])]
    both = ask(model, [*domain, *general])
    silent = ask(model, general, thinking=False)
    return both[: len(domain)], both[len(domain) :], silent


def ask(model: Path, tasks: Sequence[Task], *, thinking: bool = True) -> list[float]:
    """Ask a model each task greedily; return 1 for each right answer, and 0 for the others."""
    requests = [Request(task.turns, SamplingParams(MAX_NEW_TOKENS), thinking) for task in tasks]
    with closing(load_engine(model)) as engine:
        replies = dict(engine.complete(requests, BATCH_ROWS))
    return [grade_answer(task, replies[place].answer)["right"] for place, task in enumerate(tasks)]


def measured(work: Callable[[], _Made]) -> tuple[_Made, float, int]:
    """Do some work; return its result, its CPU seconds, and the most memory that this process held meanwhile, in MiB.

    CPU seconds, since a machine that others use as well says little by its clock.
    """
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # from here on VmHWM is the peak since here
    before = sum(os.times()[:4])
    made = work()
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    [peak_kib] = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return made, sum(os.times()[:4]) - before, peak_kib // 1024


def _source(rows: Path, **settings: Any) -> dict[str, Any]:
    return {"name": str(rows), "validation": 0.0, "max_tokens": MAX_TOKENS, "faults": FAULTS, **settings}


def _tree(bench: Bench, name: str, model: Path, sources: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": name,
        "runs_folder": str(bench.folder / "runs"),
        "model": {"name": str(model)},
        "data": [*sources] if len(sources) > 1 else sources[0],
        "train": {**TRAIN},
        "generate": {"max_new_tokens": MAX_NEW_TOKENS, "sample_questions": 0, "batch_rows": BATCH_ROWS},
    }


def main() -> None:
    """Run the cells that are missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conditions", nargs="+", choices=[*CURES], default=[*CURES])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rows", type=int, nargs="+", default=[480], help="rows of the domain")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--table", action="store_true", help="only print the tables of the cells that are there")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw the pictures into this folder")
    options = parser.parse_args()
    if not options.table and not options.pictures:
        torch.set_num_threads(1)
        os.environ.setdefault("THINKTUNE_CACHE", str(options.folder / "cache"))
        run_cells(open_bench(options.folder, Plan()), options.conditions, options.seeds, options.rows)
    cells = read_cells(options.folder)
    if options.pictures:
        draw_pictures(cells, options.pictures)
    else:
        print_tables(cells, draw_general(Plan().counts)["test"])


if __name__ == "__main__":
    main()
