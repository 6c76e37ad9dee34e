"""Small models of several equal layers, packed rows for them, and a compiler that remembers nothing."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch._dynamo.utils import counters

from thinktune.demo.tiny_model import ModelShape, make_model
from thinktune.model.batch import make_padding, pack
from thinktune.tokenization import Rendered


@contextmanager
def fresh_compiler() -> Generator[None]:
    """Forget compiled code, count graphs from zero, and put the activation budget back at the end."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._functorch.config.activation_memory_budget = 1.0
    torch._dynamo.reset()


def layered_model(tokenizer, layers):
    model = make_model(tokenizer, ModelShape(num_layers=layers))
    model.set_attn_implementation("thinktune_rows")
    return model


def padded_batches(lengths: Sequence[int], most_id: int):
    """Pack rows of these lengths, of random ids from 3 to below `most_id`, all but the first learned as answers."""
    drawn = np.random.default_rng(0)
    rows = [
        Rendered(
            drawn.integers(3, most_id, size).astype(np.int32), np.array([0, *[2] * (size - 1)], np.uint8), f"r:{size}"
        )
        for size in lengths
    ]
    return pack(rows, 64, pad=make_padding(0, lengths, 64))
