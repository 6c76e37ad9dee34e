"""Rows to tokens: every row has one fate; what is kept on the disk is served again, and never when anything changed."""

import copy
import gzip
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from runs import settings

from thinktune import prepare as prepare_room
from thinktune import store
from thinktune.errors import UserError
from thinktune.prepare import prepare, survey

GOOD = {"question": "心脏？", "think": "想一想。", "answer": "血液。"}


def rows_of(count, **changes):
    return [
        {
            "question": f"What is part {number} of {number * 7}?",
            "think": f"Part {number}.",
            "answer": f"It is {number}.",
        }
        | changes
        for number in range(count)
    ]


def write(path: Path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def with_rows(tree, rows, **data):
    write(Path(tree["data"]["name"]), rows)
    return settings(tree, data=data)


def tokens_of(prepared):
    return [
        [(row.row, row.ids.tolist(), row.parts.tolist()) for row in rows.replies()]
        for rows in (prepared.train, prepared.validation)
    ]


def entries(folder=None):
    return sorted(path for path in (folder or store.cache_folder()).glob("*") if path.is_dir())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rows"


@pytest.fixture
def worked(monkeypatch):
    """How many chunks were worked on."""
    seen = []
    real = prepare_room.work

    def counted(*given):
        seen.append(given)
        return real(*given)

    monkeypatch.setattr(prepare_room, "work", counted)
    return seen


def test_every_row_read_is_trained_on_held_out_or_dropped(tree, tokenizer):
    rows = rows_of(30)
    rows[3] |= {"answer": None}
    rows[4] = dict(rows[0])
    rows[5] |= {"think": "<think>a<think>b"}
    rows[6] |= {"answer": "long " * 300}
    prepared = prepare(with_rows(tree, rows), tokenizer)
    account = prepared.account
    assert account["rows_read"] == 30
    assert account["dropped_rows"] == 4
    assert account["train_rows"] + account["validation_rows"] == 26
    assert {fault["fault"]: fault["actions"] for fault in account["faults"] if "dropped" in fault["actions"]} == {
        "blank": {"dropped": 1},
        "duplicate": {"dropped": 1},
        "think_tag": {"dropped": 1},
        "too_long": {"dropped": 1},
    }
    sources = [example.source for rows in (prepared.train, prepared.validation) for example in rows.examples()]
    assert sorted(sources, key=lambda source: int(source.split(":")[1])) == [
        f"rows.jsonl:{line}" for line in range(1, 31) if line not in (4, 5, 6, 7)
    ]


def test_a_second_start_works_on_nothing_and_gives_the_same(tree, tokenizer, cache, worked):
    recipe = with_rows(tree, rows_of(20))
    first = prepare(recipe, tokenizer)
    assert worked
    worked.clear()
    again = prepare(recipe, tokenizer)
    assert not worked
    assert tokens_of(again) == tokens_of(first)
    assert again.account == first.account
    assert again.fingerprint == first.fingerprint
    assert again.train.examples() == first.train.examples()


CHANGES = {
    "a row": lambda tree: write(Path(tree["data"]["name"]), rows_of(20, answer="Another.")),
    "a file's name": lambda tree: (
        Path(tree["data"]["name"]).rename(Path(tree["data"]["name"]).with_name("other.jsonl")),
        tree["data"].update(name=str(Path(tree["data"]["name"]).with_name("other.jsonl"))),
    ),
    "the system prompt": lambda tree: tree["data"].update(system="你是医生。"),
    "a policy": lambda tree: tree["data"].update(faults={"bare_number": "drop"}),
    "the phrases": lambda tree: tree["data"].update(handed_phrases=["Part 1"]),
    "the limit": lambda tree: tree["data"].update(max_tokens=190),
    "the share": lambda tree: tree["data"].update(validation=0.5),
    "the seed": lambda tree: tree["data"].update(seed=7),
    "the split": lambda tree: tree["data"].update(split="shuffle"),
    "a column": lambda tree: tree["data"].update(columns={"question": "answer", "answer": "question"}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_changed_rows_or_settings_are_never_served_stale(tree, tokenizer, cache, worked, what):
    write(Path(tree["data"]["name"]), rows_of(20))
    prepare(settings(tree), tokenizer)
    worked.clear()
    CHANGES[what](tree)
    survey(settings(tree), tokenizer)
    assert worked


def test_a_changed_template_tokenizer_or_program_is_never_served_stale(tree, tokenizer, cache, worked, monkeypatch):
    recipe = with_rows(tree, rows_of(20))
    prepare(recipe, tokenizer)
    other = copy.deepcopy(tokenizer)
    other.chat_template = other.chat_template.replace("{%- if", "{#- x #}{%- if", 1)
    larger = copy.deepcopy(tokenizer)
    larger.add_tokens(["血液"])
    for changed in (other, larger):
        worked.clear()
        prepare(recipe, changed)
        assert worked
    monkeypatch.setattr(prepare_room, "_versions", lambda: "other libraries")
    worked.clear()
    prepare(recipe, tokenizer)
    assert worked
    copied = Path(os.environ["THINKTUNE_CACHE"]) / "program"
    copied.mkdir()
    (copied / "render.py").write_text("other code")
    monkeypatch.setattr(prepare_room, "PACKAGE", copied)
    worked.clear()
    prepare(recipe, tokenizer)
    assert worked


def test_what_breaks_off_leaves_nothing_that_is_served_later(tree, tokenizer, cache, monkeypatch):
    recipe = with_rows(tree, rows_of(20))
    with monkeypatch.context() as broken:
        broken.setattr(store.Writer, "finish", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(recipe, tokenizer)
    assert not entries(cache)
    assert len(prepare(recipe, tokenizer).train)


def test_rows_that_stop_the_run_are_not_kept(tree, tokenizer, cache):
    recipe = with_rows(tree, [*rows_of(9), {"question": "q"}])
    with pytest.raises(UserError, match=r"rows\.jsonl:10: "):
        prepare(recipe, tokenizer)
    assert not entries(cache)


def test_old_entries_go_and_what_is_not_ours_stays(tree, tokenizer, cache):
    prepare(with_rows(tree, rows_of(20)), tokenizer)
    [old] = entries(cache)
    (cache / "mine").mkdir()
    long_ago = time.time() - 40 * 86_400
    for path in (old / "facts.json", cache / "mine"):
        os.utime(path, (long_ago, long_ago))
    prepare(with_rows(tree, rows_of(21)), tokenizer)
    assert old not in entries(cache)
    assert (cache / "mine").is_dir()
    assert len(entries(cache)) == 2


def test_all_cores_give_what_one_gives(tree, tokenizer, cache, monkeypatch):
    rows = [*rows_of(600), *rows_of(3, answer="")]
    recipe = with_rows(tree, rows)
    alone = prepare(recipe, tokenizer)
    monkeypatch.setattr(prepare_room, "BYTES_FOR_ALL_CORES", 0)
    monkeypatch.setenv("THINKTUNE_CACHE", str(cache / "other"))
    together = prepare(recipe, tokenizer)
    assert tokens_of(together) == tokens_of(alone)
    assert together.account == alone.account


def test_several_files_of_several_forms_are_read_together(tree, tokenizer, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    rows = rows_of(9)
    write(folder / "a.jsonl", rows[:3])
    messages = [
        {
            "messages": [
                {"role": "user", "content": row["question"]},
                {"role": "assistant", "content": row["answer"], "reasoning_content": row["think"]},
            ]
        }
        for row in rows[3:6]
    ]
    (folder / "b.json").write_text(json.dumps(messages), encoding="utf-8")
    (folder / "c.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows[6:]).encode()))
    many = prepare(settings(tree, data={"name": str(folder), "columns": {}, "validation": 0.0}), tokenizer)
    one = prepare(with_rows(tree, rows, validation=0.0), tokenizer)
    assert [row.ids.tolist() for row in many.train.replies()] == [row.ids.tolist() for row in one.train.replies()]
    assert [file["rows"] for file in many.account["files"]] == [3, 3, 3]
    assert many.account["files"][0]["format"] != many.account["files"][1]["format"]
    globbed = prepare(
        settings(tree, data={"name": str(folder / "[ac].*"), "columns": {}, "validation": 0.0}), tokenizer
    )
    assert globbed.account["rows_read"] == 6


def test_a_leak_is_taken_out_of_training_and_duplicates_of_the_other_file_are_leaks(tree, tokenizer, tmp_path):
    rows = rows_of(8)
    own = write(tmp_path / "val.jsonl", [rows[2], rows[5] | {"answer": "Other words."}])
    prepared = prepare(with_rows(tree, rows, validation=str(own)), tokenizer)
    assert [example.source for example in prepared.validation.examples()] == ["val.jsonl:1", "val.jsonl:2"]
    assert prepared.account["train_rows"] == 6
    [leak] = [fault for fault in prepared.account["faults"] if fault["fault"] == "leak"]
    assert leak["actions"] == {"dropped": 2}
    assert leak["examples"][0] == "rows.jsonl:3: its question is held out as well, in val.jsonl:1"
    kept = prepare(with_rows(tree, rows, validation=str(own), faults={"leak": "keep"}), tokenizer)
    assert kept.account["train_rows"] == 8


@pytest.mark.parametrize(("policy", "rows"), [("keep", 20), ("drop", 18)])
def test_near_duplicates_are_told_and_dropped_only_where_asked(tree, tokenizer, policy, rows):
    long = "Which of the many vessels of the human body brings the blood back to the left half of the heart"
    given = [
        *rows_of(17),
        *({**GOOD, "question": text, "answer": f"{text} is."} for text in (long, long + "?", long + " now")),
    ]
    prepared = prepare(with_rows(tree, given, faults={"near_duplicate": policy}, validation=0.0), tokenizer)
    [near] = [fault for fault in prepared.account["faults"] if fault["fault"] == "near_duplicate"]
    assert near["count"] == 2
    assert "rows.jsonl:19: its question is to 9" in near["examples"][0]
    assert prepared.account["train_rows"] == rows


def test_a_trimmed_row_is_counted_and_kept_with_its_end(tree, tokenizer):
    rows = [*rows_of(5), {**GOOD, "think": "".join(f"第{number}步，想。" for number in range(60))}]
    prepared = prepare(with_rows(tree, rows, faults={"too_long": "trim-reasoning"}, validation=0.0), tokenizer)
    [fault] = [fault for fault in prepared.account["faults"] if fault["fault"] == "too_long"]
    assert fault["actions"] == {"trimmed": 1}
    assert prepared.train.lengths.max() <= 200
    assert "[…]" in prepared.train.examples()[-1].turns[-1].reasoning
    assert prepared.account["over"]["200"] == 1  # measured before it was trimmed


def test_rows_that_lost_learning_of_one_reply_keep_the_other(tree, tokenizer):
    turns = [("user", "a?", ""), ("assistant", "A.", ""), ("user", "b?", ""), ("assistant", "B.", "think b")]
    messages = [
        {"role": role, "content": text} | ({"reasoning_content": why} if why else {}) for role, text, why in turns
    ]
    path = Path(tree["data"]["name"])
    write(path, [{"messages": messages}])
    prepared = prepare(settings(tree, data={"columns": {}, "validation": 0.0}), tokenizer)
    assert len(prepared.train) == len(prepared.train.lengths) == 1
    assert tokenizer.decode(prepared.train.replies()[0].ids.tolist()).endswith("think b\n</think>\n\nB.<|im_end|>\n")


def test_lengths_and_learned_tokens_are_those_of_the_replies(tree, tokenizer):
    prepared = prepare(with_rows(tree, rows_of(20)), tokenizer)
    for rows in (prepared.train, prepared.validation):
        replies = rows.replies()
        assert rows.lengths.tolist() == [len(reply) for reply in replies]
        assert rows.learned.tolist() == [reply.learned_tokens for reply in replies]
        assert rows.replies([2, 0])[0].ids.tolist() == replies[2].ids.tolist()
        assert [example.source for example in rows.examples()] == [reply.row for reply in replies]
    assert prepared.account["largest_token"] == max(int(np.max(row.ids)) for row in prepared.train.replies())
