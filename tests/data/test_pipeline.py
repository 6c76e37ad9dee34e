"""Rows to tokens: every row has one fate; the cache serves them again, and never when anything changed."""

import copy
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
from support.prepared_rows import GOOD, prose, rows_of, tokens_of, with_rows, write
from support.runs import settings

from thinktune.data import pipeline as prepare_room
from thinktune.data import summary as account
from thinktune.data.pipeline import prepare, prepare_with_faults
from thinktune.errors import UserError


def test_every_row_read_is_trained_on_held_out_or_dropped(tree, tokenizer):
    rows = rows_of(30)
    rows[3] |= {"answer": None}
    rows[4] = dict(rows[0])
    rows[5] |= {"think": "<think>a<think>b"}
    rows[6] |= {"answer": prose(1500)}
    prepared = prepare(with_rows(tree, rows), tokenizer)
    account = prepared.summary
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


def test_all_cores_give_what_one_gives(tree, tokenizer, tmp_path, monkeypatch):
    rows = [*rows_of(600), *rows_of(3, answer="")]
    recipe = with_rows(tree, rows)
    alone = prepare(recipe, tokenizer)
    monkeypatch.setattr(prepare_room, "MIN_PARALLEL_BYTES", 0)
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "other"))
    together = prepare(recipe, tokenizer)
    assert tokens_of(together) == tokens_of(alone)
    assert together.summary == alone.summary


def test_several_files_of_several_formats_are_read_together(tree, tokenizer, tmp_path):
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
    assert [file["rows"] for file in many.summary["files"]] == [3, 3, 3]
    assert many.summary["files"][0]["format"] != many.summary["files"][1]["format"]
    globbed = prepare(
        settings(tree, data={"name": str(folder / "[ac].*"), "columns": {}, "validation": 0.0}), tokenizer
    )
    assert globbed.summary["rows_read"] == 6


def test_a_leak_is_taken_out_of_training_and_duplicates_of_the_other_file_are_leaks(tree, tokenizer, tmp_path):
    rows = rows_of(8)
    own = write(tmp_path / "val.jsonl", [rows[2], rows[5] | {"answer": "Other words."}])
    prepared = prepare(with_rows(tree, rows, validation=str(own)), tokenizer)
    assert [example.source for example in prepared.validation.examples()] == ["val.jsonl:1", "val.jsonl:2"]
    assert prepared.summary["train_rows"] == 6
    [leak] = [fault for fault in prepared.summary["faults"] if fault["fault"] == "leak"]
    assert leak["actions"] == {"dropped": 2}
    assert leak["examples"][0] == "rows.jsonl:3: its question is also held out, in val.jsonl:1"
    kept = prepare(with_rows(tree, rows, validation=str(own), faults={"leak": "keep"}), tokenizer)
    assert kept.summary["train_rows"] == 8


@pytest.mark.parametrize(("policy", "rows"), [("keep", 20), ("drop", 18)])
def test_near_duplicates_are_reported_and_dropped_only_where_asked(tree, tokenizer, policy, rows):
    long = "Which of the many vessels of the human body brings the blood back to the left half of the heart"
    given = [
        *rows_of(17),
        *({**GOOD, "question": text, "answer": f"{text} is."} for text in (long, long + "?", long + " now")),
    ]
    prepared = prepare(with_rows(tree, given, faults={"near_duplicate": policy}, validation=0.0), tokenizer)
    [near] = [fault for fault in prepared.summary["faults"] if fault["fault"] == "near_duplicate"]
    assert near["count"] == 2
    assert "rows.jsonl:19: its question is 98% like that of rows.jsonl:18" in near["examples"][0]
    assert prepared.summary["train_rows"] == rows


def test_a_trimmed_row_is_counted_and_kept_with_its_end(tree, tokenizer):
    rows = [*rows_of(5), {**GOOD, "think": "".join(f"第{number}步，想。" for number in range(60))}]
    prepared = prepare(with_rows(tree, rows, faults={"too_long": "trim-reasoning"}, validation=0.0), tokenizer)
    [fault] = [fault for fault in prepared.summary["faults"] if fault["fault"] == "too_long"]
    assert fault["actions"] == {"trimmed": 1}
    assert prepared.train.lengths.max() <= 200
    assert "[…]" in prepared.train.examples()[-1].turns[-1].reasoning
    assert prepared.summary["over"]["200"] == 1  # measured before it was trimmed
    assert re.search(
        r"rows\.jsonl:6: \d+ tokens, more than data\.max_tokens 200; \d+ after sentences", fault["examples"][0]
    )


def test_a_row_that_cannot_be_trimmed_is_dropped_and_reported(tree, tokenizer):
    rows = [*rows_of(5), {**GOOD, "answer": prose(1500)}]
    prepared = prepare(with_rows(tree, rows, faults={"too_long": "trim-reasoning"}, validation=0.0), tokenizer)
    [fault] = [fault for fault in prepared.summary["faults"] if fault["fault"] == "too_long"]
    assert fault["actions"] == {"dropped": 1}
    assert "too few of them are reasoning that could be trimmed" in fault["examples"][0]


GBK = (json.dumps(rows_of(1)[0] | {"question": "心脏泵什么东西？"}, ensure_ascii=False) + "\n").encode("gbk")
NEITHER = GBK[:20] + b"\xff\xff" + GBK[20:]


def test_what_is_neither_utf8_nor_gbk_is_dropped_where_gbk_is_repaired(tree, tokenizer):
    recipe = with_rows(tree, rows_of(5), faults={"encoding": "repair"}, validation=0.0)
    with Path(tree["data"]["name"]).open("ab") as file:
        file.write(GBK + NEITHER)
    [fault] = prepare(recipe, tokenizer).summary["faults"]
    assert (fault["fault"], fault["actions"]) == ("encoding", {"repaired": 1, "dropped": 1})


def test_a_byte_order_mark_that_stops_is_one_row_that_stops(tree, tokenizer):
    recipe = with_rows(tree, rows_of(5), faults={"byte_order_mark": "stop"}, validation=0.0)
    path = Path(tree["data"]["name"])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    surveyed = prepare_with_faults(recipe, tokenizer)
    assert (surveyed.summary["stopping_rows"], surveyed.summary["train_rows"]) == (1, 4)
    assert surveyed.stop_reasons == (
        "rows.jsonl:1: begins with a byte order mark; fix the row, or write data.faults: {byte_order_mark: repair}",
    )


def test_faulty_rows_do_not_hide_a_files_columns_and_an_empty_file_is_reported(tree, tokenizer, tmp_path):
    folder = tmp_path / "several"
    folder.mkdir()
    good = write(folder / "a.jsonl", rows_of(5)).read_bytes()
    (folder / "a.jsonl").write_bytes(b"[1]\n" * 300 + good)
    (folder / "b.jsonl").write_bytes(b"")
    recipe = settings(tree, data={"name": str(folder), "faults": {"unreadable": "drop"}, "validation": 0.0})
    prepared = prepare(recipe, tokenizer)
    assert (prepared.summary["train_rows"], prepared.summary["dropped_rows"]) == (5, 300)
    assert account.summary_lines(prepared.summary)[1] == "b.jsonl: 0 rows"


@pytest.mark.parametrize(
    ("rows", "data", "message"),
    [
        (rows_of(4, think=""), {}, "is left to train on \\(no_reasoning 4\\).*data.faults: {no_reasoning: silent}"),
        (rows_of(4, answer=""), {}, "is left to train on \\(blank 4\\); fix the rows\n.*:1: answer: is empty"),
        (rows_of(2), {"validation": 0.5, "seed": 6}, "all 2 usable rows are held out"),
        ([], {}, "the files hold none"),
    ],
)
def test_why_no_row_is_left_is_reported(tree, tokenizer, rows, data, message):
    with pytest.raises(UserError, match=message):
        prepare(with_rows(tree, rows, **{"validation": 0.0} | data), tokenizer)


def test_a_validation_file_without_a_whole_row_stops_and_too_few_rows_to_hold_out_are_reported(
    tree, tokenizer, tmp_path
):
    own = write(tmp_path / "val.jsonl", rows_of(3, answer=""))
    with pytest.raises(UserError, match=r"data\.validation: no row of .*val\.jsonl is left to evaluate on"):
        prepare(with_rows(tree, rows_of(4), validation=str(own)), tokenizer)
    prepared = prepare(with_rows(tree, rows_of(4), validation=0.001), tokenizer)
    assert any("no row is held out" in line for line in account.summary_lines(prepared.summary))


def test_a_template_that_writes_the_date_is_refused(tree, tokenizer):
    dated = copy.deepcopy(tokenizer)
    dated.chat_template = "{{ strftime_now('%Y') }}" + dated.chat_template
    with pytest.raises(UserError, match=r"writes today's date \(strftime_now\)"):
        prepare(with_rows(tree, rows_of(4)), dated)


@pytest.mark.parametrize(
    ("system", "message"),
    [
        ("Be\u00a0kind.", r'data\.system: contains a space of unusual width.*; write "Be kind\."'),
        ("Think.<think>", r"data\.system: a think tag is stray .*; leave it out"),
    ],
)
def test_a_fault_of_the_recipes_system_prompt_is_reported_once_and_not_for_each_row(tree, tokenizer, system, message):
    with pytest.raises(UserError, match=message) as caught:
        prepare(with_rows(tree, rows_of(4), system=system), tokenizer)
    assert len(caught.value.faults) == 1
    kept = prepare(with_rows(tree, rows_of(4), system="  Be kind.\n", validation=0.0), tokenizer)
    assert {example.turns[0].content for example in kept.train.examples()} == {"Be kind."}
    assert kept.summary["faults"] == []


def test_a_system_prompt_that_repair_empties_is_as_if_the_row_had_none(tree, tokenizer):
    rows = [*rows_of(3, system="\u200b"), *rows_of(1, question="Own?", system="Own.")]
    recipe = with_rows(tree, rows, system="General.", validation=0.0, columns={})
    prepared = prepare(recipe, tokenizer)
    assert [example.turns[0].content for example in prepared.train.examples()] == [*3 * ["General."], "Own."]
    assert prepared.summary["own_system_rows"] == 1


def test_rows_with_one_untrained_reply_keep_the_other(tree, tokenizer):
    turns = [("user", "a?", ""), ("assistant", "A.", ""), ("user", "b?", ""), ("assistant", "B.", "think b")]
    messages = [
        {"role": role, "content": text} | ({"reasoning_content": why} if why else {}) for role, text, why in turns
    ]
    path = Path(tree["data"]["name"])
    write(path, [{"messages": messages}])
    prepared = prepare(settings(tree, data={"columns": {}, "validation": 0.0}), tokenizer)
    assert len(prepared.train) == len(prepared.train.lengths) == 1
    assert tokenizer.decode(prepared.train.replies()[0].ids.tolist()).endswith("think b\n</think>\n\nB.<|im_end|>\n")


def test_lengths_and_label_tokens_are_those_of_the_replies(tree, tokenizer):
    prepared = prepare(with_rows(tree, rows_of(20)), tokenizer)
    for rows in (prepared.train, prepared.validation):
        replies = rows.replies()
        assert rows.lengths.tolist() == [len(reply) for reply in replies]
        assert rows.label_tokens.tolist() == [reply.label_tokens for reply in replies]
        assert rows.replies([2, 0])[0].ids.tolist() == replies[2].ids.tolist()
        assert [example.source for example in rows.examples()] == [reply.source for reply in replies]
    assert prepared.summary["largest_token"] == max(int(np.max(row.ids)) for row in prepared.train.replies())
