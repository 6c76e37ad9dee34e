"""Judge of free text: no worse in both orders, or not kept; asked once, and within the same budget."""

import json

import pytest
from support.chat_server import DONE, part, reply, serving, usage
from support.runs import settings
from support.scripted_teacher import teaching

from thinktune.progress import say_nothing
from thinktune.synthesis import ThinkOptions, think
from thinktune.synthesis.teacher import Patience

QUICK = Patience(max_concurrency=4, max_attempts=2, first_wait_seconds=0.01, timeout_seconds=2.0)
QUESTION = "Explain in your own words why one should count on from 11 and not from 1 when 33 are added."
OWN = "The first group has been counted already, so beginning again would be wasted effort and a source of slips."


def always(winner):
    return lambda prompt: winner


def prefers(mark):
    """Make a judge that prefers the answer with a mark, wherever it stands."""
    return lambda prompt: "1" if mark in prompt.partition("[Answer 2]")[0] else "2"


@pytest.fixture
def judged(tree, tmp_path):
    def make(say, counts=True, **options):
        (tmp_path / "rows.jsonl").write_text(json.dumps({"question": QUESTION, "answer": OWN}) + "\n")

        def script(body):
            asked.append(body)
            text = json.dumps({"reason": "so it is", "winner": say(body["messages"][-1]["content"])})
            return reply(part(text), part(finish="stop"), usage(200, 30), DONE)

        asked = []
        with teaching({"Explain": ["explains", "explains"]}) as (teacher, _), serving(script) as (url, _):
            given = ThinkOptions(teacher=teacher, judge=f"{url}#judge", tries=1, **options)
            accounts = [
                think(settings(tree, data={"columns": {}, "max_tokens": 600}), given, say_nothing, QUICK)
                for _ in range(2)
            ]
        assert [each["why_not"] for each in accounts[:1]] == [each["why_not"] for each in accounts[1:]]
        return accounts[0], asked

    return make


@pytest.mark.parametrize(
    ("say", "why"),
    [
        (always("tie"), None),
        (prefers("It saves work"), None),
        (prefers("The first group has been counted already"), "worse than the row's own answer"),
        (always("1"), "worse than the row's own answer"),  # whichever stands first: one order prefers the row's own
        (always("both"), "the judge's verdict is unreadable"),
    ],
)
def test_an_answer_is_kept_if_neither_order_prefers_the_rows_own(judged, say, why):
    account, asked = judged(say)
    assert [reason["why"] for reason in account["why_not"]] == ([why] if why else [])
    assert account["kept_replies"] == (0 if why else 1)
    assert len(asked) == 2  # both orders, and nothing again by the second call
    assert account["tokens"]["prompt"] == 30 + 2 * 200


def test_a_budget_holds_for_the_judge_too(judged):
    account, asked = judged(always("tie"), max_tokens=1_000)
    assert not asked
    assert account["budget_spent"]
    assert account["kept_replies"] == 0
