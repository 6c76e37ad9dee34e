"""The benchmark suites: the same work for all contenders, and faults that are reported."""

import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import common  # noqa: E402
import cpu_loops  # noqa: E402
import jobs  # noqa: E402
import ours  # noqa: E402
import small_cards  # noqa: E402
import suite  # noqa: E402
from card.turns import OUT_OF_MEMORY_CODE  # noqa: E402
from gpu import faults, table  # noqa: E402

from thinktune.planner.flops import flops_per_token  # noqa: E402


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    model = jobs.write_model(folder / "model", jobs.Shape(32, 64, 1, 2, 1, 16, 320), "cpu", torch.float32)
    plan = jobs.Plan(4, 1, 1e-3, "cpu", tokens_per_step=512, log_every=2)
    return jobs.read_job(jobs.write_job(folder / "job", model, plan, jobs.Lengths(60, 0.55, 128), 48))


def result(losses, tokens=600, seconds=2.0):
    return {
        "setting": "",
        "step_tokens": [200] * 4,
        "timed_tokens": tokens,
        "timed_steps": 3,
        "seconds": seconds,
        "warm_up_seconds": 5.0,
        "memory": {},
        "gradient_norms": [1.0],
        "losses": losses,
        "weights_moved": 1.0,
        "probe_loss": 2.0,
        "flops_per_token": 1e9,
    }


def line(name, losses, **options):
    contender = suite.Contender(name, "x.py", "x", same_steps=options.pop("same_steps", False))
    return suite.Line(contender, [result(losses, **options)])


def test_batches_hold_each_row_of_their_step_once_and_are_about_equal(job):
    halves = job.batches(256)
    assert job.batches_per_step(256) == 2
    for number, step in enumerate(job.steps):
        pair = halves[2 * number : 2 * number + 2]
        assert sorted(row for batch in pair for row in batch) == sorted(step)
        sizes = [sum(len(job.rows[row]) for row in batch) for batch in pair]
        assert max(sizes) - min(sizes) <= 128
    assert job.batches(None) == job.steps


def test_rows_beyond_the_steps_follow_them(job):
    taken = job.first_rows(48)
    assert [row.ids.tolist() for row in taken[: len(job.rows_in_order)]] == [r.ids.tolist() for r in job.rows_in_order]
    assert sum(map(len, taken)) == sum(map(len, job.rows))
    with pytest.raises(AssertionError, match="48 rows where 49"):
        job.first_rows(49)


def test_ours_takes_the_jobs_steps_and_is_measured(job):
    clock = common.Clock(job)
    trained = ours.train(job, common.Options("plan", settings={"batch_tokens": 256}), clock)
    assert len(trained.gradient_norms) == job.plan.steps
    assert [step for step, _ in trained.losses] == [1, 2, 4]
    measured = common._check_trained(job, clock, trained)
    assert measured.weights_moved > 0.99
    assert (measured.timed_steps, measured.timed_tokens) == (3, sum(job.step_tokens[1:]))
    assert min(measured.seconds, measured.cpu_seconds, measured.warm_up_seconds) > 0
    assert measured.probe_loss == pytest.approx(5.76, abs=0.05)  # of 320 tokens by Zipf's law, hardly learned yet


def test_ours_asks_for_no_room_for_checkpoints(job, monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    run = ours.open_job(job, common.Options("plan", settings={"batch_tokens": 256}), tmp_path)
    assert run.context.capacity == 256


def test_a_stage_whose_batch_does_not_fit_ends_with_a_code_of_its_own(capsys):
    wrapped = RuntimeError("while compiling")
    wrapped.__cause__ = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 70 GiB")
    with pytest.raises(SystemExit) as ended:
        common.exit_if_out_of_memory(wrapped)
    assert ended.value.code == OUT_OF_MEMORY_CODE
    assert "RuntimeError: CUDA out of memory. Tried to allocate 70 GiB" in capsys.readouterr().err
    common.exit_if_out_of_memory(ValueError("another"))


def test_a_small_card_is_left_what_the_driver_leaves_on_it():
    assert small_cards.allowed_fraction(8, 0.5, 140) * 140 == pytest.approx(7.5)


def test_a_contender_that_did_not_train_is_refused(job):
    clock = common.Clock(job)
    untrained = common.load_initial_model(job)
    with pytest.raises(AssertionError, match="gradient norms"):
        common._check_trained(job, clock, common.Trained(untrained, [1] * 4, [1.0, 0.0], [(1, 6.0)]))
    with pytest.raises(AssertionError, match="no weight moved"):
        common._check_trained(job, clock, common.Trained(untrained, [1] * 4, [1.0], [(1, 6.0)]))
    with pytest.raises(AssertionError, match="3 steps, not 4"):
        common._check_trained(job, clock, common.Trained(untrained, [1] * 3, [1.0], [(1, 6.0)]))


@pytest.mark.parametrize(("size", "gigaflops"), [("0.6B", 3.99), ("1.7B", 10.74), ("4B", 25.20), ("8B", 46.47)])
def test_shapes_are_those_of_qwen3(size, gigaflops):
    """Operations per token at a mean context of 590, counted independently of this code."""
    assert flops_per_token(jobs.QWEN3[size].config(), [1179]) / 1e9 == pytest.approx(gigaflops, rel=0.005)


def test_a_peer_that_is_not_installed_is_missing_and_nothing_is_run(tmp_path):
    contender = suite.Contender("x", str(tmp_path / "no.py"), "x", "no_such_package")
    assert suite.run(contender, [], suite.Budget(60)).absent == "missing: no_such_package is not installed here"


def test_a_batch_that_does_not_fit_is_halved(tmp_path):
    script = tmp_path / "contender.py"
    script.write_text(
        "import json, sys\n"
        "size = int(sys.argv[sys.argv.index('--batch-tokens') + 1])\n"
        "if size > 8192: raise SystemExit('torch.OutOfMemoryError: CUDA out of memory. Tried to allocate')\n"
        "print(json.dumps([size]))\n"
    )
    fits = suite.run(suite.Contender("x", str(script), "x", batch_tokens=32_768), [], suite.Budget(60))
    assert (fits.batch_tokens, fits.results) == (8192, [8192])
    script.write_text("raise SystemExit('torch.OutOfMemoryError: CUDA out of memory. Tried to allocate')")
    never = suite.run(suite.Contender("x", str(script), "x", batch_tokens=4096), [], suite.Budget(60))
    assert (never.results, never.absent) == ([], "does not fit: out of memory")
    script.write_text("raise ValueError('broken')")
    broken = suite.run(suite.Contender("x", str(script), "x", batch_tokens=4096), [], suite.Budget(60))
    assert broken.absent == "failed: ValueError: broken"
    assert faults([broken], 0.01) == ["x: failed: ValueError: broken"]


def test_no_process_starts_when_the_time_is_up(tmp_path):
    late = suite.run(suite.Contender("x", str(tmp_path / "no.py"), "x"), [], suite.Budget(0))
    assert late.absent == "not run: the command's time was up"


def test_losses_that_must_be_equal_and_are_not_are_a_fault():
    ours = line(suite.OURS, [(1, 6.0), (10, 5.0)])
    near = line("near", [(1, 6.0), (10, 5.02)], same_steps=True)
    far = line("far", [(1, 6.0), (10, 5.2)], same_steps=True)
    other = line("other steps", [(1, 1.0), (10, 1.0)])
    assert faults([ours, near, other], 0.01) == []
    assert faults([ours, near, far], 0.01) == ["far: a logged loss differs from ours by 4.0e-02, more than 1e-02"]
    with pytest.raises(AssertionError, match="logs other steps"):
        faults([ours, line("short", [(1, 6.0)], same_steps=True)], 0.01)


def test_the_table_names_absent_contenders_and_counts_tokens_without_padding():
    absent = suite.Line(suite.Contender("gone", "x.py", "x"), [], absent="missing: gone is not installed here")
    rows = table([line(suite.OURS, [(1, 6.0)]), line("slow", [(1, 6.0)], seconds=3.0), absent], "NVIDIA H200").split(
        "\n"
    )
    assert "| thinktune |  | its own | 300 | 1.00 |" in rows[2]
    assert "| slow |  | its own | 200 | 1.50 |" in rows[3]
    assert rows[4].startswith("| gone | missing: gone is not installed here |")
    assert len({row.count("|") for row in rows}) == 1


def test_the_page_draws_a_curve_of_every_contender_that_ran():
    page = suite.curves([line("one", [(1, 6.0), (4, 5.0)]), line("two & three", [(1, 6.0), (4, 5.0)])], "curves")
    assert page.count('class="line contender-0"') == 2  # its curve and its key
    assert "two &amp; three" in page
    assert suite._points(result([(1, 6.0), (4, 5.0)])) == [(0.1, 6.0), (0.5, 5.0)]


def cpu_round(work, overhead):
    """Return a round in which every contender costs the same except those named, and losses are equal."""

    def cost(seconds, steps):
        memory = {"above_start_mib": 1.0, "process_peak_mib": 1.0}
        return result([(1, 6.0)]) | {
            "cpu_seconds": seconds,
            "system_seconds": 0,
            "timed_steps": steps,
            "memory": memory,
        }

    return [
        suite.Line(each, [cost(work.get(each.name, 2.0), 10), cost(overhead.get(each.name, 2.0), 100)])
        for each in cpu_loops.CONTENDERS
    ]


def test_the_suite_for_the_cpu_demands_that_ours_costs_least():
    least = {suite.OURS: 1.0, f"{suite.OURS}, last": 1.0}
    assert cpu_loops.faults([cpu_round(least, least)], losses_only=False) == []
    near = least | {cpu_loops.TUTORIAL: 1.1}
    assert cpu_loops.faults([cpu_round(near, least)], losses_only=False) == [
        f"{cpu_loops.TUTORIAL}: 1.10 of our cost, not 1.2"
    ]
    quicker = least | {"TRL, packing": 0.9}
    assert cpu_loops.faults([cpu_round(least, quicker)], losses_only=False) == [
        "TRL, packing: 9.00 ms a step, ours 10.00"
    ]
    assert cpu_loops.faults([cpu_round(least, quicker)], losses_only=True) == []


def by_row(query, key, value, cu_seqlens):
    parts = [each.split(cu_seqlens.diff().tolist()) for each in (query, key, value)]
    rows = [
        scaled_dot_product_attention(*(part.transpose(0, 1) for part in row), is_causal=True, enable_gqa=True)
        for row in zip(*parts, strict=True)
    ]
    return torch.cat([row.transpose(0, 1) for row in rows])


def old_varlen(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
    """Take the arguments of torch 2.11, whose kernel looks at no heads."""
    assert window_size == (-1, 0)
    assert key.shape[1] < query.shape[1], "repeated for nothing"
    return by_row(query, key, value, cu_seq_q)


def new_varlen(q, k, v, cq, ck, mq, mk, *, scale=None, window_size=(-1, -1), enable_gqa=False, num_splits=None):
    """Take the arguments of torch 2.13."""
    assert window_size == (-1, 0)
    assert enable_gqa or q.shape == k.shape
    return by_row(q, k, v, cq)


@pytest.mark.parametrize("kernel", [old_varlen, new_varlen])
def test_the_stand_in_for_flash_attention_is_causal_attention_within_rows(monkeypatch, kernel):
    monkeypatch.syspath_prepend(str(suite.SHIM))
    import flash_attn
    from torch.nn.attention import varlen

    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    monkeypatch.setattr(flash_attn, "_PARAMETERS", inspect.signature(kernel).parameters)
    query, key, value = torch.randn(10, 4, 8), torch.randn(10, 2, 8), torch.randn(10, 2, 8)
    ends = torch.tensor([0, 3, 10], dtype=torch.int32)
    made = flash_attn.flash_attn_varlen_func(query, key, value, ends, ends, 7, 7, causal=True)
    torch.testing.assert_close(made, by_row(query, key, value, ends))
    rows = (each.unflatten(0, (2, 5)) for each in (query, key, value))
    whole = flash_attn.flash_attn_func(*rows, causal=True)
    torch.testing.assert_close(
        whole.flatten(0, 1), by_row(query, key, value, torch.tensor([0, 5, 10], dtype=torch.int32))
    )
    with pytest.raises(NotImplementedError, match="causal False"):
        flash_attn.flash_attn_varlen_func(query, key, value, ends, ends, 7, 7)


# A Qwen3 in bf16 under transformers' FlashAttention interface, on a machine that pretends to have a card, with a kernel
# of one SDPA call per row: packed rows give the same as each row alone under plain SDPA.
STAND_IN = """
import sys
import torch, transformers.utils.import_utils as utils
utils.is_torch_cuda_available = lambda: True
from torch.nn.attention import varlen
import flash_attn, jobs
from test_benchmarks import new_varlen
assert utils.is_flash_attn_2_available()
varlen.varlen_attn, flash_attn._PARAMETERS = new_varlen, {"enable_gqa"}
config = jobs.Shape(32, 64, 2, 4, 2, 16, 320).config()
torch.manual_seed(0)
from transformers import Qwen3ForCausalLM
plain = Qwen3ForCausalLM._from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
packed = Qwen3ForCausalLM._from_config(config, dtype=torch.bfloat16, attn_implementation="flash_attention_2")
packed.load_state_dict(plain.state_dict())
rows = [torch.randint(320, (1, length)) for length in (5, 9)]
alone = torch.cat([plain(row).logits for row in rows], 1)
positions = torch.cat([torch.arange(row.shape[1])[None] for row in rows], 1)
together = packed(torch.cat(rows, 1), position_ids=positions, use_cache=False).logits
torch.testing.assert_close(together, alone, rtol=2e-2, atol=2e-2)
ends = torch.tensor([0, 5, 14], dtype=torch.int32)
kwargs = dict(cu_seq_lens_q=ends, cu_seq_lens_k=ends, max_length_q=9, max_length_k=9)
torch.testing.assert_close(packed(torch.cat(rows, 1), position_ids=positions, use_cache=False, **kwargs).logits, together)
with torch.autocast("cpu", torch.bfloat16):
    master = packed.float()(torch.cat(rows, 1), position_ids=positions, use_cache=False, **kwargs).logits
torch.testing.assert_close(master.bfloat16(), alone, rtol=5e-2, atol=5e-2)
packed.bfloat16()
one_row = packed(torch.cat(rows, 1), use_cache=False).logits
assert (one_row[0, 5:] - alone[0, 5:]).abs().max() > 0.1, "rows that attend to their neighbour must differ"
print("equal")
"""


@pytest.mark.slow
def test_transformers_takes_the_stand_in_for_flash_attention():
    here = suite.environment()
    here["PYTHONPATH"] += f":{BENCHMARKS}:{Path(__file__).parent}:{Path(__file__).parents[1]}"
    done = subprocess.run([sys.executable, "-c", STAND_IN], env=here, capture_output=True, text=True)
    assert done.stdout.strip() == "equal", done.stderr[-2000:]


@pytest.mark.slow
def test_the_load_test_runs_with_every_kind_of_client():
    options = ["--streams", "4", "--seconds", "3", "--requests", "60", "--tokens", "16"]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "serve_load.py", *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert len(found["replies_by_kind"]) == 8
    assert found["replies"] >= 60
    assert (found["errors"], found["mixed_up"]) == (0, 0)
