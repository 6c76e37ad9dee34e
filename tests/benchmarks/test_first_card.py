"""The command for the first minutes on a card: its stages, its table, and the whole of it on the CPU with tiny shapes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import first_card  # noqa: E402
import suite  # noqa: E402
from card import gpu_tests, kernels, stages, summary  # noqa: E402
from card.places import Places  # noqa: E402


@pytest.fixture
def known(tmp_path):
    return stages.all_stages(Places(tmp_path / "out", tmp_path / "work", tiny=False))


def test_a_first_call_has_every_goal_and_a_second_one_what_it_names_with_its_needs(known):
    first = [stage.name for stage in stages.choose(known, [])]
    assert first[:4] == ["weights 1.7B", "tests", "ours 1.7B", "probe"]
    assert {"ours 1.7B, fp8", "ours 0.6B", "ours 4B", *summary.SMALL_CARDS, *summary.PEERS} <= {*first}
    assert not {"ours 8B", "resume 0.6B", "parity, 4bit"} & {*first}
    second = [stage.name for stage in stages.choose(known, ["resume", "small"])]
    assert second == ["weights 1.7B", "weights 0.6B", *summary.SMALL_CARDS, "resume 0.6B"]


def test_no_stage_comes_before_what_it_needs_and_each_has_its_own_name(known):
    names = [stage.name for stage in known]
    assert len({*names}) == len(names)
    assert all(names.index(need) < names.index(stage.name) for stage in known for need in stage.needs)


def test_the_limits_of_all_that_has_a_timed_window_leave_room_for_the_first_of_them(known):
    """The must is answered even if everything before it takes all its time."""
    before = known[: [stage.name for stage in known].index("probe")]
    assert sum(stage.limit_seconds for stage in before) < 530


def test_the_leader_loads_no_torch():
    script = "import sys, first_card; sys.exit(bool({'torch', 'transformers', 'numpy'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", script], cwd=BENCHMARKS, check=False).returncode == 0


def speed(stage, rate, item="training", **more):
    line = {"stage": stage, "item": item, "tokens_per_s": rate, "setting": "exact", "mfu": 0.5, "warm_up_seconds": 20.0}
    return line | {"losses": [(1, 8.0), (10, 7.0)], "gradient_norms": [1.0], "memory": {}, **more}


LINES = [
    speed("ours 1.7B", 46_000, settings={}, predicted={"tokens_per_s_range": [42_000, 53_000], "train_gib": 34.6}),
    speed("ours 1.7B", 49_000, settings={"batch_tokens": 32_768}, predicted={"tokens_per_s_range": [45_000, 56_000], "train_gib": 90}),
    {"stage": "ours 1.7B", "item": "training", "settings": {"memory": "exact"}, "absent": "does not fit"},
    speed("Trainer, tuned, half the batch", 38_000, "contender", losses=[(1, 8.0), (10, 7.2)]),
    speed("the tutorial's loop", 14_000, "contender"),
    {"stage": "1.7B in 6 GiB", "item": "case", "case": {"memory": "8bit", "update_in_backward": True, "tokens": 2048, "limit_gib": 6}, "predicted_gib": 5.0, "measured_gib": 5.1, "reserved_gib": 5.3},
    {"stage": "4B in 16 GiB", "item": "case", "case": {"memory": "8bit", "update_in_backward": True, "tokens": 2048, "limit_gib": 16}, "absent": "does not fit: 3 GiB"},
    {"stage": "probe", "item": "memory", "found": {"copy": 3.9}},
    {"stage": "probe", "ended": "ok", "card_s": 50.0},
]  # fmt: skip


def test_goals_are_met_missed_or_not_measured():
    found = {goal.what: goal for goal in summary.goals(LINES)}
    rows = summary.goals_table([*found.values()]).split("\n")
    assert found["1.7B in bf16, tokens/s"].measured == 49_000
    assert found["times the fastest peer in Python, bf16"].measured == pytest.approx(49 / 38)
    assert found["times the tutorial's loop a GPU-hour, at our step"].measured == 3.5
    assert "| 1.7B in bf16, tokens/s | 45,000 | 40k – 46k – 51k | 49,000 | met |" in rows
    assert "| 1.7B in 6 GiB (1 fits, 0 does not) | 1 | 1 | 1 | met |" in rows
    assert "| 4B in 16 GiB (1 fits, 0 does not) | 1 | 1 | 0 | missed |" in rows
    assert "| 0.6B, tokens/s | 90,000 | 77k – 91k – 103k | not measured |  |" in rows


def test_the_page_puts_predictions_beside_what_was_measured():
    page = summary.summary(LINES, "# H200")
    assert "| ours 1.7B | the plan's: exact | 46,000 | 42,000 to 53,000 | 40k – 46k – 51k | 50.0% | 20.0 |" in page
    assert "| Trainer, tuned, half the batch |  | 1: 8.0000, 10: 7.2000 | 2.9e-02 (more than 1 %) | 1.000 |" in page
    assert "| 1.7B in 6 GiB | 8bit inside, 2,048 | 5.00 | 5.10 | 0.980 | 5.30 | 6.00 |" in page
    assert "| memory | copy 3.9 |" in page
    for table in page.split("\n\n"):
        lines = [line for line in table.split("\n") if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1, table


def test_a_finding_that_the_table_cannot_show_ends_nothing(tmp_path, capsys):
    record = first_card.Record(tmp_path, tmp_path, "# H200")
    record.add({"stage": "ours 1.7B", "item": "training", "at_s": 1.0})
    record.add({"stage": "ours 1.7B", "ended": "ok", "at_s": 2.0})
    assert "No table, KeyError" in (tmp_path / "card.md").read_text()
    assert len((tmp_path / "card.jsonl").read_text().splitlines()) == 2


def test_a_second_call_adds_to_the_first_and_replaces_what_it_runs_again(tmp_path):
    first = first_card.Record(tmp_path, tmp_path, "# H200")
    for line in LINES:
        first.add(line | {"at_s": 1.0})
    with (tmp_path / "card.jsonl").open("a") as file:
        file.write('{"stage": "a cut')
    second = first_card.Record(tmp_path, tmp_path, "# H200", {"ours 1.7B"})
    second.add(
        speed(
            "ours 1.7B",
            50_500,
            settings={},
            predicted={"tokens_per_s_range": [42_000, 53_000], "train_gib": 34.6},
            at_s=1.0,
        )
    )
    found = {goal.what: goal.measured for goal in summary.goals(second.lines)}
    assert found["1.7B in bf16, tokens/s"] == 50_500
    assert found["times the tutorial's loop a GPU-hour, at our step"] == pytest.approx(50.5 / 14)
    assert "38,000" in second.write_page()
    third = first_card.Record(tmp_path, tmp_path, "# H200", {"probe"})
    assert [line["tokens_per_s"] for line in third.lines if line["stage"] == "ours 1.7B" and "mfu" in line][
        -1
    ] == 50_500


def test_kernels_are_counted_by_their_kind_of_work():
    made = [
        kernels.Kernel("nvjet_tst_256x128_64x4_1x2_h_bz_coopA_NNT", 4, 400.0),
        kernels.Kernel("void pytorch_flash::flash_fwd_kernel<pytorch_flash::Flash_fwd_kernel_traits<128>>", 2, 80.0),
        kernels.Kernel("triton_poi_fused__to_copy_mul_silu_7", 2, 30.0),
        kernels.Kernel("Memcpy DtoD (Device -> Device)", 1, 5.0),
        kernels.Kernel("void at::native::vectorized_elementwise_kernel<4>", 1, 1.0),
    ]
    assert kernels.by_kind(made) == {
        "products": 400.0,
        "attention": 80.0,
        "compiled": 30.0,
        "copies": 5.0,
        "other": 1.0,
    }
    first = kernels.table(made, 100).splitlines()[1].split()
    assert first == ["400.0", "100.00", "4.0000", "4", made[0].name]


def test_the_tests_own_report_is_counted(tmp_path):
    test = tmp_path / "test_it.py"
    test.write_text(
        "import pytest\ndef test_good(): pass\ndef test_bad(): assert 1 == 2\n"
        "@pytest.fixture\ndef broken(): raise OSError('gone')\ndef test_error(broken): pass\n"
        "def test_left(): pytest.skip('no card')\n"
    )
    (tmp_path / "pytest.ini").touch()  # so that no other settings are found above it
    report = tmp_path / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml", str(report), str(test)]
    alone = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # plugins take seconds
    subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, check=False)
    found = gpu_tests.counts(report)
    assert found["passed"] == 1
    assert [*found["failed"]] == ["test_bad", "test_error"]
    assert "gone" in found["failed"]["test_error"]
    assert sum(found["skipped"].values()) == 1
    assert gpu_tests.counts(tmp_path / "none.xml") == {"absent": "pytest wrote no report"}


def start(tmp_path, *options, seconds):
    command = [sys.executable, str(BENCHMARKS / "first_card.py"), "--tiny", "--seconds", str(seconds), *options]
    folders = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    done = subprocess.run([*command, *folders], env=suite.environment(), capture_output=True, text=True, check=False)
    file = tmp_path / "out" / "card.jsonl"
    return done, [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_group_that_is_unknown_is_refused(tmp_path):
    done, lines = start(tmp_path, "--stages", "speed", seconds=60)
    assert done.returncode == 1
    assert done.stderr.startswith("--stages: speed is unknown; known are about, tests, ours, probe, ")
    assert lines == []


@pytest.mark.slow
def test_everything_runs_end_to_end_on_the_cpu(tmp_path):
    done, lines = start(
        tmp_path, "--stages", *stages.groups(stages.all_stages(Places(tmp_path, tmp_path, True))), seconds=3000
    )
    ended = {line["stage"]: line["ended"] for line in lines if "ended" in line}
    assert {*ended} == {stage.name for stage in stages.all_stages(Places(tmp_path, tmp_path, True))}
    assert all(text == "ok" or text.startswith("missing: ") for text in ended.values()), (
        done.stdout + done.stderr[-4000:]
    )
    assert done.returncode == any(text != "ok" for text in ended.values())
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"card.jsonl", "card.md", "tests.xml", "tests.log", "kernels.txt", "trace.json.gz"} <= files
    assert len(files) <= 8
    by_item = {
        item: [line for line in lines if line.get("item") == item] for item in ("training", "contender", "resume")
    }
    fp8 = [line["absent"] for line in by_item["training"] if line["stage"] == "ours 1.7B, fp8"]
    refused = "expert.precision: is {}, which needs an NVIDIA card"
    assert [text.partition(" of compute")[0] for text in fp8] == [refused.format(name) for name in ("fp8", "fp8-row")]
    assert sum("tokens_per_s" in line for line in by_item["training"]) >= 9
    assert by_item["resume"][0]["differ"] == 0
    assert by_item["resume"][0]["tensors"] > 20
    # What computes the same has the same losses.
    ours = dict(map(tuple, next(line for line in by_item["training"] if line["stage"] == "ours 1.7B")["losses"]))
    for line in by_item["contender"]:
        if line["stage"] == "Trainer, tuned":
            assert dict(map(tuple, line["losses"])) == pytest.approx(ours, rel=1e-4)
    probe = [line for line in lines if line["stage"] == "probe" and "found" in line]
    assert len(probe) == 9
    assert not [line for line in probe if "failed" in line["found"]]
    assert "No table" not in (tmp_path / "out" / "card.md").read_text()


@pytest.mark.slow
def test_a_command_whose_time_is_up_ends_and_says_what_is_missing(tmp_path):
    started = time.monotonic()
    done, lines = start(tmp_path, seconds=20)
    assert time.monotonic() - started < 35
    assert done.returncode == 1
    ended = [line["ended"] for line in lines if "ended" in line]
    assert "not run: out of time" in ended
    assert "not measured" in (tmp_path / "out" / "card.md").read_text()
