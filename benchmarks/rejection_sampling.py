"""Whether a model learns from its own right tries: rounds of rejection sampling by a small model that adds numbers.

    python benchmarks/rejection_sampling.py [--rounds 2] [--questions 400] [--folder runs/adding]

A small Qwen3 with random weights learns from a few worked sums to reason digit by digit, until more steps help no more.
It can do some new sums then. `think` asks it for many whose rows have an answer and no reasoning; the start is tuned on
the rows that `think` writes, and what came of it is the next round's teacher. Sums that no row has are asked after each
round: greedily, for the share of correct answers, and several times each for pass@n. The control is the start tuned for
as many steps as the last round, on the worked sums alone.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from thinktune.config import Recipe
from thinktune.config.loading import validate_recipe
from thinktune.demo.tiny_model import ModelShape, make_model, make_tokenizer, save_model_folder
from thinktune.eval.statistics import Interval, paired_difference, wilson_interval
from thinktune.files import write_json_lines
from thinktune.inference import Completion, Request, SamplingParams
from thinktune.inference.session import load_engine
from thinktune.progress import say_nothing
from thinktune.synthesis.answer_agreement import answer_agreement, row_task
from thinktune.synthesis.pass_rate import pass_rate
from thinktune.synthesis.settings import ThinkOptions
from thinktune.synthesis.teacher import Patience
from thinktune.synthesis.think import think
from thinktune.tokenization import Example, Turn
from thinktune.train import train

DIGITS = 2  # of each number
SHAPE = ModelShape(hidden_size=96, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=24, intermediate_size=256)
VOCAB_SIZE = 340
MAX_NEW_TOKENS = 64
MAX_CONCURRENCY = 128
TRAIN = {"tokens_per_step": 1024, "learning_rate": 3e-3, "weight_decay": 0.1, "warmup_fraction": 0.1, "seed": 1}


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of the experiment."""

    worked: int = 80  # sums with reasoning, that the model starts from
    questions: int = 400  # sums without
    held_out: int = 200
    tries: int = 4
    rounds: int = 2
    start_epochs: int = 80
    epochs: int = 12
    temperature: float = 0.5
    control: int = 1  # 0 leaves it out


@dataclass(frozen=True, slots=True)
class Round:
    """What a model can after a round; the first is the start. `gain` is over the start, paired by question."""

    name: str
    right: Interval
    gain: Interval | None
    pass_at: dict[int, Interval]
    kept: int = 0  # questions for which the model before it gave a try that was kept


def worked_sum(one: int, other: int) -> dict[str, str]:
    """Return a row that adds two numbers digit by digit, from the last one on."""
    carry, steps = 0, list[str]()
    for place in range(DIGITS):
        left, right = one // 10**place % 10, other // 10**place % 10
        total = left + right + carry
        steps.append(f"{left} plus {right} plus {carry} is {total}, so write {total % 10} and carry {total // 10}.")
        carry = total // 10
    return {"question": question(one, other), "think": " ".join(steps), "answer": f"The answer is {one + other}."}


def question(one: int, other: int) -> str:
    """Return the question for a sum."""
    return f"What is {one} + {other}?"


def draw_sums(plan: Plan, seed: int = 0) -> dict[str, list[dict[str, str]]]:
    """Draw different sums for each use; those to be asked and those held out have no reasoning."""
    numbers = range(10 ** (DIGITS - 1), 10**DIGITS)
    counts = {"worked": plan.worked, "questions": plan.questions, "held_out": plan.held_out}
    pairs = [(one, other) for one in numbers for other in numbers]
    drawn = iter(random.Random(seed).sample(pairs, sum(counts.values())))
    rows = {name: [worked_sum(*next(drawn)) for _ in range(count)] for name, count in counts.items()}
    return {name: [row | ({} if name == "worked" else {"think": ""}) for row in some] for name, some in rows.items()}


def run_rounds(folder: Path, plan: Plan) -> list[Round]:
    """Make the start, then think and tune once for each round; returns what each model can."""
    rows = draw_sums(plan)
    write_json_lines(folder / "worked.jsonl", rows["worked"])
    write_json_lines(folder / "sums.jsonl", rows["worked"] + rows["questions"])
    tokenizer = make_tokenizer([text for row in rows["worked"] for text in row.values()], VOCAB_SIZE)
    save_model_folder(folder / "blank", tokenizer, make_model(tokenizer, SHAPE))
    start = tune(folder, "start", folder / "blank", folder / "worked.jsonl", plan.start_epochs)
    model, kept, rounds = start, 0, list[Round]()
    right = measure(start / "final", rows["held_out"], plan)
    rounds.append(Round("start", wilson_interval(sum(right[0]), len(right[0])), None, right[1]))

    def add(name: str, model: Path, kept: int) -> None:
        now = measure(model / "final", rows["held_out"], plan)
        gain = paired_difference(right[0], now[0], bounded=True)
        rounds.append(Round(name, wilson_interval(sum(now[0]), len(now[0])), gain, now[1], kept))

    for number in range(1, plan.rounds + 1):
        name = f"round-{number}"
        made, kept = think_round(folder, f"{name}-think", start / "final", model, plan, 1000 * number)
        model = tune(folder, name, start / "final", made, plan.epochs)
        add(name, model, kept)
    if plan.control:
        epochs = round(plan.epochs * (plan.worked + kept) / plan.worked)
        add("control", tune(folder, "control", start / "final", folder / "worked.jsonl", epochs), 0)
    return rounds


def tune(folder: Path, name: str, model: Path, rows: Path, epochs: int) -> Path:
    """Tune a model on a file of rows, and return the run's folder."""
    return train(recipe_of(folder, name, model, rows, epochs), say_nothing)


def recipe_of(folder: Path, name: str, model: Path, rows: Path, epochs: int) -> Recipe:
    """Make the recipe of a tuning."""
    columns = {} if rows.name == "rows.jsonl" else {"reasoning": "think"}
    tree = {
        "name": name,
        "runs_folder": str(folder / "runs"),
        "model": {"name": str(model)},
        "data": {"name": str(rows), "columns": columns, "validation": 0.0, "max_tokens": 256},
        "train": {**TRAIN, "epochs": epochs, "evaluate_every_steps": 100_000},
        "generate": {"max_new_tokens": MAX_NEW_TOKENS, "sample_questions": 0},
    }
    return validate_recipe(tree, "rejection_sampling")


def to_example(row: dict[str, str], index: int) -> Example:
    """Make the example of a row without reasoning."""
    return Example((Turn("user", row["question"]), Turn("assistant", row["answer"])), f"sums.jsonl:{index + 1}")


def ask(
    model: Path, rows: Sequence[dict[str, str]], tries: int, temperature: float, seed: int
) -> list[list[Completion]]:
    """Let a model try each row's question some times."""
    requests = [
        Request(
            to_example(row, 0).turns[:-1], SamplingParams(MAX_NEW_TOKENS, temperature=temperature, seed=seed + each)
        )
        for row in rows
        for each in range(tries)
    ]
    replies: dict[int, Completion] = {}
    with closing(load_engine(model)) as engine:
        replies |= dict(engine.complete(requests, 256))
    return [[replies[index * tries + each] for each in range(tries)] for index in range(len(rows))]


def measure(model: Path, rows: Sequence[dict[str, str]], plan: Plan) -> tuple[list[float], dict[int, Interval]]:
    """Return whether each question is answered correctly greedily, and pass@n of sampled tries."""
    tasks = [row_task(to_example(row, index)) for index, row in enumerate(rows)]

    def graded(tries: int, temperature: float) -> list[list[bool]]:
        asked = ask(model, rows, tries, temperature, seed=7)
        return [
            [answer_agreement(task, reply.answer).holds is True for reply in replies]
            for task, replies in zip(tasks, asked, strict=True)
        ]

    sampled = graded(plan.tries, plan.temperature)
    rates = {n: pass_rate([(len(each), sum(each)) for each in sampled], n) for n in (1, plan.tries)}
    return [float(each[0]) for each in graded(1, 0.0)], rates


def think_round(folder: Path, name: str, start: Path, teacher: Path, plan: Plan, seed: int) -> tuple[Path, int]:
    """Ask a teacher for the reasoning of the sums without; returns the file of rows, and how many got theirs."""
    recipe = recipe_of(folder, "sums", start, folder / "sums.jsonl", 1)
    options = ThinkOptions(
        teacher=str(teacher), tries=plan.tries, temperature=plan.temperature, seed=seed, folder=folder / name,
        reply_tokens=MAX_NEW_TOKENS, reasoning_tokens=(8, None),
    )  # fmt: skip
    account = think(recipe, options, say_nothing, Patience(max_concurrency=MAX_CONCURRENCY))
    return Path(account["file"]), int(account["kept_questions"])


def main() -> None:
    """Run the rounds and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in asdict(Plan()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--folder", type=Path, help="where to keep models and rows; a temporary folder otherwise")
    given = vars(parser.parse_args())
    folder = given.pop("folder")
    with tempfile.TemporaryDirectory() as temporary:
        rounds = run_rounds(folder or Path(temporary), Plan(**given))
    for each in rounds:
        gain = f"{each.gain.value:+.1%} ({each.gain.low:+.1%} to {each.gain.high:+.1%})" if each.gain else ""
        rates = ", ".join(f"pass@{n} {rate.value:.1%}" for n, rate in each.pass_at.items())
        print(f"{each.name:<8} right {each.right.value:.1%} {gain}  {rates}  kept {each.kept}", flush=True)
    if given_path := folder:
        (given_path / "rounds.json").write_text(json.dumps([asdict(each) for each in rounds], indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
