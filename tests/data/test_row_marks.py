"""Rows that are marked as bad, and rows with images, audio or video, are faults of their own."""

import pytest
from support.prepared_rows import with_rows

from thinktune.config.schema import ColumnsConfig
from thinktune.data.columns.detection import detect_columns
from thinktune.data.columns.row_marks import find_row_marks
from thinktune.data.pipeline import prepare_with_faults
from thinktune.data.types import RawRow

PAIR = {"question": "q?", "think": "t", "answer": "a"}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)


def marks(*rows, columns=None, ignore=()):
    raw = [RawRow(f"rows.jsonl:{number}", row) for number, row in enumerate(rows, start=1)]
    mapping = detect_columns(raw, ColumnsConfig(**(columns or {})), ignore, "rows.jsonl")
    return [(found.fault, found.sentence) for row in raw for found in find_row_marks(row, mapping)]


def chat(question, reply="a"):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]}


@pytest.mark.parametrize("value", [False, "false", "False", "否"])
def test_a_false_label_is_found_and_a_true_one_is_not(value):
    true = True if value is False else "true"
    found = marks(PAIR | {"label": true}, PAIR | {"label": value}, PAIR | {"label": None})
    assert found == [("marked_bad", f"rows.jsonl:2: label: is {value!r}, so the reply is a bad one")]


def test_a_named_column_marks_rows_and_says_what_it_cannot_read():
    rows = [PAIR | {"is_correct": value} for value in (1, 0, "maybe")]
    assert marks(*rows) == []
    assert [fault for fault, _ in marks(*rows, columns={"label": "is_correct"})] == ["marked_bad", "unreadable"]


@pytest.mark.parametrize("values", [(0, 1, 2), ("law", "medicine"), (0, 1), (True, "law")])
def test_a_label_of_another_kind_marks_nothing(values):
    assert marks(*(PAIR | {"label": value} for value in values)) == []


def test_rows_marked_bad_are_dropped_by_default_and_kept_on_demand(tree, tokenizer):
    rows = [PAIR | {"question": f"Is it {n}?", "label": n % 2 == 0} for n in range(6)]
    for faults, left, actions in (({}, 3, {"dropped": 3}), ({"marked_bad": "keep"}, 6, {"kept": 3})):
        recipe = with_rows(tree, rows, validation=0.0, faults=faults)
        summary = prepare_with_faults(recipe, tokenizer).summary
        [fault] = [one for one in summary["faults"] if one["fault"] == "marked_bad"]
        assert (summary["train_rows"], fault["actions"]) == (left, actions)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (PAIR | {"images": ["a.jpg"]}, "images: holds an image"),
        (PAIR | {"image": "folder/a.png"}, "image: holds an image"),
        (PAIR | {"image": {"bytes": PNG, "path": None}}, "image: holds an image"),
        (PAIR | {"scan": PNG}, "scan: holds an image"),
        (PAIR | {"audio": {"path": "a.wav", "array": [0.1], "sampling_rate": 16000}}, "audio: holds audio"),
        (PAIR | {"videos": ["clip.mp4"]}, "videos: holds a video"),
        (PAIR | {"question": "<image>\nWhat is this?"}, "question: needs the image, audio or video at <image>"),
        (
            PAIR | {"question": "What is this?\n<|image_pad|>"},
            "question: needs the image, audio or video at <|image_pad|>",
        ),
        (chat("<video>What happens?"), "messages[0].content: needs the image, audio or video at <video>"),
    ],
)
def test_rows_with_media_are_found(row, words):
    [(fault, sentence)] = marks(row)
    assert fault == "media"
    assert sentence.startswith(f"rows.jsonl:1: {words}")
    assert sentence.endswith(", which is not trained")


@pytest.mark.parametrize(
    "row",
    [
        PAIR | {"images": []},
        PAIR | {"image": None},
        PAIR | {"source": "scan_001.png"},
        PAIR | {"image": "The picture shows a heart and two lungs."},
        PAIR | {"question": "What does the tag <image> mean?"},
        PAIR | {"question": "<video>\n<source src='a'>\n</video>\nWhat is wrong here?"},
        PAIR | {"answer": "<img>"},
        chat("Write the tag.", "<image>"),
        PAIR | {"video": False},
    ],
)
def test_rows_without_media_are_not(row):
    assert marks(row) == []


def test_an_ignored_column_of_images_is_no_fault_but_its_mark_in_the_text_is():
    row = PAIR | {"images": ["a.jpg"]}
    assert marks(row, ignore=["images"]) == []
    assert len(marks(row | {"question": "<image>q?"}, ignore=["images"])) == 1
