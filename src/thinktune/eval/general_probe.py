"""General probe: our own Chinese and English questions, which show whether tuning cost general ability.

There are eight kinds, each with as many questions in either language. Arithmetic is generated from a seed; the rest is
bundled. Every question has one exact key: a number, a word, the points of an answer, a letter, or rules of its form.
"""

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.resources import files
from typing import Any

from thinktune.eval.one_answer import limit_length, one_answer_pattern, one_number_pattern
from thinktune.eval.tasks import Task, make_task
from thinktune.tokenization import Turn

PROBE_SET = "general"
PROBE_VERSION = 2  # of the questions; an evaluation records it, and figures of different versions do not compare
PROBE_SEED = 20261
QUESTIONS_PER_FORM = 2  # in each language

# Questions about a > b, c = a * b, h = 100 * a, d = a - b and s = a + b in English and Chinese, the range that a and b
# are drawn from, and their answer.
_ARITHMETIC: tuple[tuple[str, str, tuple[int, int], Callable[[int, int], int]], ...] = (
    ("What is {a} + {b}?", "{a} + {b} 等于多少？", (100, 9999), lambda a, b: a + b),
    ("What is {a} − {b}?", "{a} − {b} 等于多少？", (100, 9999), lambda a, b: a - b),
    ("What is {a} × {b}?", "{a} × {b} 等于多少？", (12, 99), lambda a, b: a * b),
    ("What is {c} ÷ {a}?", "{c} ÷ {a} 等于多少？", (6, 49), lambda a, b: b),
    (
        "A box holds {a} cups. How many cups do {b} boxes hold?",
        "一箱有{a}个杯子，{b}箱一共有多少个杯子？",
        (11, 60),
        lambda a, b: a * b,
    ),
    (
        "{a} people were on the train, then {b} more got on. How many are on it now?",
        "车上原有{a}人，又上来{b}人，现在车上有多少人？",
        (20, 400),
        lambda a, b: a + b,
    ),
    (
        "{c} apples are shared equally by {a} children. How many does each get?",
        "{c}个苹果平均分给{a}个孩子，每人得几个？",
        (11, 40),
        lambda a, b: b,
    ),
    (
        "What remainder does {a} leave when divided by 7? Answer in digits.",
        "{a}除以7的余数是多少？用阿拉伯数字回答。",
        (50, 999),
        lambda a, b: a % 7,
    ),
    ("What is {a} + {b} × 3?", "{a} + {b} × 3 等于多少？", (12, 99), lambda a, b: a + 3 * b),
    ("What is {b} percent of {h}?", "{h}的百分之{b}是多少？", (3, 60), lambda a, b: a * b),
    ("What is the mean of {d} and {s}?", "{d}和{s}的平均数是多少？", (20, 300), lambda a, b: a),
    (
        "A field is {a} metres long and {b} metres wide. How many metres of fence go round it?",
        "一块地长{a}米、宽{b}米，围一圈篱笆要多少米？",
        (11, 200),
        lambda a, b: 2 * (a + b),
    ),
    (
        "In the morning it was −{b} °C. By noon it was {a} degrees warmer. How many °C was it at noon?",
        "早上是零下{b}度，到中午升高了{a}度，中午是多少度？",
        (2, 30),
        lambda a, b: a - b,
    ),
)


def probe_tasks(system: str | None = None) -> list[Task]:
    """Return all questions of the probe, the same on every machine, with the system prompt if there is one."""
    generated = [(f"arithmetic:{number}", row) for number, row in enumerate(_arithmetic(), 1)]
    bundled = [(f"probe.jsonl:{number}", row) for number, row in enumerate(bundled_rows(), 1)]
    tasks = [make_task(_complete(row), PROBE_SET, source, system) for source, row in [*generated, *bundled]]
    return [replace(task, stem=_without_instruction(task.stem or task.question, task.kind)) for task in tasks]


def bundled_rows() -> list[dict[str, Any]]:
    """Read the bundled questions, with answers that pass and that fail (`passes`, `fails`), for the tests.

    `rivals` are other candidates that a right answer does not offer.
    """
    lines = files("thinktune.eval").joinpath("probe.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _complete(row: dict[str, Any]) -> dict[str, Any]:
    """Make turns of a row's `history`, the user's first, and a pattern that allows one answer."""
    said = enumerate(row.get("history", ()))
    history = tuple(Turn("assistant", text) if place % 2 else Turn("user", text) for place, text in said)
    rules, points = row.get("rules"), row.get("keypoints", ())
    if not rules:
        return row | {"history": history}
    if "pattern" in rules:
        pattern: str | None = limit_length(rules["pattern"])
    elif row.get("grader") == "number":
        pattern = one_number_pattern(row["answer"])
    else:
        pattern = one_answer_pattern(points[0].split("|"), row.get("rivals", ())) if len(points) == 1 else None
    return row | {"history": history, "rules": rules | {"pattern": pattern}}


def _without_instruction(question: str, kind: str) -> str:
    """Return what a question asks without how to answer it, as rows that were trained on may ask the same."""
    if kind in ("knowledge", "translation") and "\n\n" not in question:
        return re.split("[:：]\\s*", question, maxsplit=1)[-1]
    return question.split("\n\n", 1)[-1]


def _arithmetic() -> Iterator[dict[str, Any]]:
    generator = random.Random(PROBE_SEED)
    for english, chinese, (low, high), solve in _ARITHMETIC:
        for language, text in QUESTIONS_PER_FORM * (("en", english), ("zh", chinese)):
            b, a = sorted(generator.sample(range(low, high), 2))
            yield {
                "kind": "arithmetic",
                "language": language,
                "question": text.format(a=a, b=b, c=a * b, h=100 * a, d=a - b, s=a + b),
                "answer": str(solve(a, b)),
                "grader": "number",
            }
