"""Raw rows of a file are listed, found and counted, whatever is in their cells; a long file is at hand at once."""

import json
import time

import pytest

from thinktune.studio.rows.spool import MAX_CELL_CHARACTERS, MAX_ROWS_A_PAGE, RowSpool, SpoolShelf


def write(path, rows):
    path.write_text(
        "".join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    )
    return path


def whole(spool, **where):
    deadline = time.monotonic() + 30
    while not (page := spool.page(**({"first": 0, "count": 200} | where))).is_whole:
        assert time.monotonic() < deadline
    return page


def test_rows_are_listed_with_their_places_and_what_was_found_in_reading(tmp_path):
    rows = [{"q": "one", "n": 2.5, "none": None, "list": [{"role": "user"}]}, "{broken\n", {"other": "心脏"}]
    page = whole(RowSpool(write(tmp_path / "rows.jsonl", rows), "rows.jsonl"))
    assert page.total == 3
    assert page.columns == ("q", "n", "none", "list", "other")
    assert page.mistakes == ()
    first, broken, other = page.rows
    assert first["cells"]["q"] == {"kind": "t", "text": "one", "characters": 3}
    assert first["cells"]["n"]["text"] == "2.5"
    assert first["cells"]["none"]["kind"] == "n"
    assert first["cells"]["list"] == {"kind": "v", "text": '[{"role": "user"}]', "characters": 18}
    assert broken["source"] == "rows.jsonl:2"
    assert broken["cells"] == {}
    assert broken["findings"][0]["fault"] == "unreadable"
    assert "rows.jsonl:2: is not valid JSON" in broken["findings"][0]["sentence"]
    assert other["number"] == 2
    assert other["cells"]["other"]["text"] == "心脏"


def test_what_is_wrong_with_a_file_is_a_note_and_no_fault_of_its_first_row(tmp_path):
    (tmp_path / "rows.csv").write_bytes("问题,回答\n什么是水？,液体。\n".encode("gbk"))
    page = whole(RowSpool(tmp_path / "rows.csv", "rows.csv"))
    assert page.notes == ("rows.csv:1: the whole file is GBK, not UTF-8, and was read as GBK",)
    assert [row["findings"] for row in page.rows] == [[]]
    lines = b'\xef\xbb\xbf{"q": "one"}\n' + '{"q": "火"}\n'.encode("gbk") + b"{broken\n"
    (tmp_path / "rows.jsonl").write_bytes(lines)
    page = whole(RowSpool(tmp_path / "rows.jsonl", "rows.jsonl"))
    assert page.notes == ("rows.jsonl:1: begins with a byte order mark",)
    first, line, broken = (row["findings"] for row in page.rows)
    assert first == []
    assert [(one["name"]["en"], one["name"]["zh"], one["action"]) for one in [*line, *broken]] == [
        ("encoding", "编码错误（encoding）", "repaired"),
        ("unreadable", "无法读取（unreadable）", "dropped"),
    ]


def test_hostile_cells_are_told_as_they_are_and_never_break_the_list(tmp_path):
    nasty = ["<script>alert(1)</script>", "a\tb\nc\x00\x1b[31m\u2028\u202e", "\\ud800 " + "x" * 10**6, "", "\t"]
    lines = [json.dumps({"q": text, "\t\n": text}) + "\n" for text in nasty] + ['{"q": "\\ud83d half", "n": NaN}\n']
    page = whole(spool := RowSpool(write(tmp_path / "rows.jsonl", lines), "rows.jsonl"))
    assert [row["cells"]["q"]["text"] for row in page.rows[:2]] == nasty[:2]
    long = page.rows[2]["cells"]["q"]
    assert long["characters"] == len(nasty[2])
    assert len(long["text"]) == MAX_CELL_CHARACTERS + 1
    assert json.dumps(page.rows, ensure_ascii=False).encode()  # what leaves as UTF-8
    assert len(spool.row(2)["cells"]["q"]["text"]) == 200_001
    assert whole(spool, search="<SCRIPT>").found == 1


def test_a_search_finds_cells_not_names_and_shows_where_it_found_them(tmp_path):
    rows = [{"question": "filler " * 200 + 'Needle "7"\n'}, {"question": "none"}, {"question": ['needle "7"']}]
    spool = RowSpool(write(tmp_path / "rows.jsonl", rows), "rows.jsonl")
    assert whole(spool, search="question").found == 0
    page = whole(spool, search='NEEDLE "7"')
    assert (page.found, page.total) == (1, 3)
    assert "Needle" in page.rows[0]["cells"]["question"]["text"]
    assert whole(spool, search="needle").found == 2
    assert whole(spool, search="needle", first=1).rows[0]["number"] == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.csv", "q,a\none,two\n", ""),
        ("rows.json", '[{"q": 1}, {"q": 2}', "rows.json"),
        ("rows.parquet", "", "is empty"),
    ],
)
def test_any_form_is_read_and_a_file_that_is_not_whole_is_told(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    page = whole(RowSpool(tmp_path / name, name))
    assert bool(page.mistakes) == bool(said)
    assert said in "".join(page.mistakes)
    if name == "rows.csv":
        assert page.rows[0]["cells"]["a"]["text"] == "two"


def test_rows_beyond_what_the_copy_holds_are_not_left_out_in_silence(tmp_path, monkeypatch):
    monkeypatch.setattr("thinktune.studio.rows.spool.MAX_SPOOL_BYTES", 100)
    page = whole(RowSpool(write(tmp_path / "rows.jsonl", [{"q": "a question"}] * 50), "rows.jsonl"))
    assert 0 < page.total < 50
    assert f"only its first {page.total} rows" in "".join(page.mistakes)


def test_a_row_is_found_by_its_place(tmp_path):
    spool = RowSpool(write(tmp_path / "rows.jsonl", ["\n", {"a": 1}, "\n", {"a": 2}, {"a": 3}]), "rows.jsonl")
    page = whole(spool)
    assert [spool.find_source(row["source"]) for row in page.rows] == [0, 1, 2]
    assert spool.find_source("rows.jsonl:999") is None
    assert spool.find_source("other:1") is None
    with pytest.raises(IndexError):
        spool.row(3)


def test_a_changed_file_is_read_again_and_few_are_kept(tmp_path):
    shelf, path = SpoolShelf(most=2), write(tmp_path / "rows.jsonl", [{"a": 1}])
    assert whole(shelf.open(path, "rows.jsonl")).total == 1
    write(path, [{"a": 1}, {"a": 2}])
    spool = shelf.open(path, "rows.jsonl")
    assert whole(spool).total == 2
    assert shelf.open(path, "rows.jsonl") is spool
    for name in ("b.jsonl", "c.jsonl"):
        shelf.open(write(tmp_path / name, [{"a": 1}]), name)
    assert shelf.open(path, "rows.jsonl") is not spool
    with pytest.raises(FileNotFoundError):
        shelf.open(tmp_path / "none.jsonl", "none.jsonl")


@pytest.mark.slow
def test_a_hundred_thousand_rows_stay_quick(tmp_path):
    text = "A sentence of a row that is as long as rows are. " * 12
    row = {"question": text[:300], "think": text * 2, "answer": text}
    path = tmp_path / "rows.jsonl"
    with path.open("w") as file:
        for number in range(100_000):
            file.write(json.dumps(row | {"id": f"row-{number}"}) + "\n")
    started = time.monotonic()
    spool = RowSpool(path, "rows.jsonl")
    assert len(spool.page(0, 50).rows) == 50
    first = time.monotonic() - started
    page = whole(spool, first=99_990)
    read = time.monotonic() - started
    assert [row["cells"]["id"]["text"] for row in page.rows][-1] == "row-99999"
    times = {}
    for what, where in {"middle": {"first": 50_000}, "search": {"first": 0, "search": "row-77777"}, "again": {"first": 0, "search": "row-77777"}}.items():  # fmt: skip
        started = time.monotonic()
        page = spool.page(count=MAX_ROWS_A_PAGE, **where)
        times[what] = time.monotonic() - started
    assert page.found == 1
    print(f"{path.stat().st_size / 2**20:.0f} MiB; first rows {first:.2f} s, all read {read:.1f} s, {times}")
    assert first < 1
    assert times["middle"] < 0.5
    assert times["search"] < 15
    assert times["again"] < 0.1
