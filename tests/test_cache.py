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
    """Collect the chunks that are processed."""
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
    """Copy our source, and hash the copy in place of the files that run."""
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
    for name in ("data/columns/messages.py", "config/row_faults.py", "errors.py"):
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
        for file in (entry_cache.PACKAGE_FOLDER / "data").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("thinktune.")
    }
    assert used == {*pipeline.TOKEN_SOURCES, "files", "hub", "library_output", "progress"}


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
        lambda entry: (entry / "digests.json").write_text("{"),
        lambda entry: (entry / "digests.json").write_text("[1]"),
        lambda entry: (entry / "digests.json").write_text('{"ids.bin": 3}'),
        lambda entry: (entry / "ids.bin").unlink() or (entry / "ids.bin").mkdir(),
        lambda entry: shutil.rmtree(entry) or entry.write_text("a file"),
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
    said = []
    assert tokens_of(prepare(recipe, tokenizer, said.append)) == expected
    assert worked
    assert any(f"{entry}: the cache is damaged" in line for line in said)
    worked.clear()
    prepare(recipe, tokenizer)
    assert not worked


FILES = ("texts.jsonl", "ids.bin", "kinds.bin", "examples.npy", "replies.npy", "files.json", "train.npy")
FILES = (*FILES, "validation.npy", "facts.json", "features.npy", "lengths.npy", "digests.json")


def settled(entry):
    """Make an entry look as if it had been written long ago, and have it found undamaged."""
    for path in entry.iterdir():
        os.utime(path, (time.time() - 9000, time.time() - 9000))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(entry_cache, "RACY_SECONDS", -1)
        assert entry_cache.is_complete(entry)
    assert (entry / "verified.json").is_file()


def flip(path, place, bit=0):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("was_read", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_in_any_file_is_found_and_the_entry_made_again(tree, tokenizer, cache, worked, name, was_read):
    recipe = with_rows(tree, rows_of(20))
    first = prepare(recipe, tokenizer)
    expected, examples = tokens_of(first), first.train.examples()
    for place in (0.1, 0.5, 0.97):
        [entry] = entries(cache)
        if was_read:
            settled(entry)
        if name == "digests.json":  # half of it is white space and names of files
            place = (entry / name).read_text().index('"', (entry / name).read_text().index("[")) + int(20 * place)
            flip(entry / name, place)
        else:
            flip(entry / name, int((entry / name).stat().st_size * place))
        worked.clear()
        said = []
        again = prepare(recipe, tokenizer, said.append)
        assert worked
        assert len([line for line in said if "the cache is damaged" in line]) == 1
        assert (tokens_of(again), again.train.examples(), again.summary) == (expected, examples, first.summary)


def test_files_are_read_through_once_and_again_after_any_change(tree, tokenizer, cache, monkeypatch):
    recipe = with_rows(tree, rows_of(20))
    prepare(recipe, tokenizer)
    [entry] = entries(cache)
    settled(entry)
    read = []
    original = entry_cache._digest
    monkeypatch.setattr(entry_cache, "_digest", lambda file: read.append(file.name) or original(file))
    prepare(recipe, tokenizer)
    assert read == []
    os.utime(entry / "ids.bin")
    assert entry_cache.is_complete(entry)
    assert read == ["ids.bin"]
    read.clear()
    assert entry_cache.is_complete(entry)
    assert read == ["ids.bin"]  # it changed a moment ago, and could do so again unseen
    (entry / "verified.json").write_text('{"ids.bin": ')
    read.clear()
    assert entry_cache.is_complete(entry)
    assert sorted(read) == sorted({*FILES} - {"digests.json"})


@pytest.mark.parametrize(("name", "what"), [("ids.bin", "tokens"), ("kinds.bin", "tokens"), ("texts.jsonl", "text")])
def test_what_is_damaged_while_it_is_used_is_never_trained_on(tree, tokenizer, cache, name, what):
    recipe = with_rows(tree, rows_of(20))
    prepared = prepare(recipe, tokenizer)
    [entry] = entries(cache)
    settled(entry)
    times = (entry / name).stat()
    with (entry / name).open("rb+") as file:  # in place, as a disk or a wrong program does
        file.seek(40)
        byte = file.read(1)[0]
        file.seek(40)
        file.write(bytes([byte ^ 1]))
    os.utime(entry / name, ns=(times.st_atime_ns, times.st_mtime_ns))
    dataset = prepared.train.dataset
    with pytest.raises(UserError, match=rf"rows\.jsonl:1: its {what} in .* were damaged; run the same command again"):
        dataset.example(0) if what == "text" else dataset.reply(0)
    assert not (entry / "verified.json").exists()
    said = []
    prepare(recipe, tokenizer, said.append)  # the remedy works
    assert any("the cache is damaged" in line for line in said)


@pytest.mark.parametrize("which", ["entry", "cache"])
def test_an_entry_that_is_removed_while_it_is_used_is_still_there_for_who_uses_it(tree, tokenizer, cache, which):
    recipe = with_rows(tree, rows_of(20))
    prepared = prepare(recipe, tokenizer)
    expected, texts = tokens_of(prepared), prepared.validation.examples()
    [entry] = entries(cache)
    again = prepare(recipe, tokenizer)
    shutil.rmtree(entry if which == "entry" else cache.parent)
    assert tokens_of(again) == expected
    assert again.validation.examples() == texts
    assert tokens_of(prepare(recipe, tokenizer)) == expected


def test_an_entry_removed_between_being_found_and_being_opened_is_made_again(
    tree, tokenizer, cache, worked, monkeypatch
):
    recipe = with_rows(tree, rows_of(20))
    expected = tokens_of(prepare(recipe, tokenizer))
    opened = pipeline.open_dataset
    [entry] = entries(cache)
    removed = []

    def opening(folder):
        if folder == entry and len(removed) < times:
            removed.append(folder)
            shutil.rmtree(folder)
        return opened(folder)

    monkeypatch.setattr(pipeline, "open_dataset", opening)
    times = 2
    assert tokens_of(prepare(recipe, tokenizer)) == expected
    removed.clear()
    times = 9
    with pytest.raises(UserError, match=r"is removed as soon as it is made; set THINKTUNE_CACHE"):
        prepare(recipe, tokenizer)


def test_a_cache_removed_while_it_is_filled_is_a_sentence(tmp_path):
    entry = tmp_path / "rows" / ("a" * 32)
    removed = pytest.raises(UserError, match="the cache was removed while it was being written")
    with removed, entry_cache.create_entry(entry) as partial:
        (partial / "x").write_text("some")
        shutil.rmtree(tmp_path / "rows")
    with pytest.raises(FileNotFoundError), entry_cache.create_entry(entry):
        (tmp_path / "elsewhere").read_text()


def test_a_cache_that_cannot_be_written_is_a_sentence(tree, tokenizer, tmp_path, monkeypatch):
    (tmp_path / "occupied").write_text("a file")
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "occupied"))
    with pytest.raises(UserError, match=r"occupied/rows: the cache cannot be written .*; set THINKTUNE_CACHE"):
        prepare(with_rows(tree, rows_of(9)), tokenizer)


def test_a_damaged_entry_that_cannot_be_removed_is_a_sentence(tree, tokenizer, cache, monkeypatch):
    recipe = with_rows(tree, rows_of(9))
    prepare(recipe, tokenizer)
    [entry] = entries(cache)
    flip(entry / "ids.bin", 7)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(UserError, match=r"is damaged \(ids.bin has changed\) and cannot be removed .*THINKTUNE_CACHE"):
        prepare(recipe, tokenizer)


def test_entries_are_as_old_as_the_file_system_says_whatever_our_clock_does(tree, tokenizer, cache, monkeypatch):
    prepare(with_rows(tree, rows_of(20)), tokenizer)
    monkeypatch.setattr(time, "time", lambda: 9e9)
    monkeypatch.setattr(time, "time_ns", lambda: 9 * 10**18)
    prepare(with_rows(tree, rows_of(21)), tokenizer)
    assert len(entries(cache)) == 2


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
    for path in (old / "digests.json", cache / "mine", killed):
        os.utime(path, (long_ago, long_ago))
    prepare(with_rows(tree, rows_of(21)), tokenizer)
    assert old not in entries(cache)
    assert (cache / "mine").is_dir()
    assert not killed.exists()
    assert len(entries(cache)) == 2
