"""Rounding of our own model: to the bit where a format defines it, and coarser forms move the model further."""

import numpy as np
import pytest
import torch
from support.exported_runs import FORMS, export_run, reference_of

from thinktune.export.rounding import is_exact, quantized_bits, round_activations, round_weights


def test_the_bits_of_a_form():
    assert [quantized_bits(form) for form in ("f32", "f16", "bf16", "q8_0", "q4_k_m", "iq3_xs", "fp8")] == [
        None, None, None, 8, 4, 3, 8,
    ]  # fmt: skip
    assert is_exact("f32")
    assert not is_exact("f16")
    with pytest.raises(ValueError, match="int5"):
        quantized_bits("int5")


def test_floats_round_as_their_formats():
    values = torch.randn(7, 45)
    assert round_weights(values, "bf16").equal(values.bfloat16().float())
    assert round_weights(values, "f16").equal(values.half().float())
    assert round_weights(values, "bf16").dtype == torch.float32
    moved = (round_weights(values, "f32") - values).abs() / values.abs()
    assert 0 < moved.max() < 2e-6


def test_blocks_round_to_half_a_step_at_most_and_keep_any_width():
    values = torch.randn(3, 45)
    for form, steps in (("q8_0", 127), ("q4_k_m", 15)):
        found = round_weights(values, form)
        assert found.shape == values.shape
        spread = values.abs().amax() if form == "q8_0" else values.amax() - values.amin()
        scale = steps / 2**11 if form == "q8_0" else 0.0  # which is stored in fp16, so that the largest move with it
        assert (found - values).abs().max() <= spread / steps * (0.5 + scale) + 1e-6
    assert round_weights(torch.zeros(2, 32), "q8_0").equal(torch.zeros(2, 32))
    assert round_weights(torch.zeros(2, 32), "fp8").equal(torch.zeros(2, 32))
    # Inputs of a product have 8 bits, however few a weight has.
    assert round_activations(values, "q4_k_m").equal(round_weights(values, "q8_0"))


def test_q8_0_is_what_gguf_writes():
    gguf = pytest.importorskip("gguf")
    values = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    kind = gguf.GGMLQuantizationType.Q8_0
    theirs = gguf.dequantize(gguf.quantize(values, kind), kind)
    ours = round_weights(torch.from_numpy(values), "q8_0").numpy()
    assert np.abs(ours - theirs).max() < 1e-6


def test_a_coarser_form_moves_the_model_further(tmp_path_factory):
    found = reference_of(export_run(tmp_path_factory), *FORMS).rounding_kl
    assert 0 <= found["f32"] < found["bf16"] < found["q8_0"] < found["q4_k_m"] < 0.1
