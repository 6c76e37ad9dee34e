"""Feedback in a run's folder: every line whole, others' lines untouched, one writer at a time, and its questions."""

import json
import os
import threading
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from thinktune.errors import UserError
from thinktune.run import RunFolder, feedback
from thinktune.run.feedback import put_record, read_votes
from thinktune.run.sample_questions import held_out_questions


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path)


def lines(run):
    return run.votes.read_bytes().split(b"\n")[:-1] if run.votes.exists() else []


def vote(identity, preferred="tuned"):
    return {"id": identity, "preferred": preferred}


def test_a_record_is_put_replaced_in_its_place_and_taken_away(run):
    for identity in ("one-0001", "two-0002", "three-03"):
        put_record(run, run.votes, identity, vote(identity))
    put_record(run, run.votes, "two-0002", vote("two-0002", "base"))
    assert [each["preferred"] for each in read_votes(run)] == ["tuned", "base", "tuned"]
    put_record(run, run.votes, "one-0001", None)
    put_record(run, run.votes, "never-said", None)
    assert [each["id"] for each in read_votes(run)] == ["two-0002", "three-03"]
    for identity in ("two-0002", "three-03"):
        put_record(run, run.votes, identity, None)
    assert not run.votes.exists()


@settings(max_examples=15)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from(["tuned", "base", "tie", "neither", None])), max_size=12
    )
)
def test_any_order_of_votes_and_withdrawals_leaves_the_last_word_on_each(tmp_path_factory, said):
    run, expected = RunFolder(tmp_path_factory.mktemp("run")), {}
    for identity, preferred in said:
        put_record(run, run.votes, identity, vote(identity, preferred) if preferred else None)
        if preferred:
            expected[identity] = preferred
        else:
            expected.pop(identity, None)
    assert {each["id"]: each["preferred"] for each in read_votes(run)} == expected


@pytest.mark.parametrize("ending", [b"", b"\n"], ids=["no last end of line", "whole"])
def test_lines_of_others_stay_to_the_byte_and_are_never_joined_to_a_record(run, ending):
    others = [b'{"id": "one-0001"', b"", b"\xff\xfe one-0001", b'  {"id":"other-01", "x": "one-0001"}', b'["one-0001"]']
    run.votes.write_bytes(b"\n".join(others) + ending)
    put_record(run, run.votes, "one-0001", vote("one-0001"))
    assert lines(run)[:-1] == others
    assert json.loads(lines(run)[-1]) == vote("one-0001")
    put_record(run, run.votes, "one-0001", None)
    assert lines(run) == others


def test_the_identity_of_a_row_is_in_its_provenance(run):
    row = {"id": "the-user's", "provenance": {"id": "row-00001"}, "label": True}
    put_record(run, run.chat_rows, "row-00001", row)
    put_record(run, run.chat_rows, "the-user's", None)
    put_record(run, run.chat_rows, "row-00001", row | {"label": False})
    assert [json.loads(line)["label"] for line in run.chat_rows.read_text().splitlines()] == [False]


def test_many_writers_lose_nothing(run):
    def write(writer):
        for number in range(8):
            put_record(run, run.votes, f"{writer}-{number}-xx", vote(f"{writer}-{number}-xx"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_votes(run)) == 32


def test_a_failed_write_leaves_the_former_file_and_no_part(run, monkeypatch):
    put_record(run, run.votes, "one-0001", vote("one-0001"))
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        put_record(run, run.votes, "two-0002", vote("two-0002"))
    assert [each["id"] for each in read_votes(run)] == ["one-0001"]
    assert not [*run.path.glob("*.partial"), *run.path.glob(".*.partial")]


def test_a_link_stays_a_link(run, tmp_path):
    kept = tmp_path / "elsewhere.jsonl"
    kept.write_text("")
    run.votes.symlink_to(kept)
    put_record(run, run.votes, "one-0001", vote("one-0001"))
    assert run.votes.is_symlink()
    assert json.loads(kept.read_text()) == vote("one-0001")


def test_a_file_that_is_held_or_full_is_refused_by_name_and_kept(run, monkeypatch):
    monkeypatch.setattr(feedback, "LOCK_WAIT_SECONDS", 0.05)
    with FileLock(run.feedback_lock), pytest.raises(UserError, match=r"votes\.jsonl: another server"):
        put_record(run, run.votes, "one-0001", vote("one-0001"))
    put_record(run, run.votes, "one-0001", vote("one-0001"))
    monkeypatch.setattr(feedback, "MAX_FILE_BYTES", 60)
    with pytest.raises(UserError, match="move it elsewhere"):
        put_record(run, run.votes, "two-0002", vote("two-0002"))
    put_record(run, run.votes, "one-0001", None)  # less is always possible
    assert not run.votes.exists()


def test_a_damaged_vote_is_named_with_its_line(run):
    run.votes.write_text('{"id": "one-0001", "preferred": "tuned"}\n{"id": "two-0002", "preferred": "both"}\n')
    with pytest.raises(UserError, match=r"votes\.jsonl:2: is damaged \(preferred"):
        read_votes(run)


def write_lines(path: Path, records):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"torn', encoding="utf-8")


def task(question, name="held-out", history=()):
    turns = [*history, {"role": "user", "content": question}]
    return {"set": name, "turns": turns}


def test_held_out_questions_are_spread_over_those_of_the_evaluation(run):
    assert held_out_questions(run, 4) == ()
    write_lines(run.samples, [{"question": "sampled?"}, {"question": "sampled?"}, {"question": " "}, {"question": 3}])
    assert held_out_questions(run, 4) == ("sampled?",)
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    tasks = [task(f"{number}?") for number in range(8)]
    odd = [task("exam?", "own"), task("and?", history=said), task("long " * 100), {"set": "held-out", "turns": "?"}]
    system = task("with system?", history=[{"role": "system", "content": "Be kind."}])
    write_lines(run.evaluation().tasks, [*odd, *tasks, system])
    assert held_out_questions(run, 4) == ("0?", "2?", "4?", "6?")
    assert held_out_questions(run, 0) == ()
    assert set(held_out_questions(run, 100)) == {*(f"{number}?" for number in range(8)), "with system?"}
