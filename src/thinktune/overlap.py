"""Questions of an evaluation that the model was trained on: the same but for case, width and spaces, or almost."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from thinktune.data import Example
from thinktune.tasks import Task
from thinktune.twins import keys, near_duplicates, question_text


def seen_in_training(tasks: Sequence[Task], trained: Iterable[Example]) -> dict[int, str]:
    """For each task whose question stands in the training rows, in the same words or nearly: which row it is.

    Nearly means that four in five of all runs of three characters are shared (Jaccard).
    """
    examples = [*trained]
    asked = [
        Example((*task.turns[:-1], replace(task.turns[-1], content=task.stem or task.question)), "") for task in tasks
    ]
    found = [keys(example) for example in examples + asked]
    if not asked or not examples:
        return {}
    questions = np.array([each.question for each in found], np.uint64)
    first = {question: row for row, question in reversed(list(enumerate(questions[: len(examples)].tolist())))}
    seen = {
        place: examples[first[question]].source
        for place, question in enumerate(questions[len(examples) :].tolist())
        if question in first
    }
    texts = [question_text(example) for example in (*examples, *asked)]
    for later, earlier, _ in near_duplicates(np.stack([each.bands for each in found]), questions, texts.__getitem__):
        if later >= len(examples) > earlier:
            seen.setdefault(later - len(examples), examples[earlier].source)
    return seen
