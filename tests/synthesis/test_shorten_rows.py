"""`think` with `shorten`: long reasoning is rewritten where the answer still follows, and all other rows stay as they were."""

import json
import re
from pathlib import Path

import pytest
from support.chat_server import DONE, part, reply, serving, usage
from support.runs import settings

from thinktune.config import load_recipe
from thinktune.data.pipeline import prepare_with_faults
from thinktune.errors import UserError
from thinktune.progress import say_nothing
from thinktune.synthesis import ThinkOptions, account_lines, think
from thinktune.synthesis.teacher import Patience

QUICK = Patience(max_concurrency=2, max_attempts=2, first_wait_seconds=0.01, timeout_seconds=2.0)


class Editor:
    """A teacher that rewrites sums in one sentence, wrongly the first time for the number that it is told."""

    def __init__(self, wrong_once=None):
        self.wrong_once, self.asked = wrong_once, []

    def __call__(self, body):
        text = body["messages"][-1]["content"]
        first, second = map(int, re.findall(r"\d+", text.split("[Question]")[1])[:2])
        is_rewriting = "Rewrite" in text
        self.asked.append((first, is_rewriting))
        if is_rewriting:
            total = first + second
            if first == self.wrong_once and self.asked.count((first, True)) == 1:
                total += 1
            said = f"I put {first} and {second} together and get {total}."
        else:
            said = re.findall(r"get (\d+)", text)[-1]
        return reply(part(said), part(finish="stop"), usage(20, 9, 0), DONE)


def rows():
    long = " ".join(f"Let me count on, step {step}, slowly." for step in range(30))
    texts = [(n, f"{long} So {n} and {2 * n} give {3 * n}.") for n in (11, 12, 13)] + [
        (14, "14 and 28 give 42, I think.")
    ]
    return [
        {"question": f"What is {n} plus {2 * n}?", "think": think, "answer": f"It is {3 * n}."} for n, think in texts
    ]


@pytest.fixture
def recipe(tree):
    text = "".join(json.dumps(row) + "\n" for row in rows())
    Path(tree["data"]["name"]).write_text(text, encoding="utf-8")
    return settings(tree, data={"columns": {}, "max_tokens": 400})


def shortened(recipe, script, **options):
    with serving(script) as (url, _):
        chosen = {"teacher": f"{url}#editor", "shorten": True, "reasoning_tokens": (1, 60), "tries": 2}
        return think(recipe, ThinkOptions(**chosen | options), say_nothing, QUICK)


def thoughts(account):
    return [json.loads(line)["think"] for line in Path(account["file"]).read_text(encoding="utf-8").splitlines()]


def test_long_reasoning_is_rewritten_and_the_rest_stays(recipe, tokenizer):
    account = shortened(recipe, Editor())
    assert thoughts(account) == [
        *(f"I put {n} and {2 * n} together and get {3 * n}." for n in (11, 12, 13)),
        rows()[3]["think"],
    ]
    made = json.loads(Path(account["file"]).read_text(encoding="utf-8").splitlines()[0])
    assert made["answer"] == "It is 33."
    assert made["provenance"]["replies"][0]["kind"] == "shortened"
    prepared = prepare_with_faults(load_recipe(Path(account["recipe"])), tokenizer)
    assert len(prepared.train) + len(prepared.validation) == 4
    assert "4 rows read: 3 without reasoning that is short enough, 1 passed on" in next(account_lines(account))


def test_a_wrong_rewriting_is_asked_for_again_and_else_the_row_keeps_its_own(recipe):
    script = Editor(wrong_once=12)
    assert thoughts(shortened(recipe, script))[1] == "I put 12 and 24 together and get 36."
    assert script.asked.count((12, True)) == 2
    assert script.asked.count((11, True)) == 1
    roomy = recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_tokens": 2000})})
    alone = shortened(roomy, Editor(wrong_once=12), tries=1, folder=recipe.runs_folder / "once")
    assert thoughts(alone)[1] == rows()[1]["think"]
    assert alone["written_rows"] == 4


def test_a_row_that_is_still_too_long_to_train_is_left_out_and_told(recipe):
    account = shortened(recipe, Editor(wrong_once=12), tries=1)
    assert account["written_rows"] == 3
    assert "  not written, because check would drop them: too_long: 1 rows" in account["notes"]


def test_nothing_is_asked_twice(recipe):
    script = Editor()
    with serving(script) as (url, _):
        options = ThinkOptions(teacher=f"{url}#editor", shorten=True, reasoning_tokens=(1, 60), tries=2)
        first = think(recipe, options, say_nothing, QUICK)
        again = think(recipe, options, say_nothing, QUICK)
    assert thoughts(first) == thoughts(again)
    assert len(script.asked) == 6


def test_mistakes_are_said(recipe):
    with pytest.raises(UserError, match="--shorten: set the token limit of reasoning, as in --length :800"):
        think(recipe, ThinkOptions(shorten=True), say_nothing)
    with pytest.raises(UserError, match="nothing to shorten"):
        shortened(recipe, Editor(), reasoning_tokens=(1, 5000))
