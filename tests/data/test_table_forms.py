"""A table is read whatever separates its columns, stands above its names or beside them; each oddity is told."""

import pytest
from support.row_files import read, refusal, told, write

NAMES, FIRST, SECOND = (
    ("question", "think", "answer"),
    ("Fever, 3 days?", "First; then", "Rest."),
    ("为何？", "想，想", "因此。"),
)
ROWS = [dict(zip(NAMES, cells, strict=True)) for cells in (FIRST, SECOND)]


def joined(separator, *records):
    return "".join(
        separator.join(f'"{cell}"' if separator in cell else cell for cell in cells) + "\r\n" for cells in records
    )


@pytest.mark.parametrize(("separator", "shown"), [(";", ";"), ("\t", "tabs"), ("|", "|"), ("\x01", "U+0001")])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_other_separators_are_found_and_told(tmp_path, separator, shown, mark):
    rows = read(write(tmp_path, "a.csv", mark + joined(separator, NAMES, FIRST, SECOND)))
    assert [row.columns for row in rows] == ROWS
    assert shown in told(rows)[0]
    assert len(told(rows)) == 1


def test_commas_in_a_tsv_are_found(tmp_path):
    rows = read(write(tmp_path, "a.tsv", joined(",", NAMES, FIRST, SECOND)))
    assert [row.columns for row in rows] == ROWS
    assert told(rows) == ["its columns are separated by commas, and were read that way"]


@pytest.mark.parametrize("line", ["sep=;\r\n", '"sep=;"\r\n', "SEP=;\n"])
def test_a_line_that_names_the_separator_is_no_row(tmp_path, line):
    rows = read(write(tmp_path, "a.csv", line + joined(";", NAMES, FIRST, SECOND)))
    assert [row.columns for row in rows] == ROWS
    assert [row.source for row in rows] == ["a.csv:3", "a.csv:4"]
    assert "its first line names the separator (sep=), and was skipped" in told(rows)


def test_commas_in_all_texts_do_not_make_the_names_a_title(tmp_path):
    rows = read(write(tmp_path, "a.csv", "frage;antwort;punkte\nWas, bitte?;Das, da;1,5\nUnd, nun?;Nein, so;2,5\n"))
    assert rows[0].columns == {"frage": "Was, bitte?", "antwort": "Das, da", "punkte": "1,5"}


def test_a_table_of_markdown_is_read_without_its_line_of_dashes(tmp_path):
    rows = read(write(tmp_path, "a.txt", "| question | answer |\n|:---|---|\n| a | b |\n| c | d |\n"))
    assert [row.columns for row in rows] == [{"question": " a ", "answer": " b "}, {"question": " c ", "answer": " d "}]


@pytest.mark.parametrize("title", ["Questions of 2026\r\n", "Questions of 2026,,\r\n", "Questions\r\n\r\nof 2026\r\n"])
def test_a_title_above_the_names_is_read_past(tmp_path, title):
    rows = read(write(tmp_path, "a.csv", title + joined(",", NAMES, FIRST, SECOND)))
    assert [row.columns for row in rows] == ROWS
    assert told(rows)[0].startswith("has a title ('Questions")


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("text\nhello, world\nbye, all\n", None),
        ("question,answer\n1\n2,3,4\n5,6\n", {"question": "5", "answer": "6"}),
        ("text\none\ntwo; three\n", {"text": "two; three"}),
    ],
)
def test_a_header_is_never_taken_for_a_title(tmp_path, text, columns):
    assert read(write(tmp_path, "a.csv", text))[-1].columns == columns


@pytest.mark.parametrize("numbers", [["0", "1"], ["17", "4"], ["0.0", "1.0"]])
def test_row_numbers_without_a_name_are_read_past(tmp_path, numbers):
    records = [("", *NAMES), (numbers[0], *FIRST), (numbers[1], *SECOND)]
    rows = read(write(tmp_path, "a.csv", joined(",", *records)))
    assert [row.columns for row in rows] == ROWS
    assert told(rows) == ["column 1 has no name: it holds row numbers, and was skipped"]


def test_empty_columns_without_a_name_are_read_past_even_where_rows_lack_their_separators(tmp_path):
    rows = read(write(tmp_path, "a.csv", joined(",", (*NAMES, "", ""), (*FIRST, "", ""), (*SECOND, " ", ""))))
    assert [row.columns for row in rows] == ROWS
    assert told(rows) == ["2 columns were skipped, with no name and no text"]
    rows = read(write(tmp_path, "a.csv", joined(",", NAMES, (*FIRST, ""), (*SECOND, "", ""))))
    assert [row.columns for row in rows] == ROWS


def test_a_nameless_column_of_text_gets_a_name_and_a_late_text_is_not_lost(tmp_path):
    rows = read(write(tmp_path, "a.csv", "question,answer,\na,b,why so\nc,d,\n"))
    assert [row.columns for row in rows] == [
        {"question": "a", "answer": "b", "column_3": "why so"},
        {"question": "c", "answer": "d"},
    ]
    assert told(rows) == ["column 3 has no name: it holds text, and is called column_3"]
    rows = read(write(tmp_path, "a.csv", "question,answer,\n" + "a,b,\n" * 300 + "c,d,late\n"))
    assert rows[-1].columns == {"question": "c", "answer": "d", "column_3": "late"}


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("发烧三天了，还能上班吗？,先看体温。,先休息。\n合同没有违约金怎么办？,仍可主张。,可以要求赔偿。\n", 2),
        (
            '"Why do bond prices fall when rates rise?",Since coupons are fixed.\nWhat is a yield?,"A rate, yearly."\n',
            2,
        ),
        ("2+2=?,4\n3+5=?,8\n7+1=?,8\n", 3),
    ],
)
def test_a_table_without_names_is_told_and_its_columns_are_numbered(tmp_path, text, rows):
    found = read(write(tmp_path, "a.csv", text))
    assert len(found) == rows
    assert next(iter(found[0].columns)) == "column_1"
    assert "has no line of column names" in told(found)[0]
    assert found[0].source == "a.csv:1"


@pytest.mark.parametrize(
    "names",
    [
        "What is asked?,What is said.",
        "Kundenfrage,Unsere Antwort",
        "文本一,文本二",
        "a,b",
        "Q.,A.",
        "提问内容（原文）,回复",
    ],
)
def test_unusual_names_are_names(tmp_path, names):
    long = "This is a much longer text than any name of a column would be"
    [row] = read(write(tmp_path, "a.csv", f"{names}\n{long},{long}\n"))
    assert list(row.columns) == names.split(",")
    assert not row.findings


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('question,answer\n"He said \\"no\\", did he?","Yes, \\"he\\" did."\n"b, c",d\n', 'Yes, "he" did.'),
        ("'question','answer'\n'one, two','Yes, both'\n'b',d\n", "Yes, both"),
        ('question, answer\na, "Yes, it is"\nb, c\n', "Yes, it is"),
    ],
)
def test_other_ways_of_quoting_are_found(tmp_path, text, answer):
    rows = read(write(tmp_path, "a.csv", text))
    assert rows[0].columns["answer"] == answer
    assert rows[1].columns is not None


def test_quotes_that_belong_to_the_text_of_a_tsv_stay(tmp_path):
    rows = read(write(tmp_path, "a.tsv", 'question\tanswer\n"No" he said\t5" pipe\n"odd\tb\n'))
    assert [row.columns for row in rows] == [
        {"question": '"No" he said', "answer": '5" pipe'},
        {"question": '"odd', "answer": "b"},
    ]


@pytest.mark.parametrize(
    "text", ["question,answer\n1;2,3;4\n", "question,answer\n", "question;x\n1\n2\n3\n", "a|b,c\n1|2,3\n"]
)
def test_a_plain_table_is_read_as_its_ending_says(tmp_path, text):
    rows = read(write(tmp_path, "a.csv", text))
    assert not told(rows)
    assert all(list(row.columns or {}) in ([], text.partition("\n")[0].split(",")) for row in rows)


def test_names_that_stand_twice_are_refused_with_their_place(tmp_path):
    assert (
        refusal(write(tmp_path, "a.csv", "sep=;\na;b;a\n1;2;3\n"))
        == ":2: names the column a more than once; rename all but one"
    )
