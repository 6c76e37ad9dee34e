"""Runs in every memory tier: they learn, and end in the base's dtype. That they resume is tested in faults/."""

import pytest
import torch
from safetensors.torch import load_file
from support.runs import quiet, settings, write_rows
from support.tiny_models import tiny_config
from transformers import AutoModelForCausalLM

from thinktune.checkpoint import store
from thinktune.commands.check import check_recipe
from thinktune.data.pipeline import prepare
from thinktune.errors import UserError
from thinktune.files import read_json
from thinktune.model import forward
from thinktune.optim.memory_tiers import TIERS
from thinktune.run import journal
from thinktune.train import train


# The others take the same path with another format, which tests/optim holds apart.
@pytest.mark.parametrize(
    "memory",
    [pytest.param(tier, marks=[] if tier in {"exact", "8bit-streamed"} else pytest.mark.slow) for tier in TIERS],
)
def test_every_tier_learns_and_ends_in_the_dtype_of_its_base(tree, memory):
    changes = {"rows_per_step": 8, "epochs": 30, "learning_rate": 5e-3, "evaluate_every_steps": 30, "memory": memory}
    folder = train(settings(tree, data={"validation": 0.0}, train=changes), quiet)
    losses = [record["loss"] for record in journal.read_metrics(folder) if record["kind"] == "train"]
    assert losses[-1] < 2.5 < 4.5 < losses[0]
    kept = load_file(store.find_checkpoint(folder, "last").folder / "model.safetensors")
    final = load_file(folder / "final" / "model.safetensors")
    assert {tensor.dtype for tensor in final.values()} == {torch.float32}  # that of the small base
    assert {tensor.dtype for tensor in kept.values()} == {TIERS[memory].load_dtype}
    assert all(final[name].equal(kept[name].float()) for name in final)
    facts = read_json(folder / "environment.json")
    assert (facts["memory"], facts["precision"]) == (memory, "float32" if memory == "fp32" else "bfloat16")
    below_bf16 = any(not tensor.equal(tensor.bfloat16().float()) for tensor in final.values())
    assert below_bf16 == (
        TIERS[memory].remainder or TIERS[memory].weights == torch.float32
    )  # the master weights, not the bf16 ones of the forward pass


def test_steps_of_several_batches_keep_their_gradients(tree):
    changes = {"update_in_backward": True, "batch_tokens": 200, "rows_per_step": 6}
    with pytest.raises(UserError, match=r"needs several batches of 200.*set expert.batch_tokens: \d+"):
        train(settings(tree, train=changes), quiet)


def test_an_update_inside_counts_the_padding_of_rows_that_run_apart(tree, tokenizer, tmp_path):
    """One batch of padded rows needs more tokens than the rows have; `check` and `train` say so alike."""
    config = tiny_config("qwen3_5_text")
    config.vocab_size = len(tokenizer)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path / "hybrid")
    tokenizer.save_pretrained(tmp_path / "hybrid")
    facts = {"heart": "blood, " * 8, "lung": "air", "eye": "light", "ear": "sound"}
    rows = write_rows(tmp_path / "uneven.jsonl", facts)
    changes = {"model": {"name": str(tmp_path / "hybrid")}, "data": {"name": str(rows), "validation": 0.0}}
    inside = {"update_in_backward": True, "rows_per_step": 4, "epochs": 1}
    longest, total = (
        pick(prepare(settings(tree, **changes), tokenizer, quiet).train.lengths.tolist()) for pick in (max, sum)
    )
    assert total < 4 * longest
    tight = settings(tree, **changes, train=inside | {"batch_tokens": total})
    for verb in (check_recipe, train):
        with pytest.raises(UserError, match=rf"padded to the longest.*set expert.batch_tokens: {4 * longest}"):
            verb(tight, quiet)
    enough = settings(tree, **changes, train=inside | {"batch_tokens": 4 * longest})
    assert check_recipe(enough, quiet)[1]["verdict"] == "ready"
    assert (train(enough, quiet) / "final").is_dir()


def test_fp32_arithmetic_over_bf16_weights_is_refused(tree):
    with pytest.raises(UserError, match=r"train.memory is 8bit.*leave one of them out"):
        settings(tree, train={"memory": "8bit", "precision": "fp32"})


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_bad_loss_or_gradient_is_reported_with_the_effect_on_the_step(tree, monkeypatch, what, inside):
    """Weights far away give no finite loss; a square root at zero gives a finite loss and no finite gradient."""
    said = []
    changes = {"warmup_fraction": 0, "update_in_backward": inside, "memory": "exact", "epochs": 20}
    if what == "loss":
        changes["learning_rate"] = 1e38
    else:
        real = forward.linear_cross_entropy

        def rooted(hidden, *given, **options):
            scaled, each = real(hidden, *given, **options)
            return scaled + (0 * hidden).sum().abs().sqrt(), each

        monkeypatch.setattr(forward, "linear_cross_entropy", rooted)
    with pytest.raises(UserError, match="no gradient of the last"):
        train(settings(tree, train=changes), said.append)
    reports = [line for line in said if " not finite" in line]
    assert len(reports) >= 10
    assert all(f": {what} not finite" in line for line in reports)
    assert all(("left as they were" in line) == inside and "rows.jsonl:" in line for line in reports)
