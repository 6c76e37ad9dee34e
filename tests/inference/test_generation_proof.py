"""Proof of generation: right classes pass it, and a class whose replies would be wrong is refused in words."""

import functools

import pytest
import torch
from support.generated_models import generated_model

from thinktune.inference import cached_attention
from thinktune.inference.generation_proof import prove_generation
from thinktune.inference.recurrent_states import RecurrentStates
from thinktune.inference.requests import GenerationError


@pytest.mark.parametrize("kind", ["qwen3", "gpt-oss", "gemma2", "lfm2"])
def test_a_class_whose_replies_are_right_passes(kind):
    prove_generation(generated_model(kind))


def refusal(model):
    with pytest.raises(GenerationError) as refused:
        prove_generation(model)
    [fault] = refused.value.faults
    assert fault.startswith(
        f"model.name: is of type {model.config.model_type}, whose replies cannot be proved correct ("
    )
    return fault


def test_a_window_that_is_not_kept_is_refused(monkeypatch):
    causal = cached_attention.Pass.mask
    monkeypatch.setattr(cached_attention.Pass, "mask", lambda present, may_see=None: causal(present))
    assert "its logits differ by" in refusal(generated_model("gemma3"))


def test_a_state_that_moves_to_another_row_is_refused(monkeypatch):
    monkeypatch.setattr(RecurrentStates, "free", lambda states, row: None)
    refusal(generated_model("qwen3.5"))


def test_a_class_that_takes_no_cache_is_refused():
    model = generated_model("llama")
    forward = model.forward
    model.forward = lambda input_ids, **_: forward(input_ids)
    assert "does not use the KV cache" in refusal(model)


def test_logits_that_depend_on_the_neighbours_are_refused():
    model = generated_model("llama")
    forward = model.forward

    @functools.wraps(forward)
    def leaking(*arguments, **options):
        output = forward(*arguments, **options)
        output.logits = output.logits + output.logits.mean(0) * (output.logits.shape[0] > 1)
        return output

    model.forward = leaking
    assert "with several replies in a pass" in refusal(model)


def test_an_error_of_the_class_itself_is_said():
    model = generated_model("llama")
    model.model.layers[1].self_attn.register_forward_hook(lambda *_: 1 / 0)
    assert "division by zero" in refusal(model)


def test_weights_that_give_no_number_are_refused():
    model = generated_model("llama")
    torch.nn.init.constant_(model.lm_head.weight, torch.nan)
    refusal(model)
