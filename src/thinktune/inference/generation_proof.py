"""Proof that a class's replies are right: rows that share passes get what its own forward pass gives each alone."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from thinktune.errors import shorten_error
from thinktune.inference.kv_cache import KVCache
from thinktune.inference.requests import GenerationError
from thinktune.model import CausalLM
from thinktune.model.proof import SEEDS, build, plain_class, proof_file, proof_key
from thinktune.model.twin import fill_weights, shrink
from thinktune.verdicts import recall, remember

TOLERANCE = 1e-4  # of logits, as a share of the largest; what is right differs by 1e-5 at most
PROMPT_LENGTHS = (7, 13, 2)  # beyond a twin's window, chunk and convolution, and one that is shorter
CHUNK_LENGTHS = (5, 4, 3)  # of a prompt that is read in several passes
DECODED = 3  # tokens after each change of the batch
PROOF_SOURCES = (
    "inference",
    "model",
    "tokenization",
    "errors",
    "data.batch_shapes",
    "data.packing",
)  # our own source that proves


_PROVED: dict[str, GenerationError | None] = {}


def require_generation(model: CausalLM) -> None:
    """Raise GenerationError unless replies of the model's class and configuration are proved right, on a small twin.

    Proved once; what holds for a class of transformers is remembered on disk. Every rank of a run proves it for itself.
    """
    model_class = plain_class(type(model))
    key = proof_key(model_class, model.config)
    if key not in _PROVED:
        file = proof_file("generation", model_class, key, PROOF_SOURCES)
        if recall(file):
            _PROVED[key] = None
            return
        with torch.random.fork_rng(devices=[]), torch.autocast("cpu", enabled=False):
            _PROVED[key] = _find_fault(model_class, model.config)
        if _PROVED[key] is None:
            remember(file, {"proved": True})
    if error := _PROVED[key]:
        raise error


def _find_fault(model_class: type[Any], config: Any) -> GenerationError | None:
    """Return what is wrong; a router's choice may hang on a rounding error once, a fault is there with any weights."""
    fault: GenerationError | None = None
    for seed in SEEDS:
        twin = build(model_class, shrink(config), "cpu")
        fill_weights(twin, seed)
        try:
            prove_generation(twin)
            return None
        except GenerationError as error:
            fault = error
    return fault


def prove_generation(twin: CausalLM) -> None:
    """Raise GenerationError unless generation is right for a model.

    Prompts of unequal length join the batch together, alone and in chunks; replies leave it in between. After every
    pass each row's logits are held against the model's own forward pass, whole, without a cache, with its own eager
    attention.

    Args:
        twin: a small model of the class and switches to be proved, in fp32 on the CPU, with weights that all have an
            effect and windows that its rows outgrow.
    """
    rows = _ProvedRows(twin)
    try:
        twin.set_attn_implementation("thinktune_rows")
        with torch.inference_mode():
            _come_and_go(rows)
        return
    except GenerationError as error:
        what = str(error)
    except Exception as error:  # what a class raises where it cannot run so is what it says of itself
        what = shorten_error(error, 160)
    raise GenerationError(
        f"model.name: is of type {twin.config.model_type}, whose replies cannot be proved correct ({what}); use "
        "another model"
    )


def _come_and_go(rows: "_ProvedRows") -> None:
    rows.join(PROMPT_LENGTHS)
    rows.decode()
    rows.leave(0)
    rows.join(PROMPT_LENGTHS[:1])
    rows.decode()
    if not rows.cache.reads_whole_prompts:
        rows.join_in_chunks()
        rows.decode()


class _ProvedRows:
    """Rows in a cache with the same tokens beside it; every pass is held against the model's own."""

    def __init__(self, model: CausalLM) -> None:
        self.cache = KVCache(model)
        self._model, self._rows = model, list[list[int]]()
        self._generator = torch.Generator().manual_seed(0)

    def join(self, lengths: Sequence[int]) -> None:
        prompts = [self._draw(length) for length in lengths]
        self._hold(self.cache.prefill(prompts), prompts, "with several prompts in a pass")
        self._rows += [list(prompt) for prompt in prompts]

    def join_in_chunks(self) -> None:
        prompt, cache = self._draw(sum(CHUNK_LENGTHS)), KVCache(self._model)
        start = CHUNK_LENGTHS[0]
        cache.prefill([prompt[:start]])
        for length in CHUNK_LENGTHS[1:]:
            found = cache.extend([prompt[start : start + length]])
            start += length
            self._hold(found, [prompt[:start]], "with a prompt in several passes")
        self.cache.adopt(cache)
        self._rows.append(prompt)

    def decode(self) -> None:
        for _ in range(DECODED):
            for row, token in zip(self._rows, self._draw(len(self._rows)), strict=True):
                row.append(token)
            self._hold(
                self.cache.extend([row[-1:] for row in self._rows]), self._rows, "with several replies in a pass"
            )

    def leave(self, row: int) -> None:
        self.cache.free(row)
        self._rows[row] = self._rows[-1]
        self._rows.pop()

    def _draw(self, count: int) -> list[int]:
        vocabulary: int = self._model.get_input_embeddings().weight.shape[0]
        return torch.randint(vocabulary, (count,), generator=self._generator).tolist()

    def _hold(self, found: Tensor, rows: Sequence[Sequence[int]], how: str) -> None:
        """Raise GenerationError where logits (rows, vocabulary) are not the model's own."""
        self._model.set_attn_implementation("eager")
        expected = torch.stack([self._model(torch.tensor([row]), use_cache=False).logits[0, -1] for row in rows])
        self._model.set_attn_implementation("thinktune_rows")
        difference = float((found - expected).abs().max() / expected.abs().max())
        if not difference <= TOLERANCE:
            raise GenerationError(f"{how} its logits differ by {difference:.1%} of the largest from its own")
