"""Which row files a path, folder or glob matches, and what is refused."""

import pytest
import yaml

from thinktune.data.reading.sources import match_files as find_files
from thinktune.errors import UserError
from thinktune.files import ROW_FILE_ENDINGS


def place(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("Notes" if name.endswith(".txt") else "{}", encoding="utf-8")


def found(folder, name, pattern=None):
    return [file.relative_to(folder).as_posix() for file in find_files(folder / name, pattern, "data.name")]


def refusal(name, pattern=None, field="data.name"):
    with pytest.raises(UserError) as caught:
        find_files(name, pattern, field)
    return str(caught.value)


FILES = ("a.jsonl", "b/c.csv", "b/d/e.parquet", "notes.txt", ".hidden.jsonl", ".git/x.jsonl", "config.json")


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("a.jsonl", None, ["a.jsonl"]),
        (".hidden.jsonl", None, [".hidden.jsonl"]),
        (".", None, ["a.jsonl", "b/c.csv", "b/d/e.parquet"]),
        ("b", None, ["b/c.csv", "b/d/e.parquet"]),
        (".git", None, [".git/x.jsonl"]),
        (".", "*.csv", ["b/c.csv"]),
        (".", "d/*", ["b/d/e.parquet"]),
        (".", "**/*.parquet", ["b/d/e.parquet"]),
        (".", "*.json", ["config.json"]),
        ("*.jsonl", None, ["a.jsonl"]),
        ("**/*.[cp]*", None, ["b/c.csv", "b/d/e.parquet"]),
        ("?/*", None, ["b/c.csv"]),
    ],
)
def test_a_path_a_folder_and_a_glob_mean_files(tmp_path, name, pattern, expected):
    place(tmp_path, *FILES)
    assert found(tmp_path, name, pattern) == expected


def test_every_ending_is_found_in_any_case(tmp_path):
    names = [f"rows{number}{suffix}" for number, suffix in enumerate(ROW_FILE_ENDINGS)] + ["rowsX.JSONL.GZ"]
    place(tmp_path, *names)
    assert found(tmp_path, ".") == sorted(names)


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path):
    place(tmp_path, "rows[1].jsonl", "rows1.jsonl")
    assert found(tmp_path, "rows[1].jsonl") == ["rows[1].jsonl"]


def test_a_linked_folder_is_read_and_a_loop_of_links_only_once(tmp_path):
    place(tmp_path, "rows/a.jsonl", "elsewhere/b.jsonl")
    (tmp_path / "rows" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "rows" / "loop").symlink_to(tmp_path / "rows")
    assert found(tmp_path, "rows") == ["rows/a.jsonl", "rows/linked/b.jsonl"]


def test_a_folder_named_like_a_file_is_searched(tmp_path):
    place(tmp_path, "rows.jsonl/part.jsonl")
    assert found(tmp_path, ".") == ["rows.jsonl/part.jsonl"]


@pytest.mark.parametrize(
    ("names", "remedy", "chosen"),
    [
        (["train.jsonl", "test.jsonl"], "train.jsonl", ["train.jsonl"]),
        (["train-0.jsonl", "train-1.jsonl", "dev.jsonl"], "train-*", ["train-0.jsonl", "train-1.jsonl"]),
        (["train/0.csv", "train/1.csv", "test/0.csv"], "train/*", ["train/0.csv", "train/1.csv"]),
        (["medical.jsonl", "medical_r1_val.jsonl"], "medical.jsonl", ["medical.jsonl"]),
        (["medical.jsonl", "Medical_TEST.JSONL"], "medical.jsonl", ["medical.jsonl"]),
        (["a_train.csv", "b_train.csv", "c_test.csv"], "*train*", ["a_train.csv", "b_train.csv"]),
        (["训练集.jsonl", "测试集.jsonl"], "训练集.jsonl", ["训练集.jsonl"]),
        (["[a] train.jsonl", "[a] Test.jsonl"], "[[]a] train.jsonl", ["[a] train.jsonl"]),
    ],
)
def test_files_of_several_splits_are_refused_with_the_line_to_write(tmp_path, names, remedy, chosen):
    place(tmp_path, *names)
    message = refusal(tmp_path)
    assert all(name in message for name in names)
    assert yaml.safe_load(message.rpartition("choose one, as in ")[2]) == {"data.files": remedy}
    assert found(tmp_path, ".", remedy) == chosen


def test_the_remedy_for_rows_of_validation_names_their_split(tmp_path):
    place(tmp_path, "train.jsonl", "val.jsonl")
    message = refusal(tmp_path, field="data.validation")
    assert message.endswith(f"choose one, as in data.validation: {tmp_path / 'val.jsonl'}")
    assert find_files(tmp_path / "val.jsonl", None, "data.validation") == [tmp_path / "val.jsonl"]


@pytest.mark.parametrize(
    "names",
    [
        ["a.jsonl", "b.csv"],
        ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
        ["val.jsonl", "validation.jsonl"],
        ["evaluate.jsonl", "latest.jsonl", "trained.jsonl"],
        ["train.jsonl", "dataset_infos.json"],
    ],
)
def test_files_of_one_split_or_of_none_are_all_read(tmp_path, names):
    place(tmp_path, *names)
    assert found(tmp_path, ".") == [name for name in names if name != "dataset_infos.json"]


@pytest.mark.parametrize(
    ("name", "pattern", "message"),
    [
        ("nowhere", None, "is not a file or folder here; correct it, or name its hub too, as in hub: modelscope"),
        ("nowhere/*.jsonl", None, "data.name: no file of rows matches"),
        ("*.txt", None, "data.name: no file of rows matches"),
        ("empty", None, "no file of rows is there in"),
        (".", "nothing*", "matches 'nothing*'"),
        (".", "", "matches ''"),
        (".", "/etc/*.json", "data.files: '/etc/*.json' points outside"),
        (".", "../*", "data.files: '../*' points outside"),
        ("a.jsonl", "*.jsonl", "is already a file"),
        ("*.jsonl", "*.jsonl", "is already a glob"),
        ("null\0byte*", None, "data.name: "),
        ("long" * 999, None, "data.name: "),
    ],
)
def test_what_is_not_there_or_unclear_is_refused(tmp_path, name, pattern, message):
    place(tmp_path, *FILES)
    (tmp_path / "empty").mkdir()
    assert message in refusal(f"{tmp_path}/{name}", pattern)


def test_a_home_that_nobody_has_is_refused():
    assert refusal("~nobody-by-this-name/rows.jsonl").startswith("data.name: '~nobody-by-this-name/rows.jsonl' ")
