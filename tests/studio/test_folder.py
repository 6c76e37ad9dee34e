"""The studio's folder: what it holds, and that no name leads out of it."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinktune.errors import UserError
from thinktune.http import ApiError
from thinktune.studio.folder import StudioFolder

RECIPE = "model: {name: a/b}\ndata: {name: rows.jsonl}\n"
OUT = ["..", "../x", "a/../../x", "/etc/passwd", "\\\\host\\x", "a\0b", "", "./..", ".thinktune/acts", "a/.hidden", "..\\x", "link/secret"]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path)
    return StudioFolder.open(tmp_path / "here")


def test_a_folder_that_is_missing_is_made_and_a_file_is_refused(tmp_path):
    assert StudioFolder.open(tmp_path / "new" / "one").path.is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        StudioFolder.open(tmp_path / "file")


def test_a_folder_is_shown_from_home_on(tmp_path, monkeypatch):
    opened = StudioFolder.open(tmp_path / "home" / "rows" / "mine")
    for home, shown in (("home", "~/rows/mine"), ("hom", str(opened.path)), ("home/rows/mine", str(opened.path))):
        monkeypatch.setenv("HOME", str(tmp_path / home))
        assert opened.shown == shown
    monkeypatch.setenv("HOME", "/")
    assert opened.shown == str(opened.path)


@pytest.mark.parametrize("name", OUT)
@pytest.mark.parametrize("new", [False, True])
def test_no_name_leads_out_of_the_folder_or_into_hidden_ones(folder, name, new):
    with pytest.raises(ApiError) as refused:
        folder.resolve(name, new=new)
    assert refused.value.status == 400


@given(name=st.text("./\\~ab\0:", max_size=12))
def test_whatever_the_name_what_is_found_lies_below_the_folder(tmp_path_factory, name):
    folder = StudioFolder(tmp_path_factory.getbasetemp().resolve(), None)
    try:
        found = folder.resolve(name, new=True)
    except ApiError:
        return
    assert found.is_relative_to(folder.path)


def test_a_name_that_is_not_there_is_told_so_and_may_be_new(folder):
    with pytest.raises(ApiError, match=r"rows\.jsonl is not in this folder") as refused:
        folder.resolve("rows.jsonl")
    assert refused.value.status == 404
    assert folder.resolve("deep/rows.jsonl", new=True) == folder.path / "deep" / "rows.jsonl"


def test_what_the_folder_holds_is_listed_by_name(folder):
    path = folder.path
    (path / "mine.yaml").write_text(RECIPE)
    (path / "other.yaml").write_text("a: 1\n")
    (path / "sub").mkdir()
    (path / "sub" / "deep.yml").write_text("name: best\nruns_folder: out\n" + RECIPE)
    (path / "rows.jsonl").write_text("{}\n")
    (path / "rows.jsonl.doubts.json").write_text("{}")
    (path / "model").mkdir()
    for name in ("config.json", "tokenizer.json"):
        (path / "model" / name).write_text("{}")
    (path / "thought").mkdir()
    for name in ("account.json", "request.json", "replies.jsonl", "verdicts.jsonl", "thought.jsonl"):
        (path / "thought" / name).write_text("{}\n")
    (path / "runs" / "one").mkdir(parents=True)
    (path / "runs" / "one" / "recipe.yaml").write_text(RECIPE)
    (path / "runs" / "one" / "data.json").write_text("{}")
    assert folder.recipes() == ["mine.yaml", "sub/deep.yml"]
    assert folder.row_files() == ["rows.jsonl", "thought/thought.jsonl"]
    assert folder.runs() == ["runs/one"]
    assert folder.run_of_recipe("mine.yaml") == "runs/mine"
    assert folder.run_of_recipe("sub/deep.yml") == "out/best"
    assert folder.rows_of_recipe("mine.yaml") == ["rows.jsonl"]


def test_a_recipe_that_is_half_edited_or_leads_outside_has_a_name_or_none(folder):
    (folder.path / "torn.yaml").write_text("model:\ndata: [\nname: 'x")
    assert folder.run_of_recipe("torn.yaml") == "runs/torn"
    (folder.path / "out.yaml").write_text("runs_folder: ../elsewhere\n" + RECIPE)
    assert folder.run_of_recipe("out.yaml") is None


def test_a_run_that_comes_or_goes_is_seen(folder):
    def make(name):
        (folder.path / "runs" / name).mkdir(parents=True)
        (folder.path / "runs" / name / "recipe.yaml").write_text(RECIPE)

    make("one")
    old = folder.path.stat().st_mtime - 100
    for path in (folder.path, folder.path / "runs"):
        os.utime(path, (old, old))  # so long ago that what was read is kept
    assert folder.runs() == ["runs/one"]
    (folder.path / "runs" / "soon").mkdir()
    assert folder.runs() == ["runs/one"]
    (folder.path / "runs" / "soon" / "recipe.yaml").write_text(RECIPE)
    assert folder.runs() == ["runs/one", "runs/soon"]
    for name in ("one", "soon"):
        (folder.path / "runs" / name / "recipe.yaml").unlink()
        (folder.path / "runs" / name).rmdir()
    assert folder.runs() == []
    assert json.dumps(folder.row_files()) == "[]"
