"""8-bit arithmetic: refused where it cannot run, near bf16 where it can, and nothing of it in a checkpoint."""

import copy
import math
import re

import pytest
import torch
from support.runs import quiet, settings
from torch import nn

from thinktune.config.schema import TrainConfig
from thinktune.demo.tiny_model import ModelShape, make_model
from thinktune.distributed.world import World
from thinktune.errors import UserError
from thinktune.model.batch import pack
from thinktune.model.decoder import decoder_layers
from thinktune.model.device import pick_precision
from thinktune.model.forward import compute_loss, evaluate_loss
from thinktune.model.low_precision.float8 import (
    GRADIENT,
    Float8Linear,
    apply_float8,
    cast_weights,
    encode,
    float8_problem,
    float8_shapes,
    multiply,
)
from thinktune.model.transforms import compile_layers
from thinktune.optim.optimizer import Optimizer
from thinktune.train.loop import train
from thinktune.train.step import dry_train_step, step

CPU = torch.device("cpu")
SCALINGS = pytest.mark.parametrize("scaling", ["tensor", "row"])


@pytest.mark.parametrize(
    ("device", "capability", "problem"),
    [
        ("cuda", (8, 0), r"8\.9 or more .*this is cuda of compute capability 8\.0; use bf16"),
        ("npu", None, "this is npu; use bf16"),
        ("cpu", None, "this is cpu; use bf16"),
    ],
)
def test_what_cannot_run_says_why_and_what_to_do(device, capability, problem):
    assert re.search(problem, float8_problem(device, capability))


@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (10, 0)])
def test_cards_that_have_it_are_taken(capability):
    assert float8_problem("cuda", capability) is None


@pytest.mark.parametrize("precision", ["fp8", "fp8-row"])
def test_a_run_on_a_machine_without_it_is_refused_before_anything_is_written(tree, precision):
    recipe = settings(tree, train={"precision": precision})
    with pytest.raises(UserError, match=rf"expert\.precision: is {precision}, which needs an NVIDIA card"):
        train(recipe, quiet)
    assert not recipe.run_folder.exists()


def test_all_but_the_layers_products_is_bf16():
    assert pick_precision("fp8", torch.device("cuda"), "exact") == torch.bfloat16


@SCALINGS
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, GRADIENT])
def test_codes_are_within_half_a_step_of_what_they_stand_for(scaling, dtype):
    matrix = torch.randn(48, 64, generator=torch.Generator().manual_seed(1)) * torch.logspace(-3, 3, 48)[:, None]
    coded = encode(matrix, scaling, dtype)
    assert coded.scale.shape == ((48, 1) if scaling == "row" else ())
    assert coded.scale.dtype == torch.float32
    found, shared = coded.values.float() * coded.scale, matrix.abs()
    shared = shared.amax(1, keepdim=True) if scaling == "row" else shared.amax()
    step_of = torch.finfo(dtype).eps / 2 * matrix.abs()
    least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps / torch.finfo(dtype).max * shared
    assert ((found - matrix).abs() <= 1.001 * torch.maximum(step_of, least)).all()
    assert found.abs().amax().item() == pytest.approx(matrix.abs().amax().item(), rel=1e-6)


@SCALINGS
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_stays_so(scaling, bad):
    matrix = torch.ones(16, 32)
    matrix[3, 5] = bad
    product = multiply(encode(matrix, scaling), encode(torch.ones(16, 32), scaling), torch.float32)
    assert not product[3].isfinite().any()
    assert product[0].isfinite().all() == (scaling == "row")


def test_zeros_are_zeros():
    for scaling in ("tensor", "row"):
        assert not (multiply(*[encode(torch.zeros(16, 16), scaling)] * 2, torch.bfloat16)).any()


@pytest.mark.parametrize(("dtype", "shape"), [(torch.float8_e4m3fn, (33, 64)), (GRADIENT, (32, 48))])
def test_emulation_is_torchs_own_product(dtype, shape):
    left, right = encode(torch.randn(shape), "tensor", dtype), encode(torch.randn(80, shape[1]), "tensor")
    own = torch._scaled_mm(left.values, right.values.T, left.scale, right.scale, out_dtype=torch.bfloat16)
    assert torch.allclose(multiply(left, right, torch.bfloat16).float(), own.float(), rtol=0.01, atol=1e-3)


@SCALINGS
@pytest.mark.parametrize("bias", [False, True])
def test_gradients_are_products_of_the_codes(scaling, bias):
    torch.manual_seed(2)
    model = nn.Linear(64, 48, bias=bias).to(torch.bfloat16)
    linear = as_float8(model, scaling)
    states = torch.randn(2, 16, 64).to(torch.bfloat16).requires_grad_()
    output = linear(states)
    gradient = torch.randn(2, 16, 48).to(torch.bfloat16)
    output.backward(gradient)

    def decode(matrix, dtype=torch.float8_e4m3fn):
        coded = encode(matrix.detach(), scaling, dtype)
        return coded.values.double() * coded.scale.double()

    rows, of_output = states.flatten(0, 1), gradient.flatten(0, 1)
    forward = decode(rows) @ decode(linear.weight).T + (linear.bias.double() if bias else 0)
    kind = GRADIENT if scaling == "tensor" else torch.float8_e4m3fn
    of_states = decode(of_output, kind) @ decode(linear.weight.T.contiguous()).T
    if scaling == "tensor":
        of_weight = decode(of_output, kind).T @ decode(rows)
    else:
        of_weight = of_output.double().T @ rows.double()
    for found, expected in ((output, forward), (states.grad, of_states), (linear.weight.grad, of_weight)):
        assert found.dtype == torch.bfloat16
        assert torch.allclose(found.flatten(0, -2).double(), expected, rtol=0.01, atol=0.02)
    if bias:
        assert torch.allclose(linear.bias.grad.double(), of_output.double().sum(0), rtol=0.02, atol=0.05)


def as_float8(linear, scaling):
    linear.__class__ = Float8Linear
    linear.scaling, linear.held, linear.holds = scaling, None, False
    return linear


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    made = make_model(tokenizer, ModelShape()).to(torch.bfloat16)
    made.set_attn_implementation("thinktune_rows")
    return made


def test_keys_values_head_and_embedding_are_left_alone(model):
    names = list(model.state_dict())
    fitting = 5 * len(decoder_layers(model))  # queries, attention's output, gate, up, down
    shapes = float8_shapes(model)
    assert apply_float8(model) == fitting
    assert float8_shapes(model) == shapes
    cast = {name for name, module in model.named_modules() if type(module) is Float8Linear}
    assert {name.rpartition(".")[2] for name in cast} == {"q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert type(model.lm_head) is nn.Linear
    assert list(model.state_dict()) == names
    assert shapes == [module.weight.shape for module in model.modules() if type(module) is Float8Linear]


def test_matrices_with_sides_that_no_card_takes_are_left_alone(tokenizer):
    assert not apply_float8(make_model(tokenizer, ModelShape(hidden_size=72, intermediate_size=200)))


def trained(model, rows, *, batches=1, steps=5, **options):
    each = copy.deepcopy(model)
    if options:
        apply_float8(each, options["scaling"], hold=options.get("hold", False))
    if backend := options.get("backend"):
        compile_layers(each, backend)
    update = Optimizer(each, TrainConfig(rows_per_step=1, memory="exact"))
    for number in range(1, steps + 1):
        update.begin_step(number, 1e-2)
        made = step(each, [pack(rows, 512)[0]] * batches, update, World(), torch.bfloat16)
        assert made.gradient_norm.isfinite()
    return each


@SCALINGS
def test_learning_in_8_bits_stays_near_bf16(model, rows, scaling):
    losses = [
        evaluate_loss(each, pack(rows, 512), CPU, torch.bfloat16).mean_losses()["loss"]
        for each in (trained(model, rows), trained(model, rows, scaling=scaling))
    ]
    assert losses[0] != losses[1]  # or nothing was rounded
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] < 0.9 * math.log(400)


@SCALINGS
def test_weights_that_are_cast_once_a_step_give_the_same_bits(model, rows, scaling):
    """Two batches a step, in which nothing else is cast anew: held casts that were a step old would show."""
    each, held = (trained(model, rows, batches=2, scaling=scaling, hold=hold) for hold in (False, True))
    of_weights = [module.held for module in held.modules() if type(module) is Float8Linear]
    assert all(of_weights)
    for name, value in held.state_dict().items():
        assert value.equal(each.state_dict()[name]), name


@pytest.mark.parametrize(("scaling", "hold"), [("tensor", True), ("row", False)])
def test_layers_compile_to_one_graph(model, rows, scaling, hold):
    from torch._dynamo.testing import CompileCounterWithBackend

    counted = CompileCounterWithBackend("aot_eager")
    trained(model, rows, batches=2, scaling=scaling, hold=hold, backend=counted)
    assert counted.frame_count == 2  # layers and last norm, whatever the step
    apply_float8(model, scaling, hold=hold)
    made = copy.deepcopy(model)
    compile_layers(made, counted)
    gradients = []
    for each in (model, made):
        cast_weights(each)
        compute_loss(each.train(), pack(rows, 512)[0], 0.01, torch.bfloat16, None)[0].backward()
        gradients.append([weight.grad.float() for weight in each.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.linalg.vector_norm(one - other) < 0.05 * torch.linalg.vector_norm(one)


def test_evaluation_is_that_of_the_weights_alone(model, rows):
    plain = evaluate_loss(model, pack(rows, 512), CPU, torch.bfloat16).sums
    apply_float8(model, hold=True)
    cast_weights(model)
    assert evaluate_loss(model, pack(rows, 512), CPU, torch.bfloat16).sums.equal(plain)


def test_a_dry_step_changes_no_weight(model, rows):
    apply_float8(model, hold=True)
    before = copy.deepcopy(model.state_dict())
    update = Optimizer(model, TrainConfig(rows_per_step=1, memory="exact"))
    dry_train_step(model, pack(rows, 512), update, torch.bfloat16)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
