"""Proof that a class can be trained: its rows, in one pass of ours, get what its own forward pass gives each alone."""

import copy
import inspect
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from transformers.integrations import hub_kernels

from thinktune.errors import UserError, shorten_error
from thinktune.hub.fingerprint import file_digest
from thinktune.model.batch import collate
from thinktune.model.decoder import decoder
from thinktune.model.device import pick_device
from thinktune.model.loss import PLAIN_LOGITS, LogitTransform, linear_cross_entropy
from thinktune.model.protocols import CausalLM
from thinktune.model.states import Rows, batch_states
from thinktune.model.twin import fill_weights, shrink
from thinktune.tokenization import Rendered, TokenKind
from thinktune.verdicts import Facts, recall, remember, verdict_file

TOLERANCE = 1e-4  # of logits, loss and gradients, in fp32; what is right differs by 1e-5 at most
SEEDS = (0, 1)  # of a twin's weights: a router's choice may hang on a rounding error once, a fault is there twice
ROW_LENGTHS = (9, 14, 2, 21)  # beyond the twin's window, chunk and convolution, and one row that is shorter
PROMPT_TOKENS = 1  # of each of those rows; the rest are labels
HEAD_VOCAB = 64  # of the head on which logits are measured
STATE_KERNELS = ("fla", "causal_conv1d", "mamba_ssm")  # packages of kernels for layers with a state
MEASURED_PRODUCTS = (1e-3, 1e3)  # least and largest magnitude: a cap bends what is larger than itself


@dataclass(frozen=True, slots=True)
class ModelTraits:
    """What a proof found: how rows share a pass, and what the class makes of its head's products."""

    rows: Rows = "packed"
    logits: LogitTransform = PLAIN_LOGITS

    @property
    def packed(self) -> bool:
        """Whether rows share a sequence; else each is an entry of a batch, padded to its longest."""
        return self.rows != "apart"

    @property
    def compiles(self) -> bool:
        """Whether batches have one shape and layers run torch's operators alone, which its compiler knows."""
        return self.rows == "packed"


class Refuted(UserError):  # noqa: N818 (what it is)
    """A class that no proof holds for; its sentence says what differs."""


def model_traits(model: CausalLM) -> ModelTraits:
    """Return a model's traits, proved once by its class and configuration."""
    found: ModelTraits | None = getattr(model, "thinktune_traits", None)
    if found is None:
        plain: Any = model
        found = plain.thinktune_traits = prove_class(plain_class(type(model)), model.config)
    return found


def prove_class(model_class: type[Any], config: Any) -> ModelTraits:
    """Prove a class on a shrunk twin in fp32 on the CPU; raises Refuted where no way of running rows is right.

    Needs no weights, changes neither `config` nor the state of a random generator, and is remembered by this process;
    one that holds for a class of transformers, on disk too. What the class itself raises for a configuration that does
    not work is passed on.
    """
    key = proof_key(model_class, config)
    if key not in _PROVED:
        file = proof_file("traits", model_class, key, PROOF_SOURCES)
        if found := _read_traits(recall(file)):
            _PROVED[key] = found
            return found
        with (
            unset_fake_temporarily(),  # a proof needs values, also within a trace
            torch.random.fork_rng(devices=[]),
            torch.inference_mode(mode=False),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
            torch.device("cpu"),
        ):
            found = _PROVED[key] = _prove_class(model_class, config)
        if found.rows == "packed":  # the others depend on which kernels are installed, and on the card
            remember(file, asdict(found))
    return _PROVED[key]


_PROVED: dict[str, ModelTraits] = {}
_COMPUTABLE: set[str] = set()
PROOF_SOURCES = ("model", "tokenization", "errors", "data.batch_shapes", "data.packing")  # our own source that proves


def _read_traits(facts: Facts | None) -> ModelTraits | None:
    return ModelTraits(facts["rows"], LogitTransform(**facts["logits"])) if facts else None


def plain_class(model_class: type[Any]) -> type[Any]:
    """Return the class that a model had before FSDP2 put its own in front of it."""
    return next(each for each in model_class.__mro__ if "FSDP" not in each.__name__)


def proof_key(model_class: type[Any], config: Any) -> str:
    """Return what a process remembers a proof by: the class and all that its configuration says of it."""
    ignored = ("_name_or_path", "dtype", "transformers_version")
    values = sorted((name, value) for name, value in config.to_dict().items() if name not in ignored)
    return f"{model_class.__module__}.{model_class.__qualname__} {values!r}"


def proof_file(kind: str, model_class: type[Any], key: str, sources: Sequence[str]) -> Path | None:
    """Return where a proof is remembered on disk, None for a class that is not transformers' own.

    `sources` are ours that prove. A folder's own code, or a class made in this process, may be another one under the
    same name the next time.
    """
    if not model_class.__module__.startswith("transformers.models."):
        return None
    file = inspect.getsourcefile(model_class)
    return verdict_file(kind, [key, file_digest(Path(file))], sources) if file else None


def _prove_class(model_class: type[Any], config: Any) -> ModelTraits:
    logits = measure_logits(build(model_class, shrink(config, sizes=False), "meta"))  # scales may follow from sizes
    refused: Refuted | None = None
    for seed in SEEDS:
        try:
            twin = build(model_class, shrink(config), "cpu")
        except Exception as error:  # whatever its class raises; it could be made at its own sizes
            raise Refuted(
                f"model.name: is of type {config.model_type}, which cannot be proved to train: no small model of "
                f"it can be built ({shorten_error(error)}); use another model"
            ) from error
        fill_weights(twin, seed)
        try:
            with torch_operators():
                rows = prove_rows(twin)
            return ModelTraits(_rows_by_kernels(twin) if rows == "apart" else rows, logits)
        except Refuted as error:
            refused = error
    assert refused
    raise refused


def build(model_class: type[Any], config: Any, device: str, dtype: torch.dtype = torch.float32) -> Any:
    """Build a model of a class with weights as it draws them, and transformers' plainest attention."""
    with torch.device(device):
        return model_class._from_config(copy.deepcopy(config), attn_implementation="eager", dtype=dtype).eval()


def refuse_uncomputable(model_class: type[Any], config: Any) -> None:
    """Raise what a model of these sizes raises when it runs, on tensors without memory; its small twin does not."""
    key = proof_key(model_class, config)
    if key in _COMPUTABLE:
        return
    file = proof_file("computable", model_class, key, PROOF_SOURCES)
    if recall(file):
        _COMPUTABLE.add(key)
        return
    try:
        _run_without_memory(model_class, shrink(config, sizes=False))
    except Exception:
        if _runs_without_memory(model_class, shrink(config)):
            raise
        # The class needs values to run, and can only be asked in earnest.
    _COMPUTABLE.add(key)
    remember(file, {"computable": True})


def _runs_without_memory(model_class: type[Any], config: Any) -> bool:
    try:
        _run_without_memory(model_class, config)
    except Exception:
        return False
    return True


def _run_without_memory(model_class: type[Any], config: Any) -> None:
    with FakeTensorMode(), torch.no_grad():
        model = build(model_class, config, "cpu", torch.bfloat16)  # as experts' kernels want it
        mask = torch.ones(1, 1, 4, 4, dtype=torch.bool)
        decoder(model)(input_ids=torch.ones(1, 4, dtype=torch.long), attention_mask=mask, use_cache=False)


@contextmanager
def torch_operators() -> Generator[None]:
    """Have classes run torch's own operators where they would run another package's kernels, which want a card."""
    kernels: Any = hub_kernels  # which asks this function where it may not use them
    theirs = kernels.is_torchdynamo_exporting
    kernels.is_torchdynamo_exporting = lambda: True
    try:
        yield
    finally:
        kernels.is_torchdynamo_exporting = theirs


def _rows_by_kernels(model: Any) -> Rows:
    """Return "kernels" where installed kernels for layers with a state keep packed rows apart, else "apart".

    They are asked where they run, on a card if there is one.
    """
    if not any(find_spec(package) for package in STATE_KERNELS):
        return "apart"
    model.set_attn_implementation("eager")
    try:
        return prove_rows(model.to(pick_device()), ("kernels",))
    except Exception:  # whatever kernels raise for sizes or cards that are not theirs
        return "apart"


def prove_rows(model: Any, ways: Sequence[Rows] = ("packed", "apart")) -> Rows:
    """Return the first way of running rows in which each gets what it gets alone; raises Refuted where none does.

    Compares logits, loss and the gradient of every weight with the model's own forward pass and eager attention.
    """
    rows = [_row(length, index) for index, length in enumerate(ROW_LENGTHS)]
    own = _own(model, rows)
    transform = measure_logits(model)
    model.set_attn_implementation("thinktune_rows")
    said: dict[Rows, str] = {}
    for way in ways:
        try:
            difference = _difference(model, rows, way, transform, own)
        except Exception as error:  # what a class raises where it cannot run so is what it says of itself
            difference = shorten_error(error, 160).removeprefix("model.name: ")
        if difference is None:
            return way
        said[way] = difference
    asked: dict[Rows, str] = {"packed": "with rows packed", "apart": "with one row an entry"}
    reasons = "; ".join(f"{asked.get(way, way)}, {difference}" for way, difference in said.items())
    raise Refuted(
        f"model.name: is of type {model.config.model_type}, which cannot be trained: {reasons}; use another model"
    )


def _row(length: int, seed: int) -> Rendered:
    generator = np.random.default_rng(seed)
    kinds = np.full(length, int(TokenKind.ANSWER), np.uint8)
    kinds[:PROMPT_TOKENS] = int(TokenKind.PROMPT)
    return Rendered(generator.integers(3, 100, length).astype(np.int32), kinds, f"row {seed}")


@dataclass(frozen=True, slots=True)
class _Found:
    """Logits (n, vocabulary), loss and gradients by name."""

    logits: Tensor
    loss: Tensor
    gradients: dict[str, Tensor]


def _own(model: Any, rows: list[Rendered]) -> _Found:
    """Return what the model's own forward pass gives for each row alone."""
    for name, numbers in model.named_buffers():
        if numbers.is_floating_point() and not bool(numbers.isfinite().all()):
            raise ValueError(f"its {'rotary embeddings are' if 'inv_freq' in name else f'{name} is'} not finite")
    entries = [torch.from_numpy(row.ids.astype(np.int64))[None].to(model.device) for row in rows]
    logits = torch.cat([model(input_ids=ids, use_cache=False).logits[0] for ids in entries])
    if not bool(logits.isfinite().all()):
        raise ValueError("its logits are not finite")
    batch = collate(rows, sum(ROW_LENGTHS)).to(model.device)
    losses = nn.functional.cross_entropy(logits[batch.label_positions], batch.labels, reduction="sum")
    loss = losses / batch.label_tokens
    loss.backward()
    return _Found(logits.detach(), loss.detach(), _take_gradients(model))


def _difference(model: Any, rows: list[Rendered], way: Rows, transform: LogitTransform, own: _Found) -> str | None:
    """Say what differs between a batch of rows and each row alone, or return None."""
    batch = collate(rows, sum(ROW_LENGTHS)).to(model.device)
    weight = model.get_output_embeddings().weight
    model.zero_grad(set_to_none=True)
    states = batch_states(model, batch, way)
    with torch.no_grad():
        logits = transform(states @ weight.T)
    if far := _distance(logits, own.logits):
        return f"logits differ by {far:.1g}"
    labelled = states[batch.label_positions]
    loss, _ = linear_cross_entropy(
        labelled, weight, batch.labels, scale=1 / batch.label_tokens, dtype=torch.float32, transform=transform
    )
    loss.backward()
    if far := _distance(loss.detach(), own.loss):
        return f"the loss differs by {far:.1g}"
    found = _take_gradients(model)
    for name in own.gradients.keys() | found.keys():
        ours, theirs = found.get(name), own.gradients.get(name)
        if ours is None or theirs is None:  # a weight without effect has no gradient in one of them
            one = ours if theirs is None else theirs
            far = None if one is None else _distance(one, torch.zeros_like(one))
        else:
            far = _distance(ours, theirs)
        if far:
            return f"the gradient of {name} differs by {far:.1g}"
    return None


def _distance(ours: Tensor, theirs: Tensor) -> float | None:
    """Return the largest difference where it is beyond the tolerance, or None; what is not finite is."""
    far = float((ours - theirs).abs().max())
    return None if far <= TOLERANCE * max(1.0, float(theirs.abs().max())) else far


def _take_gradients(model: Any) -> dict[str, Tensor]:
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def measure_logits(model: Any) -> LogitTransform:
    """Measure what a class makes of its head's products, by its own forward pass over given last states.

    The decoder does not run, so the model may be of full width on the meta device; only its head is made. Raises
    Refuted where logits are no scaled and capped products of the last states.
    """
    kind = model.config.model_type
    head = model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    if weight is None or weight.ndim != 2:
        raise Refuted(f"model.name: is of type {kind}, which has no head for logits; use a model that writes text")
    if getattr(head, "bias", None) is not None:
        raise Refuted(
            f"model.name: is of type {kind}, whose head has a bias, which is not supported; use another model"
        )
    width = weight.shape[1]
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1, HEAD_VOCAB, width, generator=generator)
    low, high = MEASURED_PRODUCTS
    states *= torch.logspace(np.log10(low), np.log10(high), HEAD_VOCAB)[:, None] / width**0.5
    with _given_states(model, states), torch.no_grad():
        made = model(input_ids=torch.ones(1, HEAD_VOCAB, dtype=torch.long), use_cache=False).logits[0].double()
        products = (states[0] @ model.get_output_embeddings().weight.T).double()
    return _fit(products.flatten(), made.flatten(), model.config)


@contextmanager
def _given_states(model: Any, states: Tensor) -> Generator[None]:
    """Have a model's decoder return given states, and its head be one with weights, for the time of the block."""
    inner, head = decoder(model), model.get_output_embeddings()
    generator = torch.Generator().manual_seed(1)
    rows = HEAD_VOCAB if head.weight.device.type == "meta" else len(head.weight)
    made = nn.Linear(states.shape[2], rows, bias=False)
    with torch.no_grad():
        made.weight.copy_(torch.randn(made.weight.shape, generator=generator))
    model.set_output_embeddings(made)

    def forward(*_: Any, **__: Any) -> _States:
        return _States(states)

    inner.forward = forward
    try:
        yield
    finally:
        del inner.forward
        model.set_output_embeddings(head)


class _States(tuple[Tensor]):
    """Output of a decoder with nothing but last states, by name and by place."""

    last_hidden_state: Tensor

    def __new__(cls, states: Tensor) -> "_States":
        made = super().__new__(cls, (states,))
        made.last_hidden_state = states
        return made

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def _fit(products: Tensor, logits: Tensor, config: Any) -> LogitTransform:
    """Fit scale and cap to logits; raises Refuted where they are no such function of the products."""
    small = products.abs() < products.abs().quantile(0.2)
    scale = float((products[small] * logits[small]).sum() / products[small].square().sum())
    scale = _snapped(scale, config)
    if _fits(LogitTransform(scale), products, logits):
        return LogitTransform(scale)
    cap = _snapped(float(logits.abs().max()), config)  # what the largest products come to
    if _fits(LogitTransform(scale, cap), products, logits):
        return LogitTransform(scale, cap)
    raise Refuted(
        f"model.name: is of type {config.model_type}, whose logits are not scaled or capped products of its last "
        "states; use another model"
    )


def _fits(transform: LogitTransform, products: Tensor, logits: Tensor) -> bool:
    return bool(torch.allclose(transform(products), logits, rtol=TOLERANCE, atol=TOLERANCE))


def _snapped(measured: float, config: Any) -> float:
    """Return the number of the configuration, its inverse or its product with another that was measured, or that."""
    numbers = [
        v for v in config.get_text_config().to_dict().values() if isinstance(v, int | float) and v and v is not True
    ]
    known = [1.0, *map(float, numbers), *(1 / number for number in numbers)]
    close = [each for each in known if abs(each - measured) < TOLERANCE * abs(measured)]
    return min(close, key=lambda each: abs(each - measured), default=float(f"{measured:.6g}"))
