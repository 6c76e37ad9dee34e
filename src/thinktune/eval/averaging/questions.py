"""Questions by which a weight between base and tuned is chosen: held-out rows that prove nothing later, and the probe.

A choice among models makes the figures that it is made by too good. So the held-out rows that choose are left out of
every evaluation of the run, and of the general questions every second one of each kind and language is asked.
"""

from collections.abc import Sequence

import numpy as np

from thinktune.config import Recipe
from thinktune.data import Prepared, Subset
from thinktune.data.dataset import select
from thinktune.eval.averaging.curve import ALL_WEIGHTS
from thinktune.eval.general_probe import probe_tasks
from thinktune.eval.tasks import Task
from thinktune.progress import format_duration
from thinktune.run import RunFolder

MOST_HELD_OUT = 100  # rows that choose
FEWEST_HELD_OUT = 16  # rows of which half choose and half prove
GENERAL_QUESTIONS = 208


def split_held_out(recipe: Recipe, rows: Subset) -> tuple[Subset, Subset]:
    """Return the held-out rows that choose a weight, evenly spread over all of them, and the others, which prove.

    None choose where the recipe averages nothing.
    """
    count = count_choosing(recipe, len(rows))
    chosen = np.zeros(len(rows), bool)
    chosen[np.arange(count) * len(rows) // max(1, count)] = True
    return select(rows.dataset, rows.example_indices[chosen]), select(rows.dataset, rows.example_indices[~chosen])


def count_choosing(recipe: Recipe, held_out_rows: int) -> int:
    """Return how many of the held-out rows choose a weight, and so are asked by no evaluation."""
    return 0 if recipe.train.average is None else min(MOST_HELD_OUT, held_out_rows // 2)


def few_rows_fault(recipe: Recipe, rows: Subset) -> str | None:
    """Return the sentence for too few held-out rows to choose a weight by, or None."""
    if recipe.train.average is None or len(rows) >= FEWEST_HELD_OUT:
        return None
    held_out = "1 row is" if len(rows) == 1 else f"{len(rows)} rows are"
    leave = "leave train.average out"
    began = RunFolder(recipe.run_folder).is_run  # whose held-out rows stay as they are
    way_out = f"{leave}, or start a new run with name=..." if began else f"raise data.validation, or {leave}"
    return (
        f"train.average: {held_out} held out, but {FEWEST_HELD_OUT} are needed: half of them choose the weight, "
        f"the other half prove the result; {way_out}"
    )


def general_part(tasks: Sequence[Task]) -> list[Task]:
    """Return every second question of each kind and language."""
    seen: dict[tuple[str, str], int] = {}
    chosen: list[Task] = []
    for task in tasks:
        group = (task.kind, task.language)
        seen[group] = number = seen.get(group, 0) + 1
        if number % 2:
            chosen.append(task)
    return chosen


def general_questions(recipe: Recipe) -> list[Task]:
    """Return the general questions that are asked for a choice, with the run's system prompt."""
    return general_part(probe_tasks(recipe.data.system))


def reply_budget(recipe: Recipe, prepared: Prepared) -> int:
    """Return the most tokens of a reply in an evaluation: the recipe's, or twice the longest trained reply."""
    return recipe.generate.evaluate_tokens or 2 * int(prepared.train.label_tokens.max(initial=32))


def describe_cost(recipe: Recipe, prepared: Prepared, tokens_per_second: float | None = None) -> str:
    """Say how many replies averaging takes beside an evaluation, and how long at most where the speed is known.

    `tokens_per_second` is that of one reply among others of a batch.
    """
    held_out, proving = split_held_out(recipe, prepared.validation)
    asked, budget = len(held_out) + GENERAL_QUESTIONS, reply_budget(recipe, prepared)
    text = (
        f"train.average: after the last step {len(ALL_WEIGHTS)} models reply to {len(held_out)} held-out and "
        f"{GENERAL_QUESTIONS} general questions ({len(ALL_WEIGHTS) * asked:,} replies of at most {budget:,} tokens), "
        f"and {len(proving):,} held-out rows are left for eval"
    )
    if tokens_per_second is None:
        return text
    batches = len(ALL_WEIGHTS) * -(-asked // recipe.generate.batch_rows)
    return f"{text}; at the speed of the samples {format_duration(batches * budget / tokens_per_second)} at most"
