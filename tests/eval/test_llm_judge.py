"""A judge sees both orders; only agreement counts; every verdict is saved and paid for once."""

import json

import pytest

from thinktune.eval.completion_store import read_records
from thinktune.eval.llm_judge import (
    ORDERS,
    AnswerPair,
    combine_orders,
    judge_pairs,
    judgement_key,
    parse_judgement,
    summarize_judgements,
)
from thinktune.inference.requests import Completion

PAIRS = [
    AnswerPair("What pumps blood?", "the heart", "the lung", "the heart"),
    AnswerPair("什么泵血？", "心脏", "心脏", "肺"),
    AnswerPair("Why {so}?", "", "because", "because of it"),
    AnswerPair("Same?", "yes", "yes", "yes "),
]


class Judge:
    """Fake judge model: replies by a rule on the two answers, last request first."""

    def __init__(self, rule):
        self.rule, self.asked = rule, []

    def complete(self, requests, max_concurrency=32):
        for index in reversed(range(len(requests))):
            shown = requests[index].turns[-1].content
            self.asked.append(shown)
            first, second = shown.split("[Answer 1]\n")[1].split("\n\nReply with")[0].split("\n\n[Answer 2]\n")
            yield index, Completion("", self.rule(first, second), 20, 0, "end", True, prompt_tokens=100)


def by_reference(first, second):
    good = {"the heart", "心脏"}
    winner = "tie" if (first in good) == (second in good) else "1" if first in good else "2"
    return 'Well: {"reason": "it is right", "winner": "' + winner + '"}'


def quiet(_line):
    pass


def judgements(file, model="m"):
    saved = read_records(file)
    return [combine_orders(pair, model, saved) for pair in PAIRS]


def test_both_orders_are_asked_and_only_agreement_counts(tmp_path):
    file = tmp_path / "judgements.jsonl"
    asked = Judge(by_reference)
    judge_pairs(PAIRS, "m", asked, file, quiet)
    assert len(asked.asked) == 6  # the pair of equal answers is a tie by itself
    assert [each.preferred for each in judgements(file)] == [1, 0, 0.5, 0.5]
    summary = summarize_judgements("m", judgements(file))
    assert (summary["wins"], summary["ties"], summary["losses"], summary["orders_agreed"]) == (1, 2, 1, 4)
    assert (summary["prompt_tokens"], summary["tokens"]) == (600, 120)
    assert {json.loads(line)["reason"] for line in file.read_text(encoding="utf-8").splitlines()} == {"it is right"}


def test_a_judge_that_always_picks_the_first_has_no_preference(tmp_path):
    file = tmp_path / "judgements.jsonl"
    judge_pairs(PAIRS, "m", Judge(lambda first, second: '{"winner": "1", "reason": ""}'), file, quiet)
    assert [each.preferred for each in judgements(file)] == [0.5] * 4
    assert summarize_judgements("m", judgements(file))["orders_agreed"] == 1


def test_an_unreadable_verdict_is_counted_as_such(tmp_path):
    file = tmp_path / "judgements.jsonl"
    judge_pairs(PAIRS, "m", Judge(lambda first, second: "Both are nice."), file, quiet)
    summary = summarize_judgements("m", judgements(file))
    assert (summary["unread"], summary["ties"], summary["pairs"]) == (3, 1, 4)


def test_a_judge_that_was_stopped_is_asked_only_for_the_rest(tmp_path):
    file = tmp_path / "judgements.jsonl"

    class Stops(Judge):
        def complete(self, requests, max_concurrency=32):
            for number, reply in enumerate(super().complete(requests)):
                if number == 4:
                    raise ConnectionError
                yield reply

    with pytest.raises(ConnectionError):
        judge_pairs(PAIRS, "m", Stops(by_reference), file, quiet)
    assert judgements(file)[0] is None
    rest = Judge(by_reference)
    judge_pairs(PAIRS, "m", rest, file, quiet)
    assert len(rest.asked) == 2
    assert [each.preferred for each in judgements(file)] == [1, 0, 0.5, 0.5]
    other = Judge(by_reference)
    judge_pairs(PAIRS, "another", other, file, quiet)
    assert len(other.asked) == 6


@pytest.mark.parametrize(
    ("text", "winner"),
    [
        ('{"reason": "x", "winner": "1"}', "base"),
        ('{"winner": 2, "reason": "x"}', "tuned"),
        ('```json\n{"reason": "a\nb", "winner": "tie"}\n```', "tie"),
        ('First {"winner": "1"} then {"winner": "2"}', "tuned"),
        ('{"reason": "1 holds {x}, 2 not", "winner": "1"}', "base"),
        ('{"winner": "3"}', "unread"),
        ("", "unread"),
    ],
)
def test_verdicts_are_parsed(text, winner):
    assert parse_judgement(text, ORDERS[0])[0] == winner
    swapped = {"base": "tuned", "tuned": "base"}.get(winner, winner)
    assert parse_judgement(text, ORDERS[1])[0] == swapped


def test_each_order_has_its_own_verdict():
    assert len({judgement_key(pair, order, "m") for pair in PAIRS for order in ORDERS}) == 8


@pytest.mark.parametrize(
    ("winners", "preferred"),
    [
        (("tuned", "tuned"), 1),
        (("tuned", "tie"), 0.5),
        (("tie", "tie"), 0.5),
        (("base", "tuned"), 0.5),
        (("tie", "base"), 0.5),
        (("base", "base"), 0),
        (("tuned", "unread"), None),
    ],
)
def test_a_side_wins_if_both_orders_say_so(winners, preferred):
    saved = {
        judgement_key(PAIRS[0], order, "m"): {"winner": winner, "prompt_tokens": 1, "tokens": 1}
        for order, winner in zip(ORDERS, winners, strict=True)
    }
    assert combine_orders(PAIRS[0], "m", saved).preferred == preferred
