"""Bytes that are not UTF-8: what is surely GBK is reported or repaired, everything else is refused, never guessed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.row_files import GOOD, findings_of, lines, read, refusal, table, write

from thinktune.data.reading.encoding import is_gbk

CHINESE = [GOOD, {"question": "高血压患者应如何用药？", "reasoning": "先想β受体阻滞剂。", "answer": "遵医嘱"}]
LATIN = "Wie heißt das größte Gefäß? Où çà? Coração."
BROKEN = "心脏泵什么？".encode()[:-1]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.json"])
def test_a_line_in_gbk_is_reported_or_repaired_by_itself(tmp_path, name):
    raw = '{"a": "好"}\n'.encode() + lines(CHINESE[:1]).encode("gb18030") + '{"a": "é"}\n'.encode()
    file = write(tmp_path, name, raw)
    first, refused, last = read(file)
    assert findings_of(refused) == [("encoding", "dropped", f"{name}:2: is GBK, not UTF-8")]
    assert [row.columns for row in (first, refused, last)] == [{"a": "好"}, None, {"a": "é"}]
    first, repaired, last = read(file, repair=True)
    assert repaired.columns == CHINESE[0]
    assert findings_of(repaired) == [("encoding", "repaired", f"{name}:2: is GBK, not UTF-8, and was read as GBK")]
    assert not first.findings
    assert not last.findings


@pytest.mark.parametrize("repair", [False, True])
@pytest.mark.parametrize(
    ("raw", "byte"),
    [
        (b'{"a": "' + LATIN.encode("latin-1") + b'"}', "byte 15 is 0xdf"),
        (b'{"a": "' + BROKEN + b'"}', "byte 23 is 0xef"),
        (b'{"a": "caf\xe9"}', "byte 11 is 0xe9"),
        (b'{"a": "\xff"}', "byte 8 is 0xff"),
    ],
)
def test_a_line_in_no_known_encoding_is_never_guessed(tmp_path, raw, byte, repair):
    bad, good = read(write(tmp_path, "rows.jsonl", raw + b'\n{"a": "b"}'), repair)
    assert findings_of(bad) == [("encoding", "dropped", f"rows.jsonl:1: is neither UTF-8 nor GBK ({byte})")]
    assert (bad.columns, good.columns) == (None, {"a": "b"})


def test_a_line_in_gbk_that_is_not_json_is_reported_with_both_faults(tmp_path):
    [row] = read(write(tmp_path, "rows.jsonl", '{"a": "心脏泵'.encode("gbk")), repair=True)
    assert [fault for fault, _, _ in findings_of(row)] == ["encoding", "unreadable"]


WHOLE = {"rows.csv": table(CHINESE), "rows.json": json.dumps(CHINESE, ensure_ascii=False, indent=1)}


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("name", WHOLE)
def test_a_table_or_a_list_in_gbk_is_refused_or_repaired_as_a_whole(tmp_path, name, packed):
    file = write(tmp_path, name + packed, WHOLE[name].encode("gb18030"))
    why = refusal(file)
    assert why.startswith(": is GBK, not UTF-8 (line ")
    assert why.endswith("save it as UTF-8, or write data.faults: {encoding: repair}")
    rows = read(file, repair=True)
    assert [row.columns for row in rows] == CHINESE
    assert [(fault, action) for fault, action, _ in findings_of(rows[0])] == [("encoding", "repaired")]
    assert not rows[1].findings


@pytest.mark.parametrize("name", WHOLE)
def test_a_table_or_a_list_in_no_known_encoding_is_refused_with_its_line(tmp_path, name):
    raw = WHOLE[name].encode("utf-8").replace("高血压".encode(), b"\xe9\x20")
    line = raw[: raw.index(b"\xe9\x20")].count(b"\n") + 1
    for repair in (False, True):
        assert f":{line}: is neither UTF-8 nor GBK (byte " in refusal(write(tmp_path, name, raw), repair)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.csv.gz"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_utf_16_is_named_by_its_mark(tmp_path, name, encoding):
    raw = ("\ufeff" * (encoding == "utf-16-be") + lines(CHINESE)).encode(encoding)
    file = write(tmp_path, name, raw)
    assert refusal(file, repair=True) == f": is {encoding.upper()[:6]}, not UTF-8; save it as UTF-8"


@given(st.text(st.characters(codec="latin-1", min_codepoint=0xA0), min_size=1, max_size=3), st.sampled_from(["a", " "]))
def test_accented_letters_of_lower_case_are_never_taken_for_gbk(letters, between):
    words = between.join(letters).lower() + f" {LATIN}"
    assert not is_gbk([words.encode("latin-1")])


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("高血壓患者應該如何飲食？糖尿病的併發症有哪些", "big5"),
        ("高血圧の患者はどのように食事をすればいい", "shift_jis"),
    ],
)
def test_other_encodings_of_chinese_characters_are_not_taken_for_gbk(text, encoding):
    assert not is_gbk([text.encode(encoding)])


@given(st.text(st.characters(codec="gb2312", min_codepoint=0x4E00), min_size=4))
def test_text_in_gbk_is_known_unless_its_characters_are_rare(text):
    raw = text.encode("gb2312")
    rare = sum(byte >= 0xD8 for byte in raw[::2])
    assert is_gbk([raw]) == (rare <= len(text) / 2)


@pytest.mark.real
def test_real_rows_in_gbk_are_known_and_real_rows_in_broken_utf_8_are_not_taken_for_it(real):
    for line in (real / "medical/delicate_medical_r1_val.jsonl").read_text(encoding="utf-8").splitlines():
        line = json.dumps(json.loads(line), ensure_ascii=False)
        assert is_gbk([line.encode("gb18030")])
        raw = line.encode()
        for place in range(0, len(raw), 97):
            assert not is_gbk([raw[:place] + raw[place + 1 :]]) or raw[place] < 0x80
