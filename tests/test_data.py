"""Rows: read from every format, judged, located, and split."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinktune import data
from thinktune.data import Example, Fault, RawRow
from thinktune.errors import UserError
from thinktune.recipe import Columns, Data

SETTINGS = Data(name="rows.jsonl")
GOOD = {"question": "心脏泵什么？", "reasoning": "想一想。", "answer": "血液"}


def judge(columns, **changes):
    return data.to_example(RawRow("rows.jsonl:7", columns), SETTINGS.model_copy(update=changes), ["<|im_end|>"])


def write_all(folder: Path, rows):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "a.jsonl").write_text(lines, encoding="utf-8")
    (folder / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.replace("\n", "\n\n").encode())
    (folder / "lines.json").write_text(lines, encoding="utf-8")
    (folder / "array.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    quoted = ['"{}"'.format('","'.join(str(value).replace('"', '""') for value in row.values())) for row in rows]
    (folder / "a.csv").write_text("\n".join([",".join(rows[0]), *quoted]), encoding="utf-8-sig")
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "a.parquet")


def test_every_format_gives_the_same_rows(tmp_path):
    rows = [GOOD, {"question": 'He said "hi",\nthen left', "reasoning": "r", "answer": "a"}]
    write_all(tmp_path, rows)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 6
    for file in files:
        assert [row.columns for row in data.read_rows(file)] == rows, file.name


def test_a_row_becomes_turns_with_its_place():
    found = judge(GOOD, system="你是医生")
    assert isinstance(found, Example)
    assert [(turn.role, turn.content, turn.reasoning) for turn in found.turns] == [
        ("system", "你是医生", ""),
        ("user", "心脏泵什么？", ""),
        ("assistant", "血液", "想一想。"),
    ]
    assert found.source == "rows.jsonl:7"


@pytest.mark.parametrize(
    ("change", "fault", "told"),
    [
        ({"question": None}, "blank", "question: is None"),
        ({"answer": "  \n"}, "blank", "answer"),
        ({"answer": 7}, "blank", "is 7"),
        ({"reasoning": None}, "no_reasoning", "reasoning: is None"),
        ({"reasoning": ["step 1", "step 2"]}, "unreadable", "is ['step 1', 'step 2'], not text"),
        ({"reasoning": "<think>x"}, "think_tag", "holds <think>"),
        ({"answer": "a</think>b"}, "think_tag", "holds </think>"),
        ({"question": "x<|im_end|>y"}, "control_token", "question: holds <|im_end|>"),
        ({"answer": "a\ud83d"}, "unreadable", "answer: holds half a character"),
    ],
)
def test_a_faulty_row_is_named_with_its_place(change, fault, told):
    found = judge(GOOD | change)
    assert isinstance(found, Fault)
    assert found.name == fault
    assert found.sentence.startswith("rows.jsonl:7: ")
    assert told in found.sentence


def test_kept_empty_reasoning_is_never_the_word_none():
    found = judge(GOOD | {"reasoning": None}, faults=SETTINGS.faults.model_copy(update={"no_reasoning": "keep"}))
    assert isinstance(found, Example)
    assert found.turns[-1].reasoning == ""


def test_a_line_that_is_no_json_is_a_located_fault(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": 1}\nnonsense\n[1]\n', encoding="utf-8")
    rows = list(data.read_rows(tmp_path / "a.jsonl"))
    assert [row.fault is None for row in rows] == [True, False, False]
    assert rows[1].source == "a.jsonl:2"


@pytest.mark.parametrize(
    ("text", "told"), [('a,b\n1,2\n3,"4\n5,6\n', "is no CSV"), ("a,b,a\n1,2,3\n", "column a more than once")]
)
def test_a_csv_that_would_lose_rows_or_columns_is_refused(tmp_path, text, told):
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=told):
        list(data.read_rows(tmp_path / "a.csv"))


def test_a_wrong_encoding_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(json.dumps(GOOD, ensure_ascii=False).encode("gbk"))
    with pytest.raises(UserError, match="is not UTF-8"):
        list(data.read_rows(tmp_path / "a.jsonl"))


@given(st.binary(max_size=400))
@settings(max_examples=150)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_any_bytes_end_in_rows_or_a_clear_error(tmp_path_factory, suffix, raw):
    file = tmp_path_factory.mktemp("fuzz") / f"a{suffix}"
    file.write_bytes(raw)
    try:
        rows = list(data.read_rows(file))
    except UserError as error:
        assert str(file) in str(error)
    else:
        assert all(row.source for row in rows)


def test_a_wrong_mapping_and_an_unused_column_of_prose_stop_the_run_together():
    row = RawRow("rows.jsonl:1", {"question": "q", "think": "a long thought " * 9, "answer": "a"})
    with pytest.raises(UserError) as caught:
        data.check_columns([row], Columns(), [])
    assert any("data.columns.reasoning" in fault and "'reasoning'" in fault for fault in caught.value.faults)
    assert any("data.ignore: [think]" in fault for fault in caught.value.faults)


def test_ignored_and_short_columns_do_not_stop_the_run():
    row = RawRow("rows.jsonl:1", GOOD | {"source": "a long text " * 9, "id": "x1"})
    data.check_columns([row], Columns(), ["source"])


def test_several_files_without_a_choice_are_refused(tmp_path):
    for name in ("train.jsonl", "test.jsonl", "dataset_infos.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=r"test\.jsonl, train\.jsonl.*data\.files: test\.jsonl"):
        data.find_files(tmp_path, None, "data.name")
    for pattern in ("/abs/x.jsonl", "**.jsonl"):
        with pytest.raises(UserError, match=r"data\.files"):
            data.find_files(tmp_path, pattern, "data.name")
    with pytest.raises(UserError, match="is a file already"):
        data.find_files(tmp_path / "train.jsonl", "train*", "data.name")
    assert data.find_files(tmp_path, "train*", "data.name") == [tmp_path / "train.jsonl"]


questions = st.lists(st.text(min_size=1, max_size=8), max_size=40)


@given(questions, questions, st.floats(0, 0.5), st.integers(0, 9))
def test_new_rows_never_move_old_ones_and_twins_stay_together(old, new, share, seed):
    before = {old[index] for index in data.held_out(old, share, "hash", seed)}
    everything = old + new
    chosen = data.held_out(everything, share, "hash", seed)
    assert {everything[index] for index in chosen if index < len(old)} == before
    held = {data.twin_key(everything[index]) for index in chosen}
    assert not held & {data.twin_key(everything[index]) for index in set(range(len(everything))) - chosen}


def test_the_same_question_in_other_dress_stays_on_one_side():
    for number in range(40):
        twins = [f"What is {number}?", f"what  is {number}? ", f"WHAT IS {number}?\n"]
        assert len(data.held_out(twins, 0.5, "hash", 42)) in (0, 3)


def test_the_hash_split_holds_out_about_the_share():
    names = [f"question {number}" for number in range(10_000)]
    assert 900 < len(data.held_out(names, 0.1, "hash", 42)) < 1_100


def test_the_shuffle_split_has_the_tutorials_sizes():
    assert len(data.held_out([""] * 2407, 0.1, "shuffle", 42)) == 241
