"""Models pushed to both hubs: whole or not at all, private unless asked, and nothing is sent twice."""

import json
import random
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from support import waiting
from support.hub_client import HUBS, at_once, contents, environment, locate
from support.hub_server import Fault
from support.push_client import TOKENS, Outcome, Pusher
from support.upload_server import TOKEN, UploadServer

from thinktune.errors import UserError
from thinktune.export.push import push_model

WEIGHTS = "model.safetensors"
WEIGHTS_BYTES = 2**22
AN_HOUR = Fault(429, headers=(("Retry-After", "3600"),))
AGAIN = "then run the same command: finished uploads are kept"
UNANSWERED = f"the connection fails or is not answered; check the network, {AGAIN}"
FULL = f"it has no space left for 'clinic' (the quota is full); delete what you do not need there, {AGAIN}"
BUSY = f"it received too many requests (429); wait a few minutes, {AGAIN}"
DENIED = "it does not let this token write there (403); set {token} to one with write access to 'clinic'"
CHANGED = f"the repository has changed meanwhile, or the name is taken (409); look at its page, {AGAIN}"
HIDDEN = "it has no such owner or repository, or hides it from this token (404); correct {name!r}"
REFUSED = f"it refuses the token (401); set {{token}} to one with write access, {AGAIN}"
# Those of `commit` come last: before them no storage knows the files yet.
FAULTS = {
    "info-401": ("info", Fault(401), REFUSED),
    "info-429": ("info", AN_HOUR, BUSY),
    "info-hangs": ("info", Fault(then="hang"), UNANSWERED),
    "create-403": ("create", Fault(403), DENIED),
    "create-404": ("create", Fault(404), HIDDEN),
    "create-409": ("create", Fault(409), CHANGED),
    "batch-401": ("batch", Fault(401), REFUSED),
    "batch-403-full": ("batch", Fault(403, message="Private repository storage limit reached"), FULL),
    "batch-429": ("batch", AN_HOUR, BUSY),
    "put-cut": ("put", Fault(after=2**20, then="cut"), UNANSWERED),
    "put-hangs": ("put", Fault(after=2**20, then="hang"), UNANSWERED),
    "put-403": ("put", Fault(403), DENIED),
    "put-403-full": ("put", Fault(403, message="存储空间不足"), FULL),
    "put-413": ("put", Fault(413), "a file is larger than it takes (413); export smaller shards"),
    "put-507": ("put", Fault(507), FULL),
    "commit-400": ("commit", Fault(400), ""),  # its own text is told, without the token that it holds
    "commit-403": ("commit", Fault(403), DENIED),
    "commit-403-full": ("commit", Fault(403, message="You have exceeded your storage quota."), FULL),
    "commit-409": ("commit", Fault(409), CHANGED),
    "commit-429": ("commit", AN_HOUR, BUSY),
    "commit-500": ("commit", Fault(500), f"it failed (500); wait, {AGAIN}"),
    "commit-hangs": ("commit", Fault(then="hang"), UNANSWERED),
}
HANGS = [case for case in FAULTS if case.endswith("hangs")]  # each is waited for


@pytest.fixture(scope="module")
def hubs(tmp_path_factory):
    with UploadServer(tmp_path_factory.mktemp("a")) as one, UploadServer(tmp_path_factory.mktemp("b")) as other:
        yield dict(zip(HUBS, (one, other), strict=True))


@pytest.fixture(scope="module")
def pusher(hubs, tmp_path_factory):
    with Pusher(hubs, tmp_path_factory.mktemp("caches")) as process:
        yield process


def write_model(folder: Path, seed: str) -> Path:
    """Write a model whose weights no other has, so that no hub knows them yet."""
    folder.mkdir()
    (folder / WEIGHTS).write_bytes(random.Random(seed).randbytes(WEIGHTS_BYTES))
    (folder / "config.json").write_text('{"model_type": "qwen3"}', encoding="utf-8")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# 心脏\n", encoding="utf-8")
    (folder / "tokenizer.json").write_text(json.dumps(seed) + " " * 100_000, encoding="utf-8")
    (folder / "empty.txt").touch()
    (folder / ".secret").write_text("hidden", encoding="utf-8")
    return folder


@pytest.fixture
def model(tmp_path, request) -> Path:
    return write_model(tmp_path / "model", request.node.name)


def visible(model: Path) -> dict[str, bytes]:
    return {name: body for name, body in contents(model).items() if not name.startswith(".")}


@dataclass(frozen=True)
class Failures:
    """What came of each fault, of each hub; and of the same pushes to the same hubs, when they had recovered."""

    model: Path
    outcomes: dict[tuple[str, str], Outcome]
    commits: dict[tuple[str, str], int]
    resent_bytes: dict[str, int]
    again: dict[tuple[str, str], Outcome]


@pytest.fixture(scope="module")
def failures(hubs, pusher, tmp_path_factory) -> Failures:
    return push_with_faults(hubs, pusher, tmp_path_factory.mktemp("failures"), [*FAULTS.keys() - set(HANGS)])


@pytest.fixture(scope="module")
def hangs(hubs, pusher, tmp_path_factory) -> Failures:
    return push_with_faults(hubs, pusher, tmp_path_factory.mktemp("hangs"), HANGS)


def push_with_faults(hubs, pusher, folder, cases) -> Failures:
    cases = [case for case in FAULTS if case in cases]  # in their order
    model = write_model(folder / "model", folder.name)
    targets = [(name, f"clinic/{case}") for name in HUBS for case in cases]
    for hub in hubs.values():
        hub.upload_faults.update({(f"clinic/{case}", FAULTS[case][0]): FAULTS[case][1] for case in cases})
    outcomes = pusher.push_all(model, targets)
    commits = {(name, to): len(hubs[name].pushed[to].commits) for name, to in targets if to in hubs[name].pushed}
    received = {name: sum(hub.received.values()) for name, hub in hubs.items()}
    for hub in hubs.values():
        hub.upload_faults.clear()
    again = pusher.push_all(model, targets)
    resent_bytes = {name: sum(hub.received.values()) - received[name] for name, hub in hubs.items()}
    return Failures(model, outcomes, commits, resent_bytes, again)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case in HANGS else case for case in FAULTS]
)
@pytest.mark.parametrize("name", HUBS)
def test_each_failure_of_a_hub_is_one_sentence_and_leaves_no_model(name, case, request):
    failures = request.getfixturevalue("hangs" if case in HANGS else "failures")
    found = failures.outcomes[name, f"clinic/{case}"]
    token = "HF_TOKEN" if name == "huggingface" else "MODELSCOPE_API_TOKEN"
    sentence = FAULTS[case][2].format(token=token, name=f"clinic/{case}")
    assert len(found.faults) == 1
    assert found.faults[0].startswith(f"--hub {name}: 'clinic/{case}' could not be pushed: {sentence}")
    assert found.address is None
    assert failures.commits.get((name, f"clinic/{case}"), 0) == 0


def test_a_token_is_in_no_line_and_no_sentence(failures, hubs):
    for hub in hubs.values():
        assert any(TOKEN in sent for sent in hub.tokens)
    for found in [*failures.outcomes.values(), *failures.again.values()]:
        assert TOKEN not in f"{found.faults} {found.lines} {found.address}"
        assert "Signature=" not in f"{found.faults} {found.lines}"


@pytest.mark.parametrize("which", ["failures", pytest.param("hangs", marks=pytest.mark.slow)])
def test_after_any_failure_the_same_command_makes_the_repository_whole_in_one_commit(which, request, hubs):
    failures = request.getfixturevalue(which)
    files = visible(failures.model)
    for (name, to), found in failures.again.items():
        assert found.faults == [], (name, to)
        assert hubs[name].contents(to) == files, (name, to)
        assert hubs[name].pushed[to].commits == [sorted(files)]
        assert hubs[name].pushed[to].private
    # All repositories have the same files, and the storages kept those that had arrived before a failure.
    assert failures.resent_bytes == {"huggingface": 0, "modelscope": 0}


@pytest.mark.parametrize("name", HUBS)
def test_what_is_there_is_not_sent_again(name, model, hubs, pusher):
    hub, files = hubs[name], visible(model)
    first = pusher.push(model, name, "clinic/again")
    assert first.address == f"{hub.address}/{'models/' * (name == 'modelscope')}clinic/again"
    assert first.lines[0] == f"sending 5 files (4.3 MB) to {first.address}"
    assert pusher.push(model, name, "clinic/again").lines == ["5 files (4.3 MB) are already there, and nothing is sent"]
    (model / "config.json").write_text('{"model_type": "qwen2"}', encoding="utf-8")
    assert pusher.push(model, name, "clinic/again").lines[:2] == [
        f"sending 1 file (0.0 MB) to {first.address}; 4 more are already there",
        "replaced there (the history keeps the old ones): config.json",
    ]
    assert hub.pushed["clinic/again"].commits[1:] == [["config.json"]]
    assert hub.contents("clinic/again") == visible(model)
    assert hub.received["clinic/again"] == len(files[WEIGHTS]) + len(files["tokenizer.json"])


@pytest.mark.slow
def test_a_pushed_model_is_downloaded_as_it_was(model, hubs, pusher, tmp_path):
    def check(name):
        pusher.push(model, name, "clinic/back")
        back = locate("clinic/back", name, address=hubs[name].address, caches=tmp_path / name, **TOKENS)
        assert visible(model).items() <= contents(Path(back.stdout.strip())).items(), back.stderr

    at_once(check)


@pytest.mark.parametrize("name", HUBS)
def test_files_that_would_be_read_as_this_models_go_and_what_users_added_stays(name, model, hubs, pusher):
    hub = hubs[name]
    hub.add("clinic/former", private=True)
    former = {"chat_template.jinja", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "vocab.json"}
    others = {"heart.gguf": b"gguf", "plot.png": b"png", "onnx/model.safetensors": b"onnx"}
    hub.apply("clinic/former", dict.fromkeys(former, b"old") | others, [])
    found = pusher.push(model, name, "clinic/former")
    assert hub.contents("clinic/former") == visible(model) | others
    removed = ", ".join(sorted(former))
    assert f"removed there, because they belong to an earlier model (the history keeps them): {removed}" in found.lines
    assert len(hub.pushed["clinic/former"].commits) == 2


def test_an_export_in_one_file_stands_beside_others(hubs, pusher, tmp_path):
    for name in ("heart-q4.gguf", "heart-q8.gguf"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name, encoding="utf-8")
        assert pusher.push(tmp_path / name, "huggingface", "clinic/gguf").faults == []
    assert sorted(hubs["huggingface"].contents("clinic/gguf")) == ["heart-q4.gguf", "heart-q8.gguf"]


@pytest.mark.parametrize("name", HUBS)
def test_a_repository_is_private_unless_asked_and_never_changes_who_sees_it(name, model, hubs, pusher):
    hub = hubs[name]
    hub.add("clinic/open", private=False)
    assert pusher.push(model, name, "clinic/open").faults == [
        f"--hub {name}: 'clinic/open' already exists and public, not private; give --public, change that on its page, "
        "or name another"
    ]
    assert hub.pushed["clinic/open"].commits == []
    assert pusher.push(model, name, "clinic/open", public=True).faults == []
    assert pusher.push(model, name, "clinic/new", public=True).faults == []
    assert not hub.pushed["clinic/new"].private
    hub.add("clinic/closed", private=True)
    assert "already exists and private, not public; leave out --public" in str(
        pusher.push(model, name, "clinic/closed", public=True).faults
    )


@pytest.mark.parametrize("name", HUBS)
def test_a_body_that_was_cut_once_is_sent_again_by_itself(name, model, hubs, pusher):
    hubs[name].upload_faults["clinic/once", "put"] = Fault(after=50_000, then="cut")
    hubs[name].times["clinic/once", "put"] = 2
    assert pusher.push(model, name, "clinic/once").faults == []
    assert hubs[name].contents("clinic/once") == visible(model)


@pytest.mark.slow
@pytest.mark.parametrize("name", HUBS)
def test_a_slow_hub_is_waited_for_and_the_time_left_is_said(name, model, hubs, pusher):
    (model / WEIGHTS).write_bytes(random.Random(name).randbytes(2**25))
    hubs[name].upload_faults["clinic/slow", "put"] = Fault(pause=0.7)  # 5.6 s, with a patience of three
    found = pusher.push(model, name, "clinic/slow")
    assert found.faults == []
    assert any(re.match(r"\d+ MB, \d+/s, \d+%, left 0:0\d", line) for line in found.lines), found.lines


@pytest.mark.slow
@pytest.mark.parametrize("name", HUBS)
def test_a_killed_push_leaves_no_model_and_the_same_command_ends_it(name, model, hubs, pusher, tmp_path):
    hub = hubs[name]
    hub.upload_faults["clinic/killed", "put"] = Fault(pause=0.5)
    command = [sys.executable, "-m", "thinktune", "push", str(model), "--hub", name, "clinic/killed"]
    watched = TOKENS | {"THINKTUNE_PROGRESS_FILE": str(tmp_path / "progress.json")}
    process = subprocess.Popen(command, env=environment(hub.address, tmp_path, **watched), stdout=subprocess.DEVNULL)
    wait_until(lambda: hub.received["clinic/killed"] > 2**20)
    progress = json.loads((tmp_path / "progress.json").read_text())
    assert (progress["what"], progress["total"]) == ("bytes sent", sum(map(len, visible(model).values())))
    assert 0 <= progress["done"] < progress["total"]
    process.kill()
    process.wait()
    assert hub.contents("clinic/killed") == {}
    hub.upload_faults.clear()
    assert pusher.push(model, name, "clinic/killed").faults == []
    assert hub.contents("clinic/killed") == visible(model)


wait_until = partial(waiting.wait_until, seconds=120)


def test_parts_of_a_large_file_become_it_again(model, hubs, pusher):
    hub = hubs["huggingface"]
    hub.part_bytes["clinic/parts"] = 1_000_000
    assert pusher.push(model, "huggingface", "clinic/parts").faults == []
    assert hub.contents("clinic/parts") == visible(model)
    parts = [request for request in hub.requests if re.fullmatch(r"PUT /storage/clinic/parts/\w+/\d", request)]
    assert len(parts) == 6, "five of the weights and one of the tokenizer"


def test_a_repository_that_was_changed_meanwhile_is_not_written_over(model, hubs, pusher):
    hub = hubs["huggingface"]
    hub.add("clinic/changed", private=True)
    hub.upload_faults["clinic/changed", "put"] = Fault(pause=0.1)
    started = pusher.start(model, "huggingface", "clinic/changed")
    wait_until(lambda: hub.received["clinic/changed"])
    hub.apply("clinic/changed", {"config.json": b"another's"}, [])
    assert "the repository has changed meanwhile, or the name is taken (412)" in started.result().faults[0]
    assert hub.contents("clinic/changed") == {"config.json": b"another's"}


def test_a_file_that_the_hub_left_out_is_named(model, hubs, pusher):
    hubs["huggingface"].ignored.add(("clinic/ignoring", "tokenizer.json"))
    assert pusher.push(model, "huggingface", "clinic/ignoring").faults == [
        "--hub huggingface: 'clinic/ignoring' differs on huggingface from what is here: tokenizer.json; a .gitignore there may "
        "leave files out: correct it, then run the same command"
    ]


@pytest.mark.parametrize(("name", "variable"), [("huggingface", "HF_TOKEN"), ("modelscope", "MODELSCOPE_API_TOKEN")])
def test_without_a_token_in_the_environment_nothing_is_asked(name, variable, model, monkeypatch):
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UserError) as refused:
        push_model(model, name, "clinic/tokenless", public=False, say=print)
    assert refused.value.faults == [
        f"--hub {name}: 'clinic/tokenless' needs a token with write access; make one on the hub's page, and set {variable} "
        "to it"
    ]


@pytest.mark.parametrize(
    ("card", "license"),
    [
        ("license: Apache-2.0", "Apache-2.0"),
        ("license: llama3.2", "Other"),
        ("tags: [medical]", "Other"),
        ("- :", "Other"),
    ],
)
def test_modelscope_is_told_the_licence_of_the_card_and_none_that_nobody_gave(card, license, model, hubs, pusher):
    (model / "README.md").write_text(f"---\n{card}\n---\n", encoding="utf-8")
    pusher.push(model, "modelscope", f"clinic/{len(card)}")
    assert hubs["modelscope"].pushed[f"clinic/{len(card)}"].license == license
