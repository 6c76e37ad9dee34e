"""Files of every form become the same tokens, and `check` says in which form each was read."""

import json
import zipfile

import pytest
from support.prepared_rows import rows_of
from support.row_files import cells, lines, table, write, write_arrow, write_workbook, write_zip
from support.runs import settings

from thinktune.data.pipeline import prepare, prepare_with_faults
from thinktune.data.summary import summary_lines
from thinktune.errors import UserError

ROWS = rows_of(6)


def prepared_from(tree, tokenizer, path, **data):
    return prepare(settings(tree, data={"name": str(path), "columns": {}, "validation": 0.0, **data}), tokenizer)


def ids_of(prepared):
    """Return the tokens without their places, which the name of the file is part of."""
    return [(row.ids.tolist(), row.kinds.tolist()) for row in prepared.train.replies()]


def sentence_of(prepared, fault):
    """Return the line of `check` about a fault."""
    [line] = [line for line in summary_lines(prepared.summary) if line.startswith(f"  {fault}: ")]
    return line.removeprefix(f"  {fault}: ")


@pytest.fixture
def plain(tree, tokenizer, tmp_path):
    return prepared_from(tree, tokenizer, write(tmp_path, "plain.jsonl", lines(ROWS)))


def numbered(rows):
    return [{"": number, **row} for number, row in enumerate(rows)]


FORMS = {
    "rows.jsonl": (
        json.dumps(ROWS, ensure_ascii=False),
        "rows.jsonl:1: is a JSON list, not JSON lines, not what its name says, and was read as that",
    ),
    "objects.jsonl": (
        "\n".join(json.dumps(row, ensure_ascii=False, indent=2) for row in ROWS),
        "objects.jsonl:1: holds objects over several lines",
    ),
    "rows.json": (
        json.dumps({"version": 2, "data": ROWS}),
        "rows.json:1: is one object, whose rows are under data, and were read from there",
    ),
    "excel.csv": (
        "\ufeffsep=;\r\n" + table(ROWS, ";"),
        "excel.csv:2: its columns are separated by ;, and were read that way",
    ),
    "index.csv": (
        table(numbered(ROWS)),
        "index.csv:1: column 1 has no name: it holds row numbers, and was skipped",
    ),
    "title.csv": (
        "Questions,,\n" + table(ROWS),
        "title.csv:1: has a title ('Questions') above the names of its columns, which was skipped",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_that_is_told_gives_the_tokens_of_json_lines(tree, tokenizer, tmp_path, plain, name):
    text, sentence = FORMS[name]
    prepared = prepared_from(tree, tokenizer, write(tmp_path, name, text))
    assert ids_of(prepared) == ids_of(plain)
    assert sentence_of(prepared, "file_form").endswith(f"repaired, as in {sentence}")
    assert not prepared.summary["dropped_rows"]


def test_python_text_is_told_by_count(tree, tokenizer, tmp_path, plain):
    file = write(tmp_path, "rows.jsonl", "\n".join(map(repr, ROWS)))
    prepared = prepared_from(tree, tokenizer, file)
    assert ids_of(prepared) == ids_of(plain)
    assert sentence_of(prepared, "loose_json") == (
        "6 repaired, as in rows.jsonl:1: is written as Python does, not as JSON, and was read as that"
    )
    with pytest.raises(UserError) as caught:
        prepared_from(tree, tokenizer, file, faults={"loose_json": "stop"})
    assert caught.value.faults[0].endswith("fix the row, or write data.faults: {loose_json: repair}")
    with pytest.raises(UserError, match="no row is left to train on"):
        prepared_from(tree, tokenizer, file, faults={"loose_json": "drop"})


def test_containers_give_the_tokens_of_json_lines(tree, tokenizer, tmp_path, plain):
    for file in (
        write_zip(tmp_path, "rows.zip", {"rows.jsonl": lines(ROWS)}),
        write_workbook(tmp_path, "rows.xlsx", {"Sheet": cells(ROWS)}),
        write_arrow(tmp_path, "rows.arrow", ROWS),
        write(tmp_path, "rows.jsonl.zst", lines(ROWS)),
    ):
        assert ids_of(prepared_from(tree, tokenizer, file)) == ids_of(plain), file


def test_a_part_is_named_with_its_archive_and_another_part_is_not_taken_for_it(tree, tokenizer, tmp_path):
    file = write_zip(tmp_path, "rows.zip", {"a/x.jsonl": lines(ROWS[:3]), "b/x.jsonl": lines(ROWS[3:])})
    first, second = (prepared_from(tree, tokenizer, file, files=pattern) for pattern in ("a/*", "b/*"))
    assert first.train.examples()[0].source == "rows.zip/a/x.jsonl:1"
    assert ids_of(first) != ids_of(second)
    both = prepared_from(tree, tokenizer, file)
    assert [one["path"] for one in both.summary["files"]] == ["rows.zip/a/x.jsonl", "rows.zip/b/x.jsonl"]
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("c.jsonl", lines(rows_of(1, question="More?")))
    assert prepared_from(tree, tokenizer, file).summary["rows_read"] == 7


def test_places_in_a_one_line_list_go_through_to_tokens_and_faults(tree, tokenizer, tmp_path):
    rows = [*ROWS, {**ROWS[0], "answer": ""}, dict(ROWS[2])]
    prepared = prepared_from(tree, tokenizer, write(tmp_path, "rows.json", json.dumps(rows)))
    assert [example.source for example in prepared.train.examples()] == [f"rows.json[{index}]" for index in range(6)]
    assert [reply.source for reply in prepared.train.replies()] == [f"rows.json[{index}]" for index in range(6)]
    assert [line.partition(" ")[2] for line in prepared.train.digest_lines()] == [
        f"rows.json[{index}]" for index in range(6)
    ]
    assert sentence_of(prepared, "blank") == "1 dropped (12% of all rows), as in rows.json[6]: answer: is empty"
    assert (
        sentence_of(prepared, "duplicate")
        == "1 dropped (12% of all rows), as in rows.json[7]: is the same as rows.json[2]"
    )


def test_rows_of_several_lists_are_chosen_by_their_key(tree, tokenizer, tmp_path, plain):
    file = write(tmp_path, "rows.json", json.dumps({"train": ROWS, "test": ROWS[:2]}))
    with pytest.raises(UserError, match=r"rows under train, test; choose with data\.rows: train"):
        prepared_from(tree, tokenizer, file)
    assert ids_of(prepared_from(tree, tokenizer, file, rows="train")) == ids_of(plain)


def test_no_advice_to_drop_where_no_row_can_be_read(tree, tokenizer, tmp_path):
    file = write(tmp_path, "rows.jsonl", "question: why\nanswer: since\n")
    with pytest.raises(UserError) as caught:
        prepared_from(tree, tokenizer, file)
    assert str(caught.value).endswith("fix the file")


def test_a_table_without_names_says_so_before_its_columns_are_asked_for(tree, tokenizer, tmp_path, plain):
    file = write(tmp_path, "rows.csv", table(ROWS).partition("\n")[2])
    columns = {"question": "column_1", "reasoning": "column_2", "answer": "column_3"}
    prepared = prepared_from(tree, tokenizer, file, columns=columns)
    assert len(prepared.train) == len(plain.train)
    assert "has no line of column names" in sentence_of(prepared, "file_form")


@pytest.mark.real
def test_the_inputs_that_people_bring_are_read(tree, tokenizer, real):
    folder = real / "failing"
    for start, rows in (
        ("02", 4),
        *((str(number), 3) for number in (41, 42, 43, 44, 46, 47, 48, 49, 52, 53)),
        ("67", 8),
    ):
        [case] = folder.glob(f"{start}-*")
        path = case / "train" if start == "53" else case if start == "67" else next(case.glob("rows.*"))
        recipe = settings(tree, data={"name": str(path), "columns": {}, "validation": 0.0, "max_tokens": 4096})
        prepared = prepare_with_faults(recipe, tokenizer)
        assert prepared.summary["rows_read"] == rows, case
        assert not prepared.stop_reasons, case
