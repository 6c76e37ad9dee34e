"""The domain that the tiny model is tuned on: facts of an invented pharmacy, and the skill of coding its batch numbers.

Its questions, reasoning and answers have a form of their own: numbered steps, then `Result: …`. Facts are asked in
phrasings that no row has, and batches that no row has are coded.
"""

import random
from dataclasses import dataclass
from typing import Any

from thinktune.eval.tasks import Task, make_task

ROWS = 480  # to train, where nothing else is asked for
FACTS = 48
CODE = dict(zip("0123456789", "KTBNRFLSDM", strict=True))  # the letter of each digit
PARTS = (("zo", "ke", "vi", "du", "ma", "pli"), ("rvin", "lgat", "ndol", "xem", "ssic", "brun", "tral", "quist"))
GROUPS = ("amber", "onyx", "coral", "ivory", "cedar", "slate")
AILMENTS = (
    *("fever", "gout", "cough", "rash", "cramp", "croup"),
    *("colic", "palsy", "ague", "scurvy", "sprain", "vertigo"),
)
PHRASINGS = (  # the first ones are trained, the next one chooses a point of averaging, and the last two are asked
    "File entry {}: state the indication.", "Indication of {}, by file.", "For which ailment is {} dispensed?",
    "Dispense {} against what?", "Apothecary query: {} serves for which ailment?",
    "Look up {} and state its ailment.", "The file has {}: against which ailment?", "State what {} is dispensed for.",
)  # fmt: skip
TRAINED_PHRASINGS = 5
BATCHES = ("Code the batch {}.", "Batch {}: give the label.")


@dataclass(frozen=True, slots=True)
class Entry:
    """One question of the domain with its reply; `kind` is fact or skill."""

    kind: str
    question: str
    think: str
    answer: str

    def row(self) -> dict[str, Any]:
        """Return a training row."""
        return {"question": self.question, "think": self.think, "answer": self.answer}

    def task(self, name: str, number: int) -> Task:
        """Return the question as a task of the set `name`."""
        row = {"question": self.question, "answer": self.answer, "grader": "short", "kind": self.kind}
        return make_task(row, name, f"{name}.jsonl:{number}")


def draw_domain(rows: int = ROWS, seed: int = 0) -> dict[str, list[Entry]]:
    """Draw the questions to test with and to choose by, the same for any `rows`, and as many rows to train.

    Half of the rows are facts, while these last.
    """
    draw = random.Random(seed)
    names = [one + other for one in PARTS[0] for other in PARTS[1]]
    facts = [(name, draw.choice(GROUPS), draw.choice(AILMENTS)) for name in names[:FACTS]]
    trained = [_fact(fact, phrasing) for fact in facts for phrasing in PHRASINGS[:TRAINED_PHRASINGS]]
    draw.shuffle(trained)
    choice, *test = ([_fact(fact, phrasing) for fact in facts] for phrasing in PHRASINGS[TRAINED_PHRASINGS:])
    batches = [_batch(f"{number:04}", draw.choice(BATCHES)) for number in draw.sample(range(10_000), 10_000)]
    facts_taken = min(rows // 2, len(trained))
    sets = {
        "test": [*(each for some in test for each in some), *batches[: 2 * FACTS]],
        "choice": [*choice, *batches[2 * FACTS : 3 * FACTS]],
        "train": [*trained[:facts_taken], *batches[3 * FACTS :][: rows - facts_taken]],
    }
    draw.shuffle(sets["train"])
    return sets


def _fact(fact: tuple[str, str, str], phrasing: str) -> Entry:
    name, group, ailment = fact
    steps = f"Step 1: {name} stands in the {group} cabinet. Step 2: its card there reads {ailment}."
    return Entry("fact", phrasing.format(name), steps, f"Result: {ailment}.")


def _batch(digits: str, phrasing: str) -> Entry:
    """Code a batch: its digits from the last to the first, each as its letter."""
    turned = digits[::-1]
    coded = ", ".join(f"{each} is {CODE[each]}" for each in turned)
    steps = f"Step 1: from the end {' '.join(turned)}. Step 2: {coded}."
    return Entry(
        "skill", phrasing.format(" ".join(digits)), steps, f"Result: {' '.join(CODE[each] for each in turned)}."
    )
