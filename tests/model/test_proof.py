"""The proof: which classes train with rows packed, which with one row an entry, and which are refused."""

import pytest
import torch
from support.tiny_models import KINDS, tiny_config, tiny_model
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.llama import modeling_llama

from thinktune.errors import UserError
from thinktune.model import pack, row_attention
from thinktune.model.forward import compute_loss, refuse_leaks
from thinktune.model.proof import ModelTraits, Refuted, model_traits, prove_class, prove_rows
from thinktune.tokenization import Rendered

QUICK = ("qwen3", "llama", "gemma2", "gpt_oss", "gemma3_text", "granite", "qwen3_5_text", "stablelm")
LENGTHS = (7, 12, 1, 16, 3)


def every_kind():
    names = [name for name, kind in KINDS.items() if kind.type in CONFIG_MAPPING]  # older releases lack some
    return [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow, id=name) for name in names]


def rows():
    generator = torch.Generator().manual_seed(3)
    made = []
    for index, length in enumerate(LENGTHS):
        ids = torch.randint(3, 150, (length,), generator=generator).int().numpy()
        kinds = torch.tensor([0] + [1 + place % 3 for place in range(length - 1)], dtype=torch.uint8).numpy()
        made.append(Rendered(ids, kinds, f"rows.jsonl:{index + 1}"))
    return made


def alone(model):
    """Return the loss of all rows and its gradients by the model's own forward pass, one row at a time."""
    total, labels = torch.zeros(()), sum(LENGTHS) - len(LENGTHS)
    for row in rows():
        if len(row) == 1:  # nothing to predict
            continue
        ids = torch.from_numpy(row.ids.astype("int64"))[None]
        logits = model(input_ids=ids, use_cache=False).logits[0]
        total = total + cross_entropy(logits[:-1], ids[0, 1:], reduction="sum") / labels
    total.backward()
    return total.item(), gradients(model)


def gradients(model):
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("name", every_kind())
def test_a_batch_gives_the_loss_and_the_gradients_of_its_rows_alone(name):
    model, kind = tiny_model(name), KINDS[name]
    loss, wanted = alone(model)
    model.set_attn_implementation("thinktune_rows")
    traits = model_traits(model)
    assert (traits.rows, traits.logits.scale, traits.logits.cap) == (kind.rows, kind.scale, kind.cap)
    [batch] = pack(rows(), 256, packed=traits.rows == "packed")
    scaled, _ = compute_loss(model, batch, 1 / batch.label_tokens, torch.float32, chunk_rows=7)
    scaled.backward()
    assert scaled.item() == pytest.approx(loss, abs=1e-5)
    found = gradients(model)
    for weight in wanted.keys() | found.keys():
        ours, theirs = (each.get(weight, torch.zeros(())) for each in (found, wanted))
        assert (ours - theirs).abs().max() < 1e-4 * max(1, theirs.abs().max()), weight


@pytest.mark.parametrize("name", every_kind())
def test_the_proof_of_a_kind_changes_nothing_and_is_the_same_for_its_real_sizes(name):
    config = tiny_config(name)
    written, state = config.to_dict(), torch.get_rng_state()
    traits = prove_class(AutoModelForCausalLM._model_mapping[type(config)], config)
    assert traits.rows == KINDS[name].rows
    assert config.to_dict() == written
    assert torch.equal(torch.get_rng_state(), state)


def test_the_proof_holds_inside_inference_mode_and_autocast():
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
        assert prove_class(LlamaForCausalLM, LlamaConfig(num_hidden_layers=7)) == ModelTraits()


class Leaking(LlamaForCausalLM):
    """Adds to each token what came before it in the sequence, whatever the rows: only one row an entry is right."""

    def __init__(self, config):
        super().__init__(config)
        plain = self.model.embed_tokens.forward
        self.model.embed_tokens.forward = lambda ids: plain(ids) + plain(ids).cumsum(1) * 0.1


class Peeking(LlamaForCausalLM):
    """Adds the mean of all the batch: no way of running rows together is right."""

    def __init__(self, config):
        super().__init__(config)
        plain = self.model.embed_tokens.forward
        self.model.embed_tokens.forward = lambda ids: plain(ids) + plain(ids).mean((0, 1))


class Biased(LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=True)


class Squared(LlamaForCausalLM):
    def forward(self, *arguments, **options):
        output = super().forward(*arguments, **options)
        output.logits = output.logits * output.logits
        return output


class Scaled(LlamaForCausalLM):
    def forward(self, *arguments, **options):
        output = super().forward(*arguments, **options)
        output.logits = 30 * torch.tanh(output.logits * 0.37 / 30)
        return output


def test_a_class_that_leaks_along_the_sequence_runs_with_one_row_an_entry():
    assert prove_class(Leaking, LlamaConfig()).rows == "apart"


def test_a_class_that_mixes_entries_is_refused_with_what_differs():
    with pytest.raises(
        Refuted, match=r"with rows packed, logits differ by .*; with one row an entry, logits differ by"
    ):
        prove_class(Peeking, LlamaConfig())


def test_a_head_that_is_not_known_is_refused():
    with pytest.raises(Refuted, match="whose head has a bias"):
        prove_class(Biased, LlamaConfig())
    with pytest.raises(Refuted, match="not scaled or capped products"):
        prove_class(Squared, LlamaConfig())


def test_a_scale_and_a_cap_that_no_configuration_names_are_measured():
    logits = prove_class(Scaled, LlamaConfig()).logits
    assert logits.scale == pytest.approx(0.37, rel=1e-4)
    assert logits.cap == pytest.approx(30, rel=1e-4)


def test_an_attention_option_that_is_not_known_is_refused(monkeypatch):
    plain = modeling_llama.LlamaAttention.forward

    def with_blocks(self, *arguments, **options):
        return plain(self, *arguments, **options, block_indices=torch.ones(1))

    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", with_blocks)
    with pytest.raises(Refuted, match="its attention needs block_indices, which is not supported"):
        prove_class(LlamaForCausalLM, LlamaConfig(num_hidden_layers=5))


def test_a_window_longer_than_any_row_of_the_proof_is_still_proved():
    config = tiny_config("mistral, window")
    config.sliding_window = 4096
    model = tiny_model("mistral, window")
    assert prove_class(type(model), config).rows == "packed"


def test_packed_rows_that_ignore_a_window_are_seen(monkeypatch):
    monkeypatch.setattr(row_attention, "seen_keys", lambda q, k, window, device: torch.ones(q, k).tril(k - q).bool())
    assert prove_rows(tiny_model("mistral, window")) == "apart", "masks of the class's own are still right"


def loaded(leaks):
    model = Qwen3ForCausalLM._from_config(
        Qwen3Config(vocab_size=160, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=2, head_dim=12),
        attn_implementation="thinktune_rows",
    )  # fmt: skip
    if leaks:
        plain = model.model.norm.forward
        model.model.norm.forward = lambda states: plain(states + states.roll(17, 1))
    return model


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_loaded_model_is_asked_whether_a_row_moves_another(precision):
    refuse_leaks(loaded(leaks=False), precision)
    with pytest.raises(UserError, match="a row changes by"):
        refuse_leaks(loaded(leaks=True), precision)


def test_a_loaded_model_that_gives_nan_is_left_to_the_first_evaluation_which_names_its_rows():
    model = loaded(leaks=False)
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    refuse_leaks(model, torch.float32)
