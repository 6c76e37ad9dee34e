"""Teacher: every reply once, within the budget, through failures of every kind, stops and kills."""

import threading
from contextlib import contextmanager

import pytest
from support.scripted_teacher import PROMPT_TOKENS, REPLY_TOKENS, teaching

from thinktune.errors import UpstreamError, UserError
from thinktune.inference import Endpoint, Request, SamplingParams
from thinktune.synthesis.ledger import Ledger, Price, Usage
from thinktune.synthesis.reply_journal import ReplyJournal
from thinktune.synthesis.teacher import MAX_FIRST_REFUSALS, Patience, Teacher
from thinktune.tokenization import Turn

QUICK = Patience(max_concurrency=4, max_attempts=4, first_wait_seconds=0.01)


def ask(*numbers, seed=0, max_tokens=100):
    sampling = SamplingParams(max_tokens, temperature=0.7, seed=seed)
    return [Request((Turn("user", f"What is {number} plus {number}?"),), sampling) for number in numbers]


@contextmanager
def opened(folder, address, patience=QUICK, timeout_seconds=1.0, **bounds):
    url, _, model = address.partition("#")
    journal, ledger = ReplyJournal(folder / "replies.jsonl"), Ledger(**bounds)
    ledger.charge(journal.spent)
    endpoint = Endpoint(url, model, timeout_seconds=timeout_seconds, max_attempts=1)
    teacher = Teacher(endpoint, model, address, journal, ledger, patience)
    try:
        yield teacher, ledger
    finally:
        teacher.close()
        journal.close()


def answers(teacher, requests):
    return {index: reply.answer for index, reply in teacher.complete(requests)}


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "tags"])
def test_reasoning_is_read_from_every_field(tmp_path, field):
    with teaching(field=field) as (address, _), opened(tmp_path, address) as (teacher, ledger):
        [(_, reply)] = teacher.complete(ask(3))
        assert reply.answer == "It is 6."
        assert "I take 3 and add 3" in reply.reasoning
        assert ledger.spent == Usage(PROMPT_TOKENS, REPLY_TOKENS)


@pytest.mark.parametrize("mood", ["errs", "is busy", "stalls", "breaks off"])
def test_failures_that_pass_are_tried_again(tmp_path, mood):
    with (
        teaching({"3": [mood, mood, "then well"]}) as (address, script),
        opened(tmp_path, address) as (teacher, _),
    ):
        assert answers(teacher, ask(2, 3, 4)) == {0: "It is 4.", 1: "It is 6.", 2: "It is 8."}
        assert script.asked["3"] == 3
        assert not teacher.failures


def test_one_question_that_always_fails_costs_no_other_its_reply(tmp_path):
    moods = {"33": ["errs", "errs"], "44": ["refuses", "refuses"]}
    with teaching(moods) as (address, script), opened(tmp_path, address) as (teacher, _):
        assert answers(teacher, ask(2, 33, 44, 5)) == {0: "It is 4.", 3: "It is 10."}
        assert teacher.failures == {"no reply": 1, "refused by the teacher": 1}
        assert (script.asked["33"], script.asked["44"]) == (QUICK.max_attempts, 1)


def test_what_was_answered_is_never_asked_again_and_equal_requests_are_sent_once(tmp_path):
    with teaching() as (address, script):
        with opened(tmp_path, address) as (teacher, _):
            assert len(answers(teacher, ask(2, 3, 2))) == 3
        with opened(tmp_path, address) as (teacher, ledger):
            assert answers(teacher, ask(2, 3, 4)) == {0: "It is 4.", 1: "It is 6.", 2: "It is 8."}
            assert ledger.spent.total == 3 * (PROMPT_TOKENS + REPLY_TOKENS)
        assert len(script.bodies) == 3


def test_another_seed_is_another_request(tmp_path):
    with teaching() as (address, script), opened(tmp_path, address) as (teacher, _):
        answers(teacher, [*ask(2, seed=1), *ask(2, seed=2)])
        assert sorted(body["seed"] for body in script.bodies) == [1, 2]


@pytest.mark.parametrize("mood", ["has no money"])
def test_a_server_that_refuses_us_stops_all(tmp_path, mood):
    with (
        teaching({"What": [mood, mood]}) as (address, script),
        opened(tmp_path, address) as (teacher, _),
        pytest.raises(UpstreamError, match=r"asks for payment \(402: Insufficient Balance\); top up"),
    ):
        answers(teacher, ask(*range(2, 90)))
    assert len(script.bodies) <= QUICK.max_concurrency


def test_a_server_that_is_gone_stops_all_and_what_there_was_is_kept(tmp_path):
    moods = {"What": [*["well"] * 5, "errs", "errs"]}
    with (
        teaching(moods) as (address, script),
        opened(tmp_path, address, Patience(1, 2, 0.01)) as (teacher, _),
        pytest.raises(
            UpstreamError, match=r"answers 500: no: no request was answered .*run the same command to continue"
        ),
    ):
        answers(teacher, ask(*range(2, 90)))
    assert len(script.bodies) < 30
    assert len(ReplyJournal(tmp_path / "replies.jsonl")) == 5


def test_failures_before_a_reply_cost_nothing_and_a_wait_of_hours_is_not_waited_for(tmp_path):
    moods = {"3": ["errs", "is busy", "then well"], "4": ["is closed for hours"] * 3}
    with teaching(moods) as (address, script), opened(tmp_path, address) as (teacher, ledger):
        assert answers(teacher, ask(3, 4)) == {0: "It is 6."}
        assert ledger.spent == Usage(PROMPT_TOKENS, REPLY_TOKENS)
        assert script.asked["4"] == 1
        assert teacher.failures == {"no reply": 1}


def test_a_server_that_refuses_every_question_stops_all(tmp_path):
    with (
        teaching({"What": ["refuses", "refuses"]}) as (address, script),
        opened(tmp_path, address) as (teacher, _),
        pytest.raises(UserError, match=r"refuses the request \(400\): this content is not allowed"),
    ):
        answers(teacher, ask(*range(2, 90)))
    assert len(script.bodies) <= MAX_FIRST_REFUSALS + QUICK.max_concurrency


MOODS = ["well", "errs", "stalls", "breaks off", "is cut", "lies", "is busy"]


@pytest.mark.parametrize("bounds", [{"max_tokens": 6_000}, {"price": Price(2, 8, "CNY"), "max_cost": 0.03}])
@pytest.mark.parametrize("counts", [True, False])
def test_the_bill_never_exceeds_the_budget_and_most_of_it_is_used(tmp_path, bounds, counts):
    with (
        teaching({"What": MOODS * 40}, counts=counts) as (address, script),
        opened(tmp_path, address, timeout_seconds=0.05, **bounds) as (teacher, ledger),
    ):
        got = answers(teacher, ask(*range(2, 200)))
        assert teacher.is_spent
        assert 0 < len(got) < 198
        assert ledger.spent.total >= script.billed_tokens  # what we count is never less than the bill
        assert ledger.spent.total <= bounds.get("max_tokens", 10**9)
        assert ledger.cost is None or 0.02 < ledger.cost <= 0.03
        if "max_tokens" in bounds:
            assert ledger.spent.total > 5_000


def test_a_budget_is_for_the_folder_and_not_for_each_start(tmp_path):
    with teaching() as (address, script):
        for _ in range(5):
            with opened(tmp_path, address, max_tokens=1_500) as (teacher, _):
                answers(teacher, ask(*range(2, 90)))
        assert script.billed_tokens <= 1_500


def test_closing_ends_requests_in_flight_and_counts_them(tmp_path):
    with (
        teaching({"What": ["stalls", "stalls"]}) as (address, script),
        opened(tmp_path, address, timeout_seconds=20) as (teacher, ledger),
    ):
        replies = []
        reader = threading.Thread(target=lambda: replies.extend(teacher.complete(ask(2, 3))))
        reader.start()
        while len(script.bodies) < 2:
            pass
        teacher.close()
        reader.join(10)
        assert not reader.is_alive()
        assert not replies
        assert ledger.spent.total >= script.billed_tokens


def test_a_teacher_that_repeats_our_key_does_not_get_it_into_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("THINKTUNE_ENDPOINT_KEY", "a-secret-of-ours-123")
    moods = {"3": ["echoes the key", "then well"], "4": ["errs", "then well"]}
    with teaching(moods) as (address, script), opened(tmp_path, address) as (teacher, _):
        replies = dict(teacher.complete(ask(3, 4)))
    assert script.bodies[0]["key"] == "Bearer a-secret-of-ours-123"
    assert "***" in replies[0].reasoning
    assert "a-secret" not in (tmp_path / "replies.jsonl").read_text()
