"""Journal of a teacher: nothing that was written is lost, and nothing that may have cost is forgotten."""

import pytest

from thinktune.inference import Completion
from thinktune.synthesis.ledger import Usage
from thinktune.synthesis.reply_journal import ReplyJournal

REPLY = Completion("想一想", "血液", 9, 5, "end", True, 7)


def filled(file, replies=2):
    journal = ReplyJournal(file)
    for number in range(replies):
        journal.add_request(f"k{number}", Usage(50, 100))
        journal.add_reply(f"k{number}", REPLY, Usage(7, 9), {"teacher": "expert"})
    return journal


def test_replies_are_found_again_by_another_process(tmp_path):
    filled(tmp_path / "replies.jsonl").close()
    again = ReplyJournal(tmp_path / "replies.jsonl")
    assert "k1" in again
    assert again.completion("k1") == REPLY
    assert again.record("k1")["teacher"] == "expert"
    assert again.spent == Usage(14, 18)


def test_a_request_without_a_reply_counts_with_all_that_was_reserved(tmp_path):
    journal = filled(tmp_path / "replies.jsonl")
    journal.add_request("k9", Usage(50, 100))
    journal.close()
    again = ReplyJournal(tmp_path / "replies.jsonl")
    assert "k9" not in again
    assert again.spent == Usage(64, 118)


def test_what_a_lost_request_cost_counts_once(tmp_path):
    journal = filled(tmp_path / "replies.jsonl", 0)
    for used in (Usage(), Usage(50, 100)):
        journal.add_request("k0", Usage(50, 100))
        journal.add_loss("k0", used, "no")
    journal.close()
    assert ReplyJournal(tmp_path / "replies.jsonl").spent == Usage(50, 100)


def test_a_torn_last_line_is_cut_off_wherever_the_kill_came(tmp_path):
    file = tmp_path / "replies.jsonl"
    filled(file).close()
    whole = file.read_bytes()
    last_line = len(whole.splitlines(keepends=True)[-1])
    for cut in range(1, last_line, 7):
        file.write_bytes(whole[:-cut])
        journal = ReplyJournal(file)
        assert ("k0" in journal, "k1" in journal) == (True, False), cut
        assert journal.spent == Usage(57, 109)
        journal.add_reply("k1", REPLY, Usage(7, 9), {})
        journal.close()
        again = ReplyJournal(file)
        assert again.completion("k1") == REPLY
        again.close()


@pytest.mark.parametrize(
    "line", [b"{}", b"[1]", b'"x"', b"\xff\xfe", b'{"event": "reply", "key": "k7", "charged": [1]}']
)
def test_damaged_lines_lose_nothing_else(tmp_path, line):
    file = tmp_path / "replies.jsonl"
    filled(file).close()
    first, *others = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(first + line + b"\n" + b"".join(others))
    again = ReplyJournal(file)
    assert again.completion("k0") == again.completion("k1") == REPLY
    assert "k7" not in again


def test_half_a_surrogate_pair_from_a_teacher_is_written(tmp_path):
    journal = ReplyJournal(tmp_path / "replies.jsonl")
    journal.add_reply("k", Completion("\ud800", "a", 1, 1, "end", True, 1), Usage(1, 1), {})
    assert journal.completion("k").reasoning == "?"
