"""The leader of the stages for a card: turns, limits and endings, tried on real child processes without torch."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from card.leader import Leader, Limits, Stage  # noqa: E402

# A stage that says on one clock, which all processes share, when its turns began and ended.
TURNS = """
import sys, time
from card.turns import Turns
line = Turns()
def take(phase, seconds):
    line.wait(phase)
    begin = time.monotonic()
    time.sleep(seconds)
    line.find(phase, begin=begin, end=time.monotonic())
"""


# What comes before the rest of a body: another stage's file is awaited.
AFTER = """
import os
while not os.path.exists({!r}):
    time.sleep(0.02)
"""


def stage(name, body, limit=20.0, **options):
    return Stage(name, name, (sys.executable, "-c", TURNS + body), limit, **options)


@pytest.fixture
def lead(tmp_path):
    """Lead stages to their end; return whether all ended well, and the lines by stage."""

    def run(stages, seconds=30.0, **limits):
        lines = []
        environment = os.environ | {"PYTHONPATH": str(BENCHMARKS)}
        leader = Leader(stages, Limits(seconds, **limits), lines.append, folder=tmp_path, environment=environment)
        well = leader.run()
        names = dict.fromkeys(line["stage"] for line in lines)
        return well, {name: [line for line in lines if line["stage"] == name] for name in names}

    return run


def ended(lines):
    return next(line["ended"] for line in lines if "ended" in line)


def spans(found, item):
    return [(line["begin"], line["end"]) for lines in found.values() for line in lines if line.get("item") == item]


def overlap(one, other):
    return one[0] < other[1] and other[0] < one[1]


def test_timed_windows_have_the_card_for_themselves_and_everything_else_overlaps(lead):
    body = "take('card', 0.3); take('timed', 0.2); take('card', 0.2)"
    well, found = lead([stage(name, body) for name in "abcd"])
    assert well, found
    timed, loads = spans(found, "timed"), spans(found, "card")
    assert len(timed) == 4
    assert len(loads) == 8
    assert not any(overlap(one, other) for one in timed for other in [*timed, *loads] if one != other)
    assert any(overlap(one, other) for one in loads for other in loads if one != other), "nothing ran side by side"


def test_nobody_comes_to_the_card_in_a_timed_window(lead, tmp_path):
    first = stage(
        "a",
        f"line.wait('timed'); open({str(tmp_path / 'a')!r}, 'w'); time.sleep(1); end = time.monotonic()\nline.find('end', end=end)",
    )
    well, found = lead([first, stage("b", AFTER.format(str(tmp_path / "a")) + "take('card', 0.1)")])
    assert well, found
    assert spans(found, "card")[0][0] > found["a"][0]["end"]


@pytest.mark.slow
def test_timed_windows_come_in_the_stages_order(lead, tmp_path):
    """All ask while the first has its turn, the last of them first."""
    first = stage("a", f"line.wait('timed'); open({str(tmp_path / 'a')!r}, 'w'); time.sleep(2.5)")
    waits = {"b": 0.8, "c": 0.4, "d": 0.0}
    others = [
        stage(name, AFTER.format(str(tmp_path / "a")) + f"time.sleep({wait}); take('timed', 0.05)")
        for name, wait in waits.items()
    ]
    well, found = lead([first, *others])
    assert well, found
    begins = [spans({name: found[name]}, "timed")[0][0] for name in waits]
    assert begins == sorted(begins)


def test_a_stage_that_hangs_is_ended_with_all_that_it_started_and_the_next_runs(lead, tmp_path):
    inner = tmp_path / "inner"
    hangs = f"""
import subprocess
line.wait("card")
inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(inner)!r}, "w").write(str(inner.pid))
line.find("before")
time.sleep(600)
"""
    started = time.monotonic()
    well, found = lead([stage("hangs", hangs, limit=1.0), stage("next", "take('timed', 0.1)")])
    assert not well
    assert time.monotonic() - started < 15
    assert ended(found["hangs"]) == "over its limit of 1 s on the card"
    assert found["hangs"][0]["item"] == "before", "what it found before is kept"
    assert ended(found["next"]) == "ok"
    assert ends(int(inner.read_text()))


def test_a_stage_that_never_asks_for_the_card_is_ended(lead):
    well, found = lead([stage("stuck", "time.sleep(600)"), stage("next", "take('card', 0.1)")], host_seconds=1.0)
    assert not well
    assert ended(found["stuck"]) == "over its limit of 1 s before the card"
    assert ended(found["next"]) == "ok"


@pytest.mark.slow
def test_waiting_for_others_does_not_count(lead, tmp_path):
    long = stage("long", f"line.wait('timed'); open({str(tmp_path / 'long')!r}, 'w'); time.sleep(1.5)")
    short = stage("short", AFTER.format(str(tmp_path / "long")) + "take('timed', 0.1)", limit=1.0)
    well, found = lead([long, short])
    assert well, found
    waited = next(line for line in found["short"] if "ended" in line)["waited_timed_s"]
    assert waited > 1.0


def test_a_stage_that_crashes_says_why_and_those_that_need_it_do_not_run(lead):
    stages = [
        stage("crashes", "line.wait('card'); raise ValueError('a broken weight')"),
        stage("needs it", "take('card', 0.1)", needs=("crashes",)),
        stage("does not", "take('card', 0.1)"),
        stage("needs it late", "take('card', 0.1)", needs=("needs it",)),
    ]
    well, found = lead(stages, ahead=2)
    assert not well
    assert ended(found["crashes"]) == "failed: ValueError: a broken weight"
    assert ended(found["needs it"]) == "not run: it needs crashes, which failed"
    assert ended(found["needs it late"]) == "not run: it needs needs it, which failed"
    assert ended(found["does not"]) == "ok"


def test_a_stage_comes_to_the_card_after_those_that_it_needs(lead):
    well, found = lead([stage("a", "take('card', 0.6)"), stage("b", "take('card', 0.1)", needs=("a",))])
    assert well, found
    (_, end), (begin, _) = spans(found, "card")
    assert begin > end


def test_what_does_not_fit_runs_again_smaller(lead):
    smaller = stage("half", "take('timed', 0.1)")
    body = "line.wait('card'); print('OutOfMemoryError: 70 GiB', file=sys.stderr); sys.exit(3)"
    well, found = lead([stage("whole", body, smaller=smaller), stage("next", "take('card', 0.1)")])
    assert not well
    assert ended(found["whole"]) == "does not fit: OutOfMemoryError: 70 GiB"
    assert [ended(found[name]) for name in ("half", "next")] == ["ok", "ok"]


@pytest.mark.slow
def test_memory_of_the_card_is_never_promised_twice(lead):
    sizes = {"a": 60, "b": 50, "c": 30, "d": 200}
    stages = [stage(name, "take('card', 0.5)", gib=gib) for name, gib in sizes.items()]
    well, found = lead(stages, card_gib=100)
    assert well, found
    by_name = {name: spans({name: found[name]}, "card")[0] for name in sizes}
    for moment in [begin + 0.01 for begin, _ in by_name.values()]:
        held = [name for name, (begin, end) in by_name.items() if begin <= moment < end]
        assert sum(sizes[name] for name in held) <= 100 or held == ["d"], held


def test_no_stage_waits_for_memory_that_waits_for_it(lead):
    """The first comes late and finds its memory taken by one that waits for a timed window."""
    late = stage("late", "time.sleep(1)\ntake('card', 0.1); take('timed', 0.1)", gib=80)
    early = stage("early", "take('card', 0.1); take('timed', 0.1)", gib=80)
    well, found = lead([late, early], seconds=15, card_gib=100)
    assert well, found


@pytest.mark.slow
def test_a_patient_stage_waits_for_the_timed_ones_before_it(lead, tmp_path):
    stages = [
        stage("timed", AFTER.format(str(tmp_path / "after")) + "take('card', 0.3); take('timed', 0.3)"),
        stage("patient", "take('card', 0.1)", patient=True),
        stage("after", f"time.sleep(0.5); take('card', 0.1); open({str(tmp_path / 'after')!r}, 'w')"),
    ]
    well, found = lead(stages)
    assert well, found
    begin = {name: spans({name: lines}, "card")[0][0] for name, lines in found.items()}
    assert begin["patient"] > spans({"timed": found["timed"]}, "timed")[0][1]
    assert begin["after"] < begin["timed"]


def test_the_command_ends_in_time_whatever_its_stages_do(lead, tmp_path):
    stages = [
        stage("a", f"line.wait('timed'); open({str(tmp_path / 'a')!r}, 'w'); time.sleep(600)", limit=900.0),
        stage("b", AFTER.format(str(tmp_path / "a")) + "take('timed', 0.1)"),
        *(stage(f"c{n}", "take('card', 0.1)") for n in range(6)),
    ]
    started = time.monotonic()
    well, found = lead(stages, seconds=4.0, ahead=2)
    assert time.monotonic() - started < 9
    assert not well
    assert ended(found["a"]).startswith("out of time, after ")
    assert ended(found["b"]) == "out of time, after 0 s on the card"
    assert ended(found["c5"]) == "not run: out of time"


def test_libraries_that_print_spoil_no_line_and_facts_reach_those_after(lead):
    first = stage(
        "first",
        "line.wait('card'); print('{\"item\": \"loss\"'); import os; os.system('echo noise')\nline.find('about', facts={'context_gib': 0.5})",
    )
    second = stage(
        "second", "take('card', 0.1); line.find('heard', context=line.facts['context_gib'])", needs=("first",)
    )
    well, found = lead([first, second])
    assert well, found
    assert [line.get("item") for line in found["first"]] == ["about", None]
    assert found["second"][1]["context"] == 0.5
    early = Stage("early", "early", (sys.executable, "-c", "print(7); print('hello', flush=True)\n" + TURNS), 20.0)
    well, found = lead([early])
    assert well
    assert [line.get("text") for line in found["early"]] == ["7", "hello", None]


def test_a_leader_that_is_stopped_leaves_no_process(tmp_path):
    script = f"""
import signal, sys
sys.path.insert(0, {str(BENCHMARKS)!r})
from pathlib import Path
from card.leader import Leader, Limits, Stage
import os
child = {TURNS + "line.wait('card'); line.find('pid', pid=__import__('os').getpid()); time.sleep(600)"!r}
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
stages = [Stage("a", "a", (sys.executable, "-c", child), 900.0)]
Leader(stages, Limits(900.0), lambda line: print(__import__("json").dumps(line), flush=True), folder=Path({str(tmp_path)!r}),
       environment=os.environ | {{"PYTHONPATH": {str(BENCHMARKS)!r}}}).run()
"""
    leader = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pid = json.loads(leader.stdout.readline())["pid"]
    assert running(pid)
    leader.terminate()
    rest = [json.loads(line) for line in leader.stdout]
    assert leader.wait(10) == 143
    assert rest[-1]["ended"].startswith("interrupted, after ")
    assert ends(pid)


def ends(pid: int) -> bool:
    """Whether a process that was killed is gone soon; on a busy machine it takes a moment."""
    until = time.monotonic() + 5
    while running(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not running(pid)


def running(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not yet waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"
