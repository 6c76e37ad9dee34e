"""Hubs: what the clients download from a server of both equals a local folder, now and from the cache."""

import json
import shutil
import socket
from pathlib import Path

import pytest
from support.hub_client import HUBS, at_once, contents, killed_after, locate, run, unfinished
from support.hub_server import Fault, HubServer

from thinktune.config import loading as recipe
from thinktune.data.pipeline import prepare
from thinktune.hub.repository import locate_model
from thinktune.tokenization import read_tokenizer

ROWS = [{"question": f"q{number}?", "think": f"because {number}", "answer": f"心脏 {number}"} for number in range(6)]
WEIGHTS = "model.safetensors"
REPOSITORIES = {"model": "clinic/small", "dataset": "clinic/rows"}
CACHED = [(name, kind) for name in HUBS for kind in REPOSITORIES]

CHECK = """
import json, sys
from pathlib import Path
from thinktune.commands.check import check_recipe
from thinktune.config import load_recipe
for path in sys.argv[1:]:
    prepared, facts = check_recipe(load_recipe(Path(path), []), lambda line: print(line, file=sys.stderr))
    assert facts["verdict"] == "ready"
    print(json.dumps({"fingerprint": prepared.fingerprint, "account": prepared.summary}))
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
    """Reserve an address where nothing listens, and where nothing else can start to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def tree(model, data, **names) -> dict:
    columns = {"reasoning": "think"}
    return {
        "model": {"name": str(model), **names},
        "data": {"name": str(data), "columns": columns, "validation": 0.0, "max_tokens": 200, **names},
        "train": {"rows_per_step": 2, "epochs": 1},
    }


def write(folder: Path, written: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mine.yaml"
    path.write_text(json.dumps(written), encoding="utf-8")  # JSON is YAML
    return path


def without_paths(account: dict) -> dict:
    return {**account, "files": [file["rows"] for file in account["files"]]}


def folder_of(done) -> Path:
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip().splitlines()[-1])


def refused(name: str, hub: str, revision: str = "by default") -> str:
    return f"REFUSED model.name: '{name}' (revision {revision}) could not be downloaded from {hub}: "


@pytest.mark.slow
def test_a_hub_gives_the_rows_that_local_folders_give_and_a_second_start_downloads_nothing(hub, start, data, tmp_path):
    local = recipe.validate_recipe(tree(start, data), "here")
    expected = prepare(local, read_tokenizer(locate_model(local)))
    originals = {"model": contents(start), "dataset": contents(data)}
    place = {"address": hub.address, "caches": tmp_path}
    mine = [write(tmp_path / name, tree("clinic/small", "clinic/rows", hub=name)) for name in HUBS]
    first = run("-c", CHECK, *mine, **place)
    assert first.returncode == 0, first.stderr
    assert len(first.stdout.splitlines()) == len(HUBS)
    assert sorted(hub.bodies) == sorted(2 * [*originals["model"], *originals["dataset"]])
    for line in first.stdout.splitlines():
        found = json.loads(line)
        assert found["fingerprint"] == expected.fingerprint, "of all ids and parts"
        assert without_paths(found["account"]) == without_paths(json.loads(json.dumps(expected.summary)))

    hub.forget()
    starts = at_once(lambda one: folder_of(locate(REPOSITORIES[one[1]], *one, **place)), CACHED)
    assert [contents(folder) for folder in starts] == [originals[kind] for _, kind in CACHED]
    assert hub.requests
    assert hub.bodies == []


def test_a_name_a_kind_and_a_revision_are_ones_that_the_hub_knows(hub, tmp_path):
    def check(asked):
        name, kind, repository, revision = asked
        done = locate(repository, name, kind, revision, address=hub.address, caches=tmp_path / name / kind)
        said = (
            refused(repository, name, revision or "by default") + "it has no repository of that name, type and revision"
        )
        assert said in done.stderr

    unknown = [
        ("model", "clinic/rows", ""),
        ("dataset", "clinic/small", ""),
        ("model", "clinic/small", "v9"),
        ("dataset", "clinic/nothing", ""),
    ]
    at_once(check, [(name, *asked) for name in HUBS for asked in unknown])
    assert hub.bodies == []


HARMED = ("clinic/gone", "clinic/rotten", "clinic/unknown", "clinic/mixed")


@pytest.fixture(scope="module")
def filled(start, data, tmp_path_factory):
    """Fill caches to be copied from hubs that are gone by then."""
    caches = tmp_path_factory.mktemp("filled")
    wanted = {"model": "clinic/small", "dataset": " ".join(["clinic/rows", *HARMED])}
    repositories = {f"datasets/{name}": data for name in wanted["dataset"].split()}
    with HubServer({"models/clinic/small": start, **repositories}) as hub:
        at_once(lambda one: folder_of(locate(wanted[one[1]], *one, address=hub.address, caches=caches)), CACHED)
    return caches


@pytest.fixture
def caches(filled, tmp_path) -> Path:
    return Path(shutil.copytree(filled, tmp_path / "caches", symlinks=True))


def test_with_the_hub_out_of_reach_a_whole_snapshot_serves_and_one_line_says_so(caches, closed_address, start, data):
    def check(asked):
        name, kind = asked
        done = locate(REPOSITORIES[kind], name, kind, address=closed_address, caches=caches)
        assert contents(folder_of(done)) == contents(start if kind == "model" else data)
        said = [line for line in done.stderr.splitlines() if line.startswith("model.name: ")]
        assert len(said) == 1
        assert f"is read from the cache, not from {name}: the connection fails" in said[0]

    at_once(check, CACHED)


OFFLINE = {"modelscope": "MODELSCOPE_OFFLINE", "huggingface": "HF_HUB_OFFLINE"}


def test_offline_nothing_is_asked_and_the_cache_serves_or_a_sentence_names_the_variable(hub, caches):
    def check(name):
        asked = "clinic/small clinic/other"
        done = locate(asked, name, address=hub.address, caches=caches, **{OFFLINE[name]: "1"})
        assert (Path(done.stdout.strip()) / WEIGHTS).is_file()
        assert f"'clinic/small' (revision by default) is read from the cache, not from {name}: " in done.stderr
        assert f"{refused('clinic/other', name)}{OFFLINE[name]} is set; unset it to download" in done.stderr

    at_once(check)
    assert hub.requests == []


def test_an_incomplete_snapshot_is_not_used_without_the_hub(caches, closed_address):
    def check(name):
        cache = caches / {"modelscope": "MODELSCOPE_CACHE", "huggingface": "HF_HOME"}[name]
        gone, rotten, unknown, mixed = (
            next(cache.rglob(f"*clinic--{one.split('/')[1]}/snapshots/*")) for one in HARMED
        )
        (gone / "rows" / "train.jsonl").unlink()
        spoil(rotten / "rows" / "train.jsonl")
        for record in (unknown / ".thinktune", *unknown.parents[1].glob("trees/*")):  # as another program leaves it
            record.unlink(missing_ok=True)
        (mixed / "rows" / "more.jsonl").write_text("{}", encoding="utf-8")  # as an update that was cut leaves it
        done = locate(" ".join(HARMED), name, "dataset", address=closed_address, caches=caches, **{OFFLINE[name]: "1"})
        assert done.stdout == ""
        for repository in HARMED:
            assert refused(repository, name) in done.stderr

    at_once(check)


def spoil(file: Path) -> None:
    body = file.read_bytes()
    file.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))


def test_what_is_damaged_in_the_cache_is_downloaded_again(hub, caches, start):
    def check(name):
        place = {"address": hub.address, "caches": caches}
        folder = folder_of(locate("clinic/small", name, **place))
        for file in (WEIGHTS, "config.json"):
            spoil(folder / file)
        assert contents(folder_of(locate("clinic/small", name, **place))) == contents(start)

    at_once(check)
    assert sorted(hub.bodies) == sorted(2 * [WEIGHTS, "config.json"])


def test_what_the_hub_no_longer_holds_is_not_read(data, tmp_path):
    upstream = Path(shutil.copytree(data, tmp_path / "upstream"))
    (upstream / "rows" / "old.jsonl").write_text("{}", encoding="utf-8")
    with HubServer({"datasets/clinic/rows": upstream}) as hub:
        place = {"address": hub.address, "caches": tmp_path}
        assert "rows/old.jsonl" in contents(folder_of(locate("clinic/rows", "modelscope", "dataset", **place)))
        (upstream / "rows" / "old.jsonl").unlink()
        (upstream / "rows" / "train.jsonl").write_text("{}", encoding="utf-8")
        assert contents(folder_of(locate("clinic/rows", "modelscope", "dataset", **place))) == contents(upstream)


def test_a_killed_download_resumes_and_is_not_trusted_before(tmp_path, closed_address):
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / WEIGHTS).write_bytes(bytes(range(256)) * 2**14)  # 4 MiB

    def check(name):
        with HubServer({"models/clinic/large": tmp_path / "large"}) as hub:
            hub.faults[WEIGHTS] = Fault(after=3 * 2**20 + 5, then="hang")
            caches = tmp_path / name
            left = killed_after(2 * 2**20, "clinic/large", name, address=hub.address, caches=caches)
            assert left >= 2 * 2**20
            alone = locate("clinic/large", name, address=closed_address, caches=caches)
            assert refused("clinic/large", name) in alone.stderr
            hub.faults.clear()
            hub.forget()
            folder = folder_of(locate("clinic/large", name, address=hub.address, caches=caches))
            assert contents(folder) == contents(tmp_path / "large")
            assert hub.offsets == [(WEIGHTS, left)]
            assert unfinished(caches) == 0

    at_once(check)
