"""Predicted memory: compared with a whole traced step, with the optimizer's real tensors, and with itself."""

import pytest
import torch
from support.planned_models import KINDS, planned_config
from support.traced_step import whole_pass, whole_step
from transformers import AttentionInterface, Qwen3Config

from thinktune.config.schema import TrainConfig
from thinktune.model.loading import load_model
from thinktune.model.loss import CROSS_ENTROPY, LogitChunks, LogitTransform, Objective, linear_cross_entropy
from thinktune.optim.memory_tiers import TIERS
from thinktune.optim.optimizer import Optimizer
from thinktune.planner import trace
from thinktune.planner.layer_calls import META, fake_mode
from thinktune.planner.memory import Setting, Workload, memory_peaks, parameter_groups

BF16 = torch.bfloat16


def shape(*, tied=True, depth=2, **changes):
    sizes = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
    return Qwen3Config(
        **{**sizes, "num_hidden_layers": depth, "intermediate_size": 384, "vocab_size": 4000, **changes},
        tie_word_embeddings=tied,
    )


def workload(config, tokens, *, step_tokens=None):
    return Workload(config, META, False, False, step_tokens or tokens, tokens, 0.9, [1199])


@pytest.mark.parametrize(
    ("memory", "in_backward", "budget", "tokens", "tied"),
    [
        ("8bit", True, 1.0, 2048, True),
        ("8bit-streamed", True, 0.0, 8192, True),
        pytest.param("exact", False, 1.0, 8192, False, marks=pytest.mark.slow),
        pytest.param("exact-bf16", False, 0.0, 512, True, marks=pytest.mark.slow),
    ],
)
def test_the_prediction_is_that_of_a_whole_step(memory, in_backward, budget, tokens, tied):
    """Compare all live storages of a real step with the sum of one layer, the root and exact bytes."""
    config = shape(tied=tied, depth=2)
    settings = TrainConfig(rows_per_step=1, memory=memory, update_in_backward=in_backward)
    label_tokens = round(tokens * 0.9)
    before, peak, host = whole_step(config, settings, BF16, tokens, label_tokens, recompute=budget == 0)
    found = memory_peaks(workload(config, tokens), Setting(memory, in_backward, budget, tokens))
    assert found.train == pytest.approx(peak, rel=0.05)
    assert (found.host > 0) == (host > 0) == (memory == "8bit-streamed")
    assert found.host >= host
    assert before < peak


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_fp32_weights_in_bf16_arithmetic_count_autocasts_copies(recompute):
    """Autocast keeps bf16 copies of the weights; compared with a whole step like the others."""
    config, cpu, tokens = shape(depth=3), torch.device("cpu"), 1024
    settings = TrainConfig(rows_per_step=1, memory="fp32", update_in_backward=True)
    _, peak, _ = whole_step(config, settings, BF16, tokens, 922, recompute=recompute, device=cpu)
    made = Workload(config, cpu, False, False, tokens, tokens, 0.9, [1199])
    setting = Setting("fp32", True, 0.0 if recompute else 1.0, tokens)
    found = memory_peaks(made, setting)
    assert found.train == pytest.approx(peak, rel=0.05)
    weights = sum(torch.Size(size).numel() for size in trace.parameter_shapes(config) if size[0] != 4000)
    plain = memory_peaks(Workload(config, cpu, True, False, tokens, tokens, 0.9, [1199]), setting)
    assert found.evaluate - plain.evaluate > weights, "two bytes a weight, less what bf16 activations save"


def test_fp32_weights_are_planned_for_a_card_whose_loss_is_one_kernel():
    """Autocast is traced on the CPU, without memory, where the kernel that the card will launch cannot run."""
    made = Workload(shape(), META, False, True, 2048, 2048, 0.9, [1199])
    assert made.fused_loss
    plain, fp32 = (memory_peaks(made, Setting(memory, False, 1.0, 2048)) for memory in ("exact", "fp32"))
    assert fp32.train > plain.train


def test_resident_bytes_are_exact(start):
    """Compare with the tensors of an optimizer of a real model, in every tier."""
    for memory, tier in TIERS.items():
        model = load_model(start, torch.device("cpu"), tier.load_dtype)
        optimizer = Optimizer(model, TrainConfig(rows_per_step=1, memory=memory, update_in_backward=True))
        shapes = [tuple(weight.shape) for weight in model.parameters()]
        kept = [tensor for name, tensor in optimizer.state_dict().items() if "/" in name]
        device, host = tier.moments_bytes(shapes)
        found = sum(tensor.numel() * tensor.element_size() for tensor in kept)
        assert device + host == found if not tier.offloaded else device < found <= device + host
        remainders = [state.remainder for state in optimizer._states.values() if state.remainder is not None]
        weights = sum(tensor.numel() * tensor.element_size() for tensor in [*model.parameters(), *remainders])
        assert tier.weights_bytes(shapes) == weights
        assert trace.parameter_shapes(model.config) == shapes


def test_live_bytes_follow_allocation_and_release():
    with torch.device(META), fake_mode(), trace.LiveBytes(META) as live:
        first = torch.empty(1000)
        view = first[10:]
        again = first * 2
        assert live.current_bytes == live.peak_bytes == 8000
        del first
        assert live.current_bytes == 8000, "a view keeps its storage"
        del view, again
        assert (live.current_bytes, live.peak_bytes) == (0, 8000)
        host = torch.empty(10, device="cpu")
        assert (live.current_bytes, live.host_bytes) == (0, 40)
        del host
        assert live.host_bytes == 0


@pytest.mark.parametrize("cap", [None, 30.0])
@pytest.mark.parametrize("fused", [False, True])
def test_the_head_is_counted_by_the_rows_of_logits_that_the_loss_takes(fused, cap):
    """With more rows, the trace grows by as much as the loss itself, which is just those logits, and a cap's copy."""
    logits = LogitTransform(cap=cap)
    config, grown = shape(), []
    sizes = {"hidden": (2000, 128), "weight": (config.vocab_size, 128)}
    for rows in (700, 900):  # enough for the head to be the peak
        traced = trace.TracedModel(config, BF16, META).trace_root(trace.RootBatch(4096, 2000, rows, fused, logits))
        with torch.device(META), fake_mode(), trace.LiveBytes(META) as live:
            hidden, weight = (torch.empty(size, dtype=BF16, requires_grad=True) for size in sizes.values())
            targets, before = torch.empty(2000, dtype=torch.int64), live.current_bytes
            chunks = LogitChunks(rows, fused)
            linear_cross_entropy(hidden, weight, targets, scale=1.0, dtype=BF16, chunks=chunks, transform=logits)
            grown.append((traced.forward_peak, live.peak_bytes - before))
    growth = [many - few for few, many in zip(*grown, strict=True)]
    assert growth[0] == growth[1]
    a_row = config.vocab_size * (2 if fused else 6) + 2 * config.hidden_size  # fp32 with a bf16 copy; states' gradient
    assert growth[0] == 200 * a_row if cap is None else growth[0] > 200 * a_row


@pytest.mark.parametrize("fused", [False, True])
def test_an_objective_takes_no_memory_but_a_few_numbers_a_label(fused):
    labels, vocabulary, peaks = 2000, 8192, []
    for objective in (CROSS_ENTROPY, Objective(0.5, 1.0, by_probability=True)):
        with torch.device(META), fake_mode(), trace.LiveBytes(META) as live:
            hidden, weight = (torch.empty(size, 128, dtype=BF16, requires_grad=True) for size in (labels, vocabulary))
            targets, kinds = torch.empty(labels, dtype=torch.int64), torch.empty(labels, dtype=torch.int64)
            weights, chunks = objective.label_weights(kinds), LogitChunks(700, fused)
            loss, _ = linear_cross_entropy(
                hidden, weight, targets, scale=1.0, dtype=BF16, chunks=chunks, weights=weights
            )
            loss.backward()
            peaks.append(live.peak_bytes)
    assert 0 < peaks[1] - peaks[0] <= 16 * labels
    assert peaks[1] < 1.01 * peaks[0]


def test_a_layer_that_recomputes_keeps_its_input_alone_and_pays_in_the_backward_pass():
    plain, recomputed = (
        trace.TracedModel(shape(), BF16, META).trace_layers(recompute=recompute)[0] for recompute in (False, True)
    )
    assert recomputed.saved.per_token == 0 < plain.saved.per_token
    assert recomputed.backward.per_token > plain.backward.per_token
    assert plain.saved.fixed == 0


def test_more_tokens_layers_and_gradients_take_more():
    config, setting = shape(), Setting("8bit", True, 1.0, 4096)
    base = memory_peaks(workload(config, 4096), setting)
    assert base.train > memory_peaks(workload(config, 2048), Setting("8bit", True, 1.0, 2048)).train
    assert base.train > memory_peaks(workload(config, 4096), Setting("8bit", True, 0.0, 4096)).train
    deeper = shape(depth=4)
    assert memory_peaks(workload(deeper, 4096), setting).train > base.train
    after = Setting("8bit", False, 1.0, 4096)
    gradients = 2 * sum(torch.Size(size).numel() for size in trace.parameter_shapes(config))
    many = memory_peaks(workload(config, 4096, step_tokens=9000), after).train
    assert many == pytest.approx(base.train + gradients, rel=0.05)
    assert base.evaluate < base.train


def test_cached_layers_are_enough_for_a_plan(model, monkeypatch):
    """A fresh process reads layers from the cache, and still has to trace the root."""
    monkeypatch.setattr(AttentionInterface, "_global_mapping", {})
    assert trace.TracedModel(model.config, model.dtype, META).trace_root(trace.RootBatch(64, 32)).forward_peak > 0


QUICK = ("experts",)


@pytest.mark.parametrize("recompute", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_the_prediction_is_that_of_a_whole_step_for_every_kind_of_layer(kind, recompute):
    """A layer of each kind times its number, and the root, make up what all layers of the model take together."""
    config, tokens = planned_config(kind), 1024
    peak = whole_pass(config, tokens, round(tokens * 0.9), recompute=recompute)
    found = memory_peaks(workload(config, tokens), Setting("8bit", True, 0.0 if recompute else 1.0, tokens))
    assert 0.95 * peak < found.train < 1.1 * peak


@pytest.mark.parametrize("kind", KINDS)
def test_groups_of_parameters_are_all_of_a_models(kind):
    config = planned_config(kind)
    groups = parameter_groups(config)
    assert sorted([*groups.root, *(shape for layer in groups.layers for shape in layer)]) == sorted(
        trace.parameter_shapes(config)
    )
    assert len(groups.layers) == 4


def test_layers_are_of_a_kind_if_their_modules_and_switches_are():
    kinds = {kind: trace.TracedModel(planned_config(kind), BF16, META).kinds for kind in KINDS}
    assert kinds["plain"] == kinds["experts"] == (0, 0, 0, 0)
    assert kinds["windows"] == (0, 1, 0, 1)
    assert kinds["shared keys"] == (0, 1, 2, 3), "two that hand their keys on, and two that take them"
    assert kinds["latent attention, one dense layer"] == (0, 1, 1, 1)
    assert kinds["linear attention"] == (0, 0, 0, 3)
    assert kinds["convolutions"] == (0, 1, 0, 1)
