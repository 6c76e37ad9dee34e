"""Errors of the system and damaged files of a run: one sentence that names the path and what to do, no traceback."""

import errno
import json
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from support.runs import equal, quiet, settings, stop_in_step

from thinktune.cli import main
from thinktune.errors import Stopped, UserError
from thinktune.files import describe_system_error, name_path, system_error
from thinktune.run import journal
from thinktune.train import train


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory, start):
    """Stop a run after step 4, once for all tests."""
    from support.runs import small_tree_of

    tree = small_tree_of(tmp_path_factory.mktemp("stopped"), start)
    with pytest.MonkeyPatch.context() as patch:
        stop_in_step(patch, 4)
        with pytest.raises(Stopped):
            train(settings(tree), quiet)
    return tree


@pytest.fixture
def stopped(stopped_once, tmp_path):
    """Return a recipe and the folder of its stopped run, a copy of its own."""
    shutil.copytree(Path(stopped_once["runs_folder"]) / "small", tmp_path / "runs" / "small")
    return settings(stopped_once, runs_folder=str(tmp_path / "runs")), tmp_path / "runs" / "small"


def cut(data):
    return data[: len(data) // 2]


def spoil_line(data):
    """Change the first line, so that the file is as long as before."""
    return b"x" + data[1:]


DAMAGE = {
    "recipe, not YAML": ("recipe.yaml", lambda _: b"\x00\x01", r"recipe\.yaml: is not YAML"),
    "recipe, cut": ("recipe.yaml", lambda _: b"name: small\n", r"recipe\.yaml: model: is missing"),
    "environment, cut": ("environment.json", cut, r"environment\.json: is damaged .*put the original file back"),
    "environment, a list": ("environment.json", lambda _: b"[]", r"environment\.json: is damaged"),
    "environment, empty": ("environment.json", lambda _: b"{}", r"environment\.json: is damaged \(data_fingerprint"),
    "environment, no such tier": (
        "environment.json",
        lambda data: data.replace(b'"memory": "fp32"', b'"memory": "fp33"'),
        r"environment\.json: is damaged \(memory",
    ),
    "environment, not UTF-8": ("environment.json", lambda _: b"\xff\xfe", r"environment\.json: is damaged"),
    "environment, too deep": ("environment.json", lambda _: b"[" * 100_000, r"environment\.json: is damaged"),
    "evaluated, cut": ("evaluated.json", cut, r"evaluated\.json: is damaged .*delete it to run the evaluation again"),
    "evaluated, a number": ("evaluated.json", lambda _: b"3", r"evaluated\.json: is damaged"),
    "a line of metrics": ("metrics.jsonl", spoil_line, r"metrics\.jsonl:1: is damaged .*spaces to continue without it"),
    "a line of metrics without its kind": (
        "metrics.jsonl",
        lambda data: data.replace(b'"kind"', b'"kinf"', 1),
        r"metrics\.jsonl:1: is damaged \(kind: field required\)",
    ),
    "a line of samples": ("samples.jsonl", spoil_line, r"samples\.jsonl:1: is damaged"),
    "a line of row losses": ("losses.jsonl", spoil_line, r"losses\.jsonl:1: is damaged"),
    "row losses of another form": (
        "losses.jsonl",
        lambda data: data.replace(b"[", b'"', 1).replace(b"]", b'"', 1),
        r"losses\.jsonl:1: is damaged \(rows\.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_and_nothing_is_changed(stopped, tried, damage):
    recipe, folder = stopped
    name, change, told = DAMAGE[damage]
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=told):
        train(recipe, quiet)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    tried(damage, "nothing; the run is refused as long as it lasts")


def test_the_remedies_work(stopped, stopped_once):
    recipe, folder = stopped
    (folder / "evaluated.json").unlink()
    file = folder / "metrics.jsonl"
    lines = file.read_bytes().split(b"\n")
    number = next(index for index, line in enumerate(lines) if b'"train"' in line)
    file.write_bytes(b"\n".join([*lines[:number], b" " * len(lines[number]), *lines[number + 1 :]]))
    assert train(recipe, quiet).joinpath("final").is_dir()


def test_a_damaged_list_of_files_of_another_checkpoint_ends_no_run(stopped):
    """Only the last one is resumed from; a folder whose list cannot be read is not taken for ours, and stays."""
    recipe, folder = stopped
    other = folder / "checkpoints" / "step-000003"
    (other / "files.json").write_text("{")
    assert train(recipe, quiet).joinpath("final").is_dir()
    assert (other / "config.json").is_file()


def run_cli(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["thinktune", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    return ended.value.code, " ".join(said.err.split())


def test_report_names_a_damaged_file_and_writes_the_rest(stopped, monkeypatch, capsys):
    _, folder = stopped
    (folder / "data.json").write_bytes(cut((folder / "data.json").read_bytes()))
    (folder / "eval").mkdir()
    for text in ("{", "[]", '{"sets": 5}', '{"sets": [{"measures": [{"measure": "none"}]}], "verdicts": 1}'):
        (folder / "eval" / "report.json").write_text(text)
        (folder / "eval" / "rows.jsonl").write_text("")
        (folder / "report.html").unlink(missing_ok=True)
        code, said = run_cli(monkeypatch, capsys, "report", folder)
        assert code == 2
        assert "eval/report.json: is damaged" in said
        assert "run thinktune eval again" in said
        assert "data.json: is damaged" in said
        assert (folder / "report.html").is_file()
    (folder / "eval" / "report.json").write_text('{"sets": [{"measures": []}], "verdicts": [], "settings": {}}')
    (folder / "eval" / "rows.jsonl").write_text("{}\nhalf\n")
    assert "rows.jsonl:2: is damaged" in run_cli(monkeypatch, capsys, "report", folder)[1]
    (folder / "metrics.jsonl").write_bytes(spoil_line((folder / "metrics.jsonl").read_bytes()))
    code, said = run_cli(monkeypatch, capsys, "report", folder)
    assert (code, "metrics.jsonl:1: is damaged" in said) == (2, True)


def test_a_damaged_evaluation_costs_the_page_and_not_the_run(stopped):
    recipe, folder = stopped
    (folder / "eval").mkdir()
    (folder / "eval" / "report.json").write_text("{")
    assert train(recipe, quiet).joinpath("final").is_dir()
    texts = [record["text"] for record in journal.read_metrics(folder) if record["kind"] == "event"]
    assert any("eval/report.json: is damaged" in text for text in texts)


def test_grading_again_names_a_damaged_file(stopped, monkeypatch, capsys):
    _, folder = stopped
    (folder / "eval").mkdir()
    for settings_text, tasks, told in (
        ("{", "", "settings.json: is damaged"),
        ('{"models": 5}', "", "settings.json: is damaged"),
        (
            json.dumps(
                {
                    "models": {},
                    "sampling": {"max_new_tokens": 1, "temperature": 0, "seed": 0, "thinking": True},
                    "apart": [],
                }
            ),
            "{}\n",
            "tasks.jsonl: is damaged",
        ),
    ):
        (folder / "eval" / "settings.json").write_text(settings_text)
        (folder / "eval" / "tasks.jsonl").write_text(tasks)
        code, said = run_cli(monkeypatch, capsys, "eval", folder, "--regrade")
        assert code == 2
        assert told in said
        assert "run thinktune eval without --regrade" in said


@contextmanager
def files_of_at_most(size_bytes):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_the_system_refuses_is_named_from_inside_safetensors(tree, monkeypatch, capsys, tried):
    recipe = Path(tree["data"]["name"]).with_name("mine.yaml")
    recipe.write_text(json.dumps(tree), encoding="utf-8")
    with files_of_at_most(300_000):
        code, said = run_cli(monkeypatch, capsys, "train", recipe)
    folder = Path(tree["runs_folder"]) / "small"
    assert code == 2
    assert said.endswith(
        f"error: {folder}/checkpoints/step-000003: File too large; raise the limit on the size of files (ulimit -f), "
        "or use another file system"
    )
    equal(train(settings(tree), quiet), train(settings(tree, name="whole"), quiet))
    tried("a limit on the size of files, met in a checkpoint", "the steps since the last checkpoint")


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (SafetensorError("Error while serializing: I/O error: Input/output error (os error 5)"), errno.EIO),
        (Exception("Read-only file system (os error 30)"), errno.EROFS),
        (RuntimeError("unable to mmap 1184 bytes from file </a/model.safetensors>: Cannot allocate memory (12)"), errno.ENOMEM),
        (RuntimeError("unable to open file </a/b> in read-only mode: Stale file handle (116)"), errno.ESTALE),
        (RuntimeError("CheckpointException ranks: [Errno 28] No space left on device"), errno.ENOSPC),
        (RuntimeError("can't start new thread"), errno.EAGAIN),
        (BaseException('ThreadPoolBuildError { kind: IOError(Os { code: 11, kind: WouldBlock, message: "x" }) }'), errno.EAGAIN),
    ],
)  # fmt: skip
def test_an_error_of_the_system_is_known_in_every_librarys_words(tmp_path, error, number):
    assert system_error(error).errno == number
    if isinstance(error, Exception):
        with pytest.raises(OSError, match=str(tmp_path)) as caught, name_path(tmp_path):
            raise error
        assert describe_system_error(caught.value).startswith(f"{tmp_path}: ")


def test_what_safetensors_itself_raises_gets_its_path(tmp_path):
    with pytest.raises(OSError, match="model") as caught, name_path(tmp_path / "model"):
        save_file({"x": torch.zeros(4)}, tmp_path)
    assert caught.value.errno == errno.EISDIR


def test_other_errors_and_those_of_connections_stay_as_they_are(tmp_path):
    ours = UserError("model.name: cannot be read (os error 5)")
    for error in (ValueError("x (5)"), KeyError("a"), ConnectionResetError(104, "reset"), TimeoutError(), ours):
        with pytest.raises(type(error)) as caught, name_path(tmp_path):
            raise error
        assert caught.value is error


def test_a_path_that_an_error_names_itself_stays(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, name_path(tmp_path):
        (tmp_path / "missing").read_text()
    assert caught.value.filename == str(tmp_path / "missing")


def test_no_more_threads_is_a_sentence(monkeypatch, capsys):
    def full(*_given):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("thinktune.cli._load_recipe", full)
    code, said = run_cli(monkeypatch, capsys, "train", "mine.yaml")
    assert code == 2
    assert "no new thread can be started; raise the limits on threads and memory (ulimit -u, ulimit -v)" in said
