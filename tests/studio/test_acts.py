"""Acts: each in a process of its own, which outlives the studio; how they end is told truly, whatever ended them."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from filelock import FileLock
from support import waiting

from thinktune.http import ApiError
from thinktune.run.lock import is_held
from thinktune.studio import act_process
from thinktune.studio.act_process import ActFolder
from thinktune.studio.acts import Acts
from thinktune.studio.folder import StudioFolder
from thinktune.studio.verbs import parse_verb

# What an act runs instead of the command line: it says what it was given, and does what its recipe says.
STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path
lines = Path(sys.argv[-1]).read_text().split("\\n")
print(json.dumps({"argv": sys.argv[1:], "cwd": os.getcwd()}), flush=True)
todo = lines[0].removeprefix("# ")
exit_file = os.environ.pop("THINKTUNE_EXIT_FILE", None)
if todo == "wait":
    signal.signal(signal.SIGINT, lambda *_: sys.exit(75))
    Path("begun").write_text(str(os.getpid()))
    time.sleep(60)
if todo == "end later":
    Path("begun").write_text(str(os.getpid()))
    while not Path("end").exists():
        time.sleep(0.02)
    Path(exit_file).write_text(json.dumps({"code": 3, "ended_at": time.time()}))
    sys.exit(3)
if todo == "leave":
    while not Path("end").exists():
        Path("begun").touch()
        time.sleep(0.02)
    if os.fork() == 0:
        Path("left").touch()
        time.sleep(60)
    os._exit(0)
if todo == "fail later":
    signal.signal(signal.SIGINT, lambda *_: sys.exit("error: the disk is full"))
    Path("begun").write_text(str(os.getpid()))
    time.sleep(60)
if todo == "deaf":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Path("begun").write_text(str(os.getpid()))
    time.sleep(60)
if todo == "counts":
    def handle(*_):
        if Path("saves").exists():
            os._exit(130)
        Path("saves").touch()
    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, lambda *_: None)
    Path("begun").touch()
    for _ in range(60):
        time.sleep(1)
if todo == "fail":
    print("error: mine.yaml:1: model: is missing; name one", file=sys.stderr)
    sys.exit(2)
"""


@pytest.fixture
def acts(tmp_path):
    """Acts over a folder, whose processes run the stand-in."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    return Acts(StudioFolder.open(tmp_path / "folder"), (sys.executable, str(tmp_path / "stand_in.py")))


def start(acts, todo, name="mine.yaml"):
    (acts.folder.path / name).write_text(f"# {todo}\nmodel: {{}}\ndata: {{}}\n")
    return acts.start(parse_verb(json.dumps({"verb": "train", "recipe": name}).encode())).id


wait_until = partial(waiting.wait_until, seconds=30)


def ended(acts, id):
    wait_until(lambda: acts.find(id).state not in ("waiting", "running"))
    return acts.find(id)


def begun(acts):
    wait_until((acts.folder.path / "begun").exists)


def test_an_act_runs_its_verb_in_the_folder_and_says_how_it_ended(acts):
    act = ended(acts, start(acts, "end"))
    assert (act.state, act.code, act.verb, act.about) == ("finished", 0, "train", {"recipe": "mine.yaml"})
    assert act.command.endswith("train --wait mine.yaml")
    told = json.loads(acts.read_output(act.id))
    assert told == {"argv": ["train", "--wait", "--", "mine.yaml"], "cwd": str(acts.folder.path)}
    assert act.started_at <= act.ended_at


def test_a_verb_that_fails_is_told_in_its_own_sentences(acts):
    act = ended(acts, start(acts, "fail"))
    assert (act.state, act.code) == ("failed", 2)
    assert act.errors == ["mine.yaml:1: model: is missing; name one"]


def test_an_act_is_stopped_as_ctrl_c_does_and_then_ended(acts):
    id = start(acts, "wait")
    begun(acts)
    assert acts.stop(id).stopping
    act = ended(acts, id)
    assert (act.state, act.code) == ("stopped", 75)
    assert acts.stop(id).state == "stopped", "one that has ended stays so"
    (acts.folder.path / "begun").unlink()
    id = start(acts, "deaf")
    begun(acts)
    acts.stop(id)
    time.sleep(0.2)
    assert acts.find(id).state == "running"
    for _ in range(2):  # a second Ctrl-C, which training ends by, then SIGTERM
        acts.stop(id)
    assert ended(acts, id).state == "stopped"


def test_an_act_that_fails_while_it_stops_has_failed(acts):
    id = start(acts, "fail later")
    begun(acts)
    acts.stop(id)
    act = ended(acts, id)
    assert (act.state, act.errors) == ("failed", ["the disk is full"])


def test_training_is_ended_by_a_second_ctrl_c(acts):
    id = start(acts, "counts")
    begun(acts)
    acts.stop(id)
    wait_until((acts.folder.path / "saves").exists)
    acts.stop(id)
    assert ended(acts, id).code == 130


def test_a_stop_before_the_verb_began_is_not_lost(acts, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: None)
    id = start(acts, "wait")
    monkeypatch.undo()
    assert acts.stop(id).stopping
    assert subprocess.run([sys.executable, act_process.__file__, acts.path / id], check=False).returncode == 130
    assert (acts.find(id).state, (acts.folder.path / "begun").exists()) == ("stopped", False)


def test_an_act_outlives_the_studio_that_started_it(acts):
    (acts.folder.path / "mine.yaml").write_text("# wait\nmodel: {}\ndata: {}\n")
    code = f"""
from pathlib import Path
from thinktune.studio.acts import Acts
from thinktune.studio.folder import StudioFolder
from thinktune.studio.verbs import parse_verb
acts = Acts(StudioFolder.open(Path({str(acts.folder.path)!r})), {acts.program!r})
print(acts.start(parse_verb(b'{{"verb": "train", "recipe": "mine.yaml"}}')).id, flush=True)
import time; time.sleep(60)
"""
    studio = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    id = studio.stdout.readline().strip()
    begun(acts)
    os.killpg(studio.pid, signal.SIGKILL)
    studio.wait()
    assert acts.find(id).state == "running"
    assert [act.id for act in acts.alive()] == [id]
    acts.stop(id)
    assert ended(acts, id).code == 75


def test_an_act_whose_process_was_killed_has_died(acts):
    id = start(acts, "wait")
    begun(acts)
    folder = ActFolder(acts.path / id)
    numbers = json.loads(folder.process.read_text())
    for number in numbers.values():
        os.kill(number, signal.SIGKILL)
    wait_until(lambda: not is_held(folder.lock))
    assert ended(acts, id).state == "died"
    assert acts.alive() == []


def kill_watcher(acts, id):
    """Kill the act's own process alone, as one that ends whatever uses memory might."""
    watcher = json.loads(ActFolder(acts.path / id).process.read_text())["process"]
    os.kill(watcher, signal.SIGKILL)
    wait_until(lambda: Path(f"/proc/{watcher}/stat").read_text().split()[2] == "Z")


def test_an_act_whose_watcher_alone_was_killed_runs_on_and_can_be_stopped(acts):
    id = start(acts, "wait")
    begun(acts)
    kill_watcher(acts, id)
    assert acts.find(id).state == "running"
    assert [act.id for act in acts.alive()] == [id]
    asked = acts.stop(id)
    assert asked.stopping or asked.state == "stopped"  # it may end at once
    act = ended(acts, id)
    assert (act.state, act.errors) == ("stopped", [])


def test_what_a_verb_left_behind_is_stopped_where_nobody_watches_any_more(acts):
    id = start(acts, "leave")
    begun(acts)
    kill_watcher(acts, id)
    (acts.folder.path / "end").touch()
    wait_until((acts.folder.path / "left").exists)
    assert acts.find(id).state == "running"
    acts.stop(id)
    assert ended(acts, id).state == "stopped"


def test_an_act_that_nobody_watches_any_more_says_itself_how_it_ended(acts):
    id = start(acts, "end later")
    begun(acts)
    kill_watcher(acts, id)
    (acts.folder.path / "end").touch()
    act = ended(acts, id)
    assert (act.state, act.code) == ("failed", 3)
    assert act.ended_at > act.started_at


def test_what_an_act_printed_is_read_only_where_it_is_shown(acts):
    id = start(acts, "fail")
    act = ended(acts, id)
    assert act.errors
    assert [one.errors for one in (*acts.list(), *acts.of_verb("train"))] == [[], []]
    died = start(acts, "wait", "other.yaml")
    begun(acts)
    for number in json.loads(ActFolder(acts.path / died).process.read_text()).values():
        os.kill(number, signal.SIGKILL)
    ActFolder(acts.path / died).stderr.write_text("killed\n")
    assert ended(acts, died).errors == ["killed"]
    assert acts.alive() == []


def made(acts, name, about=None, code=0, verb="eval"):
    """Make an act that ended long ago; its name gives its age."""
    folder = ActFolder(acts.path / name)
    folder.path.mkdir(parents=True)
    record = {"verb": verb, "about": about or {}, "command": "", "started_at": 1.0}
    folder.record.write_text(json.dumps(record))
    if code is not None:
        folder.exit.write_text(json.dumps({"code": code, "ended_at": 2.0}))
    return folder


def test_old_acts_go_when_a_new_one_starts_but_none_that_lives_or_that_a_screen_still_shows(acts, monkeypatch):
    monkeypatch.setattr("thinktune.studio.acts.KEPT_ACTS", 5)
    living = made(acts, "20200101-000000-eval-000000", code=None)
    held = FileLock(living.lock)
    shown = made(acts, "20200101-000001-check-000000", {"recipe": "old.yaml"}, verb="check")
    stopped = made(acts, "20200101-000002-check-000000", {"recipe": "old.yaml"}, code=75, verb="check")
    without_facts = made(acts, "20200101-000003-check-000000", {"recipe": "old.yaml"}, code=1, verb="check")
    shown.stdout.write_text("{}")
    superseded = [made(acts, f"20200102-00000{n}-eval-000000", {"run": "runs/one"}) for n in range(3)]
    damaged = acts.path / "20200103-000000-eval-000000"
    damaged.mkdir()
    newest = [made(acts, f"20200104-00000{n}-eval-000000", {"run": "runs/one"}) for n in range(4)]
    with held:
        id = start(acts, "end")
    left = {entry.name for entry in acts.path.iterdir()}
    assert left == {folder.path.name for folder in (living, shown, without_facts, *newest)} | {id}
    assert not stopped.path.exists()
    assert not any(folder.path.exists() for folder in superseded)
    ended(acts, id)


def test_acts_that_cannot_be_removed_stop_no_new_one(acts, monkeypatch):
    monkeypatch.setattr("thinktune.studio.acts.KEPT_ACTS", 0)

    def cannot(_, ignore_errors=False):
        if not ignore_errors:
            raise PermissionError

    monkeypatch.setattr("thinktune.studio.acts.shutil.rmtree", cannot)
    made(acts, "20200101-000000-eval-000000")
    made(acts, "20200101-000001-eval-000000")
    assert ended(acts, start(acts, "end")).state == "finished"


def test_a_log_is_read_from_a_byte_on_and_no_character_is_torn(acts):
    id = start(acts, "end")
    ended(acts, id)
    file = ActFolder(acts.path / id).stderr
    file.write_bytes("思考".encode()[:4])
    found = acts.read_log(id, 0)
    assert (found["text"], found["next"]) == ("思", 3)
    file.write_bytes("思考".encode())
    assert acts.read_log(id, found["next"])["text"] == "考"
    assert acts.read_log(id, -3)["text"] == "考"
    assert acts.read_log(id, 10**9)["text"] == ""


def test_an_act_speaks_english_on_a_chinese_machine_since_its_words_are_read_here(acts, monkeypatch):
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    monkeypatch.setenv("THINKTUNE_LANG", "zh")
    act = ended(Acts(acts.folder), start(Acts(acts.folder), "end"))
    assert act.state == "failed"
    assert act.errors
    assert all(line.isascii() for line in act.errors)
    assert json.loads(ActFolder(acts.path / act.id).verb_exit.read_text())["code"] == act.code == 2


def test_an_act_of_a_verb_is_found_behind_any_number_of_others(acts):
    old = start(acts, "end")
    ended(acts, old)
    for number in range(210):
        (acts.path / f"20990101-000000-eval-{number:06x}").mkdir()
        record = {"verb": "eval", "about": {}, "command": "", "started_at": 1.0}
        (acts.path / f"20990101-000000-eval-{number:06x}" / "act.json").write_text(json.dumps(record))
    assert old not in [act.id for act in acts.list()]
    assert [act.id for act in acts.of_verb("train")] == [old]


@pytest.mark.parametrize("id", ["", ".", "..", "../x", "a/b", "nix", "20261129-111111-train-aaaaaa"])
def test_there_is_no_act_outside_the_folder_of_acts(acts, id):
    for ask in (acts.find, acts.stop, lambda id: acts.read_log(id, 0)):
        with pytest.raises(ApiError) as refused:
            ask(id)
        assert refused.value.status == 404


def test_damaged_acts_are_left_out_of_lists(acts):
    id = start(acts, "end")
    ended(acts, id)
    (acts.path / "20990101-000000-train-aaaaaa").mkdir()
    for number, text in enumerate(
        ("{", "[]", "3", '{"verb": "train", "about": 3, "started_at": 1}', '{"started_at": "x"}')
    ):
        (acts.path / f"20990101-000000-train-cccc{number}").mkdir()
        (acts.path / f"20990101-000000-train-cccc{number}" / "act.json").write_text(text)
        with pytest.raises(ApiError):
            acts.find(f"20990101-000000-train-cccc{number}")
    assert acts.alive() == []
    assert [act.id for act in acts.list()] == [id]


def test_an_act_whose_verb_has_ended_unwatched_is_over_though_something_that_it_started_holds_its_lock(acts):
    folder = made(acts, "20200101-000000-eval-000000", code=None)
    folder.verb_exit.write_text(json.dumps({"code": 0, "ended_at": 2.0}))
    with FileLock(folder.lock):
        assert acts.find(folder.path.name).state == "finished"
        with FileLock(folder.watcher):  # its own process has yet to say so
            assert acts.find(folder.path.name).state == "running"
