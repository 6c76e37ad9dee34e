"""What `init`'s recipe brings, run as it is: 30, 300 and 3,000 rows of the demo's kind, on the demo's base.

`python benchmarks/first_recipe.py FOLDER [--rows 30 300 3000]` needs no accelerator. It makes the demo's base once
(half a minute on two quiet cores), writes the rows, lets `init` write a recipe for them, and trains it. It prints
the eval loss of base and best checkpoint, whether the difference is more than chance explains, and what `init` had said
beforehand. The 3,000 rows are the demo's 720 questions in five wordings each, so held-out ones have near duplicates
in training.
"""

import json
import random
import time
from argparse import ArgumentParser
from pathlib import Path

from thinktune.commands.init import InitOptions, init_recipe
from thinktune.config import load_recipe
from thinktune.demo import pipeline
from thinktune.files import atomic_write_text, write_json_lines
from thinktune.progress import say_nothing
from thinktune.run.diagnosis import diagnose_run
from thinktune.train import train

WORDINGS = {
    "zh": ("{}", "请问：{}", "医生，{}", "想知道：{}", "麻烦答一下，{}"),
    "en": ("{}", "Tell me: {}", "Doctor, {}", "I wonder: {}", "For the exam: {}"),
}


def make_base(folder: Path) -> Path:
    """Train the demo's base into a folder, unless it is there; return its model's folder."""
    atomic_write_text(
        folder / "base.yaml", pipeline.read_text("base.yaml").replace(pipeline.RECIPE_FOLDER, folder.as_posix())
    )
    pipeline.write_rows(folder / "rows")
    if not (folder / "start").is_dir():
        pipeline.make_initial_model(folder)
    return train(load_recipe(folder / "base.yaml"), say_nothing) / "final"


def write_rows(file: Path, count: int) -> Path:
    """Write so many rows of the demo's facts, chosen by chance."""
    rows = [
        {"question": wording.format(question), "think": fact["reasoning"], "answer": fact["answer"]}
        for fact in pipeline.read_bundled("facts.jsonl")
        for question in (*fact["questions"], *fact["held_out"])
        for wording in WORDINGS[fact["language"]][: None if count > 720 else 1]
    ]
    write_json_lines(file, random.Random(count).sample(rows, count))
    return file


def main() -> None:
    """Print a row of the table for each number of rows."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[30, 300, 3000])
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    base = make_base(given.folder)
    print("| rows | recipe | base | best | better | seconds | said beforehand |\n|---|---|---|---|---|---|---|")
    for count in given.rows:
        said: list[str] = []
        file = given.folder / f"init-{count}.yaml"
        file.unlink(missing_ok=True)
        init_recipe(
            InitOptions(write_rows(given.folder / f"{count}.jsonl", count), str(base), output=file), said.append
        )
        recipe = load_recipe(file, [f"runs_folder={json.dumps(str(given.folder))}"])
        started = time.monotonic()
        found = diagnose_run(train(recipe, say_nothing))
        sizes = (
            f"{recipe.train.epochs} epochs, {recipe.train.tokens_per_step} tokens, {recipe.data.validation:g} held out"
        )
        told = "; ".join(line for line in said if line.startswith(("note: ", "time: ")))
        losses = f"{found.base_loss:.3f} | {found.best_loss:.3f} | {found.improved}"
        print(f"| {count} | {sizes} | {losses} | {time.monotonic() - started:.0f} | {told} |", flush=True)


if __name__ == "__main__":
    main()
