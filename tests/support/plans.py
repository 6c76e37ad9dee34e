"""A workload of known sizes for tests of the planner, and the text that `check` prints."""

import io
from types import SimpleNamespace

from rich.console import Console

from thinktune.commands.check import print_check
from thinktune.config.schema import TrainConfig
from thinktune.planner.communication import ParameterGroups
from thinktune.planner.flops import AttentionShape, Operations
from thinktune.planner.layer_calls import META
from thinktune.planner.memory import Workload
from thinktune.planner.trace import LayerBytes, LinearBytes, RootBytes

QWEN = SimpleNamespace(  # the 1.7B
    hidden_size=2048,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    intermediate_size=6144,
    vocab_size=151_936,
)


LAYER = ((2048, 2048), (1024, 2048), (1024, 2048), (2048, 2048), (6144, 2048), (6144, 2048), (2048, 6144))


GROUPS = ParameterGroups(((151_936, 2048), (2048,)), 28 * ((*LAYER, (2048,), (2048,), (128,), (128,)),))


# By hand: matrices of a layer, of the head, and 16 heads of 128 that 8 keys and values serve.
OPERATIONS = Operations(28 * 50_331_648, 151_936 * 2048, 28 * (AttentionShape(4096, 2048, None),))


class KnownWorkload(Workload):
    """A workload whose traced bytes are given, so that choices are tested without tracing."""

    shapes = [*GROUPS.root, *(shape for layer in GROUPS.layers for shape in layer)]  # noqa: RUF012
    parameter_groups = GROUPS
    layers_by_budget = {  # noqa: RUF012
        budget: 28
        * (
            LayerBytes(
                *(LinearBytes(0, saved), LinearBytes(0, 60e3), LinearBytes(1e8, 60e3), LinearBytes(1e8, 4e3)),
                *(factor, moved, runs),
            ),
        )
        # Counted in the code that torch 2.11 writes for an H200: bytes of its kernels, and attention's forward passes.
        for budget, saved, factor, moved, runs in (
            *((1.0, 71_848, 1.0, 262_807, 1), (0.7, 39_016, 1.0, 311_031, 2), (0.5, 34_816, 1.01, 321_172, 2)),
            (0.0, 0.0, 1.25, 333_464, 2),
        )
    }
    most_batch_sizes = 3
    recomputed_layers = long_row_layers = tiled_passes = layers_by_budget[0.0]
    operations = OPERATIONS

    @property
    def float8_shapes(self):
        """Queries, attention's output, gate, up and down."""
        return 28 * (2 * [(2048, 2048)] + 2 * [(6144, 2048)] + [(2048, 6144)]) if self.float8 else []

    def root_bytes(self, tokens, rows=None):
        return RootBytes(*(int(6e8 + per_token * tokens) for per_token in (2e5, 5e4, 5e3, 5e3, 5e3)))


def workload(step_tokens=16_384, longest_row_tokens=2048):
    return KnownWorkload(QWEN, META, False, True, step_tokens, longest_row_tokens, 0.9, [1199], 3, 4096)


def train_config(**changes):
    return TrainConfig(tokens_per_step=16_384, **changes)


def shown(facts):
    console = Console(file=io.StringIO(), width=140)
    print_check(facts, console)
    return console.file.getvalue()
