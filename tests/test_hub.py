"""Hubs: what their own clients download from a server of both is what a local folder gives, and faults are sentences."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_server import HubServer

from thinktune import recipe
from thinktune.hub import locate_model
from thinktune.prepare import prepare, read_tokenizer

HUBS = ("modelscope", "huggingface")
ROWS = [{"question": f"q{number}?", "think": f"because {number}", "answer": f"心脏 {number}"} for number in range(6)]
WEIGHTS = "model.safetensors"

# The clients read their environment when they are imported, so each start is a process of its own, as it is for users.
LOCATE = """
import sys
from thinktune.errors import UserError
from thinktune.hub import locate
try:
    print(locate(sys.argv[1], sys.argv[2], sys.argv[4] or None, sys.argv[3], "model.name"))
except UserError as error:
    sys.exit(f"REFUSED {error}")
"""
CHECK = """
import json, sys
from pathlib import Path
from rich.console import Console
from thinktune import recipe
from thinktune.check import check
prepared = check(recipe.load(Path(sys.argv[1]), []), Console(stderr=True))
rows = [[row.ids.tolist(), row.parts.tolist()] for row in prepared.train.rendered]
print(json.dumps({"fingerprint": prepared.fingerprint, "rows": rows, "account": prepared.account}))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    (folder / "rows").mkdir()
    (folder / "rows" / "train.jsonl").write_text(lines, encoding="utf-8")
    (folder / "README.md").write_text("Rows.", encoding="utf-8")
    return folder


@pytest.fixture
def hub(start, data):
    with HubServer({"models/clinic/small": start, "datasets/clinic/rows": data}) as server:
        yield server


@pytest.fixture
def closed_address():
    """An address where nothing listens, and nothing else can begin to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def environment(address: str, caches: Path) -> dict[str, str]:
    """This process's environment, without the user's own hubs, tokens and proxies."""
    others = ("HF_", "HUGGING", "MODELSCOPE", "TRANSFORMERS_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(others) and not name.upper().endswith("_PROXY")
    }
    own = {"HF_ENDPOINT": address, "MODELSCOPE_ENDPOINT": address}
    folders = {name: str(caches / name) for name in ("HOME", "HF_HOME", "MODELSCOPE_HOME", "MODELSCOPE_CACHE")}
    return kept | own | folders


def run(*arguments, address, caches, timeout=60):
    command = [sys.executable, *map(str, arguments)]
    variables = environment(address, caches)
    return subprocess.run(command, env=variables, capture_output=True, text=True, encoding="utf-8", timeout=timeout)


def locate(name, hub, kind="model", revision="", **options):
    return run("-c", LOCATE, name, hub, kind, revision, **options)


def tree(model, data, **names) -> dict:
    columns = {"reasoning": "think"}
    return {
        "model": {"name": str(model), **names},
        "data": {"name": str(data), "columns": columns, "validation": 0.0, "max_tokens": 200, **names},
        "train": {"rows_per_step": 2, "epochs": 1},
    }


def write(folder: Path, written: dict) -> Path:
    path = folder / "mine.yaml"
    path.write_text(json.dumps(written), encoding="utf-8")  # JSON is YAML
    return path


def without_paths(account: dict) -> dict:
    return {**account, "files": [file["rows"] for file in account["files"]]}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", HUBS)
def test_a_hub_gives_the_rows_that_local_folders_give_and_a_second_start_downloads_nothing(
    name, hub, start, data, tmp_path
):
    mine = write(tmp_path, tree("clinic/small", "clinic/rows", hub=name))
    place = {"address": hub.address, "caches": tmp_path}
    first = run("-c", CHECK, mine, **place)
    assert first.returncode == 0, first.stderr
    assert "ready" in first.stderr
    assert sorted(hub.bodies) == sorted([*contents(start), *contents(data)])

    local = recipe.check(tree(start, data), "here")
    expected, found = prepare(local, read_tokenizer(locate_model(local))), json.loads(first.stdout)
    assert found["rows"] == [[row.ids.tolist(), row.parts.tolist()] for row in expected.train.rendered]
    assert len(found["rows"]) == len(ROWS)
    assert found["fingerprint"] == expected.fingerprint
    assert without_paths(found["account"]) == without_paths(json.loads(json.dumps(expected.account)))

    hub.forget()
    for kind, repository, original in (("model", "clinic/small", start), ("dataset", "clinic/rows", data)):
        second = locate(repository, name, kind, **place)
        assert contents(Path(second.stdout.strip())) == contents(original), second.stderr
    assert hub.requests
    assert hub.bodies == []


@pytest.mark.parametrize(("name", "key"), [("modelscope", "model"), ("huggingface", "data")])
def test_a_name_the_hub_does_not_know_ends_in_a_sentence_and_exit_code_2(name, key, hub, start, data, tmp_path):
    written = tree(start, str(data / "rows" / "train.jsonl"))
    written[key] |= {"name": "clinic/nothing", "hub": name}
    done = run("-m", "thinktune", "check", write(tmp_path, written), address=hub.address, caches=tmp_path)
    said = " ".join(done.stderr.split())
    assert done.returncode == 2, said
    assert "Traceback" not in said
    assert f"error: {key}.name: 'clinic/nothing' (revision by default) could not be had from {name}: " in said


@pytest.mark.parametrize("name", HUBS)
@pytest.mark.parametrize(("kind", "repository"), [("model", "clinic/rows"), ("dataset", "clinic/small")])
def test_a_model_is_no_data_set_nor_the_other_way_round(name, kind, repository, hub, tmp_path):
    done = locate(repository, name, kind, address=hub.address, caches=tmp_path)
    assert f"REFUSED model.name: '{repository}' (revision by default) could not be had from {name}: " in done.stderr
    assert hub.bodies == []


@pytest.mark.parametrize("name", HUBS)
def test_a_hub_that_is_not_there_is_told_of_in_bounded_time(name, closed_address, tmp_path):
    began = time.monotonic()
    done = locate("clinic/small", name, address=closed_address, caches=tmp_path)
    assert done.stderr.count(f"REFUSED model.name: 'clinic/small' (revision by default) could not be had from {name}")
    assert time.monotonic() - began < 30, "ModelScope's client tries four times and waits 1, 2 and 4 s between"


@pytest.mark.parametrize(
    ("name", "kind", "repository", "file"),
    [
        ("modelscope", "model", "clinic/small", WEIGHTS),
        ("huggingface", "model", "clinic/small", WEIGHTS),
        ("huggingface", "dataset", "clinic/rows", "rows/train.jsonl"),
    ],
)
def test_a_body_of_a_wrong_sha256_is_refused_and_not_trusted_later(
    name, kind, repository, file, hub, start, data, tmp_path
):
    hub.corrupt.add(file)
    place = {"address": hub.address, "caches": tmp_path}
    done = locate(repository, name, kind, **place)
    assert done.returncode == 1, done.stdout
    assert f"REFUSED model.name: '{repository}'" in done.stderr
    assert file in done.stderr.split("REFUSED")[1]
    original = (start if kind == "model" else data) / file
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size == original.stat().st_size]
    assert left == []

    hub.corrupt.clear()
    hub.forget()
    again = locate(repository, name, kind, **place)
    assert again.returncode == 0, again.stderr
    assert hub.bodies == [file], "what was sound is not downloaded again"
    assert contents(Path(again.stdout.strip())) == contents(start if kind == "model" else data)


@pytest.mark.parametrize("name", HUBS)
def test_a_large_file_that_rots_in_the_cache_is_not_used(name, hub, start, tmp_path):
    place = {"address": hub.address, "caches": tmp_path}
    weights = Path(locate("clinic/small", name, **place).stdout.strip()) / WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    starts = [locate("clinic/small", name, **place) for _ in range(2)]
    assert starts[-1].returncode == 0, starts[-1].stderr
    assert weights.read_bytes() == whole
    # ModelScope's client downloads it again at once; for Hugging Face's it is ours to refuse first.
    assert [done.returncode for done in starts] == ([0, 0] if name == "modelscope" else [1, 0])


@pytest.mark.parametrize("name", HUBS)
def test_a_revision_the_hub_does_not_know_is_named(name, hub, tmp_path):
    done = locate("clinic/small", name, revision="v9", address=hub.address, caches=tmp_path)
    assert f"REFUSED model.name: 'clinic/small' (revision v9) could not be had from {name}" in done.stderr
    assert hub.bodies == []
