"""8-bit arithmetic: refused where it cannot run, near bf16 where it can, and nothing of it in a checkpoint."""

import copy
import math
import re

import pytest
import torch
from support.runs import quiet, settings

from thinktune.config.schema import TrainConfig
from thinktune.demo.tiny_model import ModelShape, make_model
from thinktune.distributed.world import World
from thinktune.errors import UserError
from thinktune.model.batch import pack
from thinktune.model.device import pick_precision
from thinktune.model.forward import evaluate_loss
from thinktune.model.transforms import apply_float8, float8_problem
from thinktune.optim.optimizer import Optimizer
from thinktune.train.loop import train
from thinktune.train.step import step

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("device", "capability", "installed", "problem"),
    [
        ("cuda", (8, 0), True, r"8\.9 or more .*this is cuda of compute capability 8\.0; use bf16"),
        ("cuda", (9, 0), False, r"pip install 'thinktune\[fp8\]'"),
        ("npu", None, True, "this is npu; use bf16"),
        ("cpu", None, True, "this is cpu; use bf16"),
    ],
)
def test_what_cannot_run_says_why_and_what_to_do(device, capability, installed, problem):
    assert re.search(problem, float8_problem(device, capability, installed))


@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (10, 0)])
def test_cards_that_have_it_are_taken(capability):
    assert float8_problem("cuda", capability, installed=True) is None


def test_a_run_on_a_machine_without_it_is_refused_before_anything_is_written(tree):
    recipe = settings(tree, train={"precision": "fp8"})
    with pytest.raises(UserError, match=r"expert\.precision: is fp8, which needs an NVIDIA card"):
        train(recipe, quiet)
    assert not recipe.run_folder.exists()


def test_all_but_the_layers_products_is_bf16():
    assert pick_precision("fp8", torch.device("cuda"), "exact") == torch.bfloat16


def test_learning_in_8_bits_stays_near_bf16_and_keeps_every_name(tokenizer, rows):
    pytest.importorskip("torchao")
    torch.manual_seed(0)
    plain = make_model(tokenizer, ModelShape()).to(torch.bfloat16)
    plain.set_attn_implementation("thinktune_rows")
    model = copy.deepcopy(plain)
    apply_float8(model, emulate=True)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert type(model.lm_head) is torch.nn.Linear
    losses = []
    for each in (plain, model):
        update = Optimizer(each, TrainConfig(rows_per_step=1, memory="exact"))
        for number in range(1, 6):
            update.begin_step(number, 1e-2)
            made = step(each, pack(rows, 512), update, World(), torch.bfloat16)
            assert made.gradient_norm.isfinite()
        losses.append(evaluate_loss(each, pack(rows, 512), CPU, torch.bfloat16).mean_losses()["loss"])
    assert losses[0] != losses[1]  # or nothing was rounded
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] < 0.9 * math.log(400)
