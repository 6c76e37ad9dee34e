"""General probe: our own Chinese and English questions, which show whether tuning cost general ability.

Arithmetic is generated from a seed; reading, format following and nonsense to refuse are bundled.
"""

import json
import random
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from thinktune.eval.tasks import Task, make_task

PROBE_SET = "general"
PROBE_SEED = 20261
QUESTIONS_PER_FORM = 3  # in each language

# Questions about a, b and c = a * b in English and Chinese, and the range that a and b are drawn from.
_ARITHMETIC = (
    ("What is {a} + {b}?", "{a} + {b} 等于多少？", (100, 9999)),
    ("What is {a} − {b}?", "{a} − {b} 等于多少？", (100, 9999)),
    ("What is {a} × {b}?", "{a} × {b} 等于多少？", (12, 99)),
    ("What is {c} ÷ {a}?", "{c} ÷ {a} 等于多少？", (6, 49)),
    ("A box holds {a} cups. How many cups do {b} boxes hold?", "一箱有{a}个杯子，{b}箱一共有多少个杯子？", (11, 60)),
    (
        "{a} people were on the train, then {b} more got on. How many are on it now?",
        "车上原有{a}人，又上来{b}人，现在车上有多少人？",
        (20, 400),
    ),
    (
        "{c} apples are shared equally by {a} children. How many does each get?",
        "{c}个苹果平均分给{a}个孩子，每人得几个？",
        (4, 30),
    ),
    ("What remainder does {a} leave when divided by 7?", "{a}除以7的余数是多少？", (50, 999)),
)


def probe_tasks(system: str | None = None) -> list[Task]:
    """Return all questions of the probe, the same on every machine, with the system prompt if there is one."""
    lines = files("thinktune.eval").joinpath("probe.jsonl").read_text(encoding="utf-8").splitlines()
    bundled_rows = [(f"probe.jsonl:{number}", json.loads(line)) for number, line in enumerate(lines, 1)]
    generated = [(f"arithmetic:{number}", row) for number, row in enumerate(_arithmetic(), 1)]
    return [make_task(row, PROBE_SET, source, system) for source, row in [*generated, *bundled_rows]]


def _arithmetic() -> Iterator[dict[str, Any]]:
    generator = random.Random(PROBE_SEED)
    for form, (english, chinese, (low, high)) in enumerate(_ARITHMETIC):
        for text in QUESTIONS_PER_FORM * (english, chinese):
            b, a = sorted(generator.sample(range(low, high), 2))
            answer = (a + b, a - b, a * b, b, a * b, a + b, b, a % 7)[form]
            yield {
                "kind": "arithmetic",
                "question": text.format(a=a, b=b, c=a * b),
                "answer": str(answer),
                "grader": "number",
            }
