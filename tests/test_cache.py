"""Cache entries are found again whole, and never after anything that they were made from has changed."""

import ast
import copy
import os
import shutil
import time
from pathlib import Path

import pytest
from support.prepared_rows import rows_of, tokens_of, with_rows, write
from support.runs import settings

from thinktune import cache as entry_cache
from thinktune.data import dataset, pipeline
from thinktune.data.pipeline import prepare, prepare_with_faults
from thinktune.errors import UserError
from thinktune.run.resume import TRAINING_PACKAGES, code_fingerprint


def entries(folder):
    return sorted(path for path in folder.glob("*") if path.is_dir())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rows"


@pytest.fixture
def worked(monkeypatch):
    """The chunks that were processed."""
    chunks = []
    original = pipeline.process_chunk

    def counted(*arguments):
        chunks.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(pipeline, "process_chunk", counted)
    return chunks


def test_a_second_start_works_on_nothing_and_gives_the_same(tree, tokenizer, cache, worked):
    recipe = with_rows(tree, rows_of(20))
    first = prepare(recipe, tokenizer)
    assert worked
    worked.clear()
    again = prepare(recipe, tokenizer)
    assert not worked
    assert tokens_of(again) == tokens_of(first)
    assert again.summary == first.summary
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
def test_changed_rows_or_settings_make_entries_stale(tree, tokenizer, cache, worked, what):
    write(Path(tree["data"]["name"]), rows_of(20))
    prepare(settings(tree), tokenizer)
    worked.clear()
    CHANGES[what](tree)
    prepare_with_faults(settings(tree), tokenizer)
    assert worked


def test_a_changed_template_tokenizer_or_library_makes_entries_stale(tree, tokenizer, cache, worked, monkeypatch):
    recipe = with_rows(tree, rows_of(20))
    prepare(recipe, tokenizer)
    other = copy.deepcopy(tokenizer)
    other.chat_template = other.chat_template.replace("{%- if", "{#- x #}{%- if", 1)
    larger = copy.deepcopy(tokenizer)
    larger.add_tokens(["血液"])
    renamed = copy.deepcopy(tokenizer)
    renamed.add_special_tokens({"bos_token": "<|im_start|>"})  # an existing token, so only its meaning is new
    for changed in (other, larger, renamed):
        worked.clear()
        prepare(recipe, changed)
        assert worked
    monkeypatch.setattr(pipeline, "_library_versions", lambda: "other libraries")
    worked.clear()
    prepare(recipe, tokenizer)
    assert worked


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A copy of our source whose files are hashed in place of those that run."""
    copied = tmp_path / "source"
    shutil.copytree(entry_cache.PACKAGE_FOLDER, copied, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(entry_cache, "PACKAGE_FOLDER", copied)
    return copied


def change(file):
    file.write_text(file.read_text(encoding="utf-8") + "\n# another line\n", encoding="utf-8")


def test_only_a_change_to_the_source_of_tokens_makes_them_stale(tree, tokenizer, cache, worked, source):
    recipe = with_rows(tree, rows_of(20))
    prepare(recipe, tokenizer)
    for name in ("serve/server.py", "train/loop.py", "report/html.py"):
        change(source / name)
        worked.clear()
        prepare(recipe, tokenizer)
        assert not worked, name
    for name in ("data/messages.py", "config/row_faults.py", "errors.py"):
        change(source / name)
        worked.clear()
        prepare(recipe, tokenizer)
        assert worked, name


def test_only_a_change_to_the_source_of_training_is_a_change_to_a_run(source):
    before = code_fingerprint()
    for name in ("serve/server.py", "report/html.py", "planner/plan.py", "tracking/worker.py"):
        change(source / name)
        assert code_fingerprint() == before, name
    for name in TRAINING_PACKAGES:
        change(source / name / "__init__.py")
        changed = code_fingerprint()
        assert changed != before, name
        before = changed


def test_a_fingerprint_is_of_whole_packages_or_single_modules_and_of_nothing_that_is_missing(source):
    module, package = (entry_cache.source_fingerprint(name) for name in ("model.loss", "model"))
    change(source / "model" / "batch.py")
    assert entry_cache.source_fingerprint("model.loss") == module
    assert entry_cache.source_fingerprint("model") != package
    with pytest.raises(FileNotFoundError):
        entry_cache.source_fingerprint("model.nowhere")


def test_every_package_that_tokens_are_made_with_is_hashed_or_known_to_leave_them_alone():
    used = {
        (node.module or "").split(".")[1]
        for file in (entry_cache.PACKAGE_FOLDER / "data").glob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("thinktune.")
    }
    assert used == {*pipeline.TOKEN_SOURCES, "files", "hub", "progress"}


def test_a_failed_preparation_leaves_no_entry(tree, tokenizer, cache, monkeypatch):
    recipe = with_rows(tree, rows_of(20))
    with monkeypatch.context() as broken:
        broken.setattr(dataset.DatasetWriter, "add", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(recipe, tokenizer)
    assert not entries(cache)
    assert len(prepare(recipe, tokenizer).train)


def test_rows_that_stop_the_run_stop_the_next_start_as_well(tree, tokenizer, cache, worked):
    recipe = with_rows(tree, [*rows_of(9), {"question": "q"}])
    first = prepare_with_faults(recipe, tokenizer)
    worked.clear()
    assert prepare_with_faults(recipe, tokenizer).stop_reasons == first.stop_reasons
    assert not worked
    with pytest.raises(UserError, match=r"rows\.jsonl:10: "):
        prepare(recipe, tokenizer)


def cut_short(entry):
    (entry / "ids.bin").write_bytes((entry / "ids.bin").read_bytes()[:-4])


@pytest.mark.parametrize(
    "damage",
    [
        cut_short,
        lambda entry: (entry / "examples.npy").unlink(),
        lambda entry: (entry / "sizes.json").write_text("{"),
        lambda entry: [path.unlink() for path in entry.iterdir()],
    ],
)
def test_a_damaged_entry_is_made_again(tree, tokenizer, cache, worked, damage):
    recipe = with_rows(tree, rows_of(20))
    first = prepare(recipe, tokenizer)
    expected = tokens_of(first)
    [entry] = entries(cache)
    damage(entry)
    worked.clear()
    assert tokens_of(prepare(recipe, tokenizer)) == expected
    assert worked
    worked.clear()
    prepare(recipe, tokenizer)
    assert not worked


def test_two_processes_that_fill_one_entry_both_find_it_whole(tmp_path):
    entry = tmp_path / "rows" / ("a" * 32)
    with entry_cache.create_entry(entry) as ours:
        (ours / "x").write_text("same")
        with entry_cache.create_entry(entry) as theirs:
            assert theirs != ours
            (theirs / "x").write_text("same")
    assert entry_cache.is_complete(entry)
    assert [path.name for path in entry.parent.iterdir()] == [entry.name]


def test_old_entries_are_removed_and_foreign_folders_stay(tree, tokenizer, cache):
    prepare(with_rows(tree, rows_of(20)), tokenizer)
    [old] = entries(cache)
    killed = cache / f".{'b' * 32}.{'c' * 16}.partial"
    for folder in (cache / "mine", killed):
        folder.mkdir()
    long_ago = time.time() - 40 * 86_400
    for path in (old / "sizes.json", cache / "mine", killed):
        os.utime(path, (long_ago, long_ago))
    prepare(with_rows(tree, rows_of(21)), tokenizer)
    assert old not in entries(cache)
    assert (cache / "mine").is_dir()
    assert not killed.exists()
    assert len(entries(cache)) == 2
