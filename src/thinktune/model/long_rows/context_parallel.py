"""Context parallelism: several ranks share the tokens of each batch, and long rows fit where one rank cannot hold them.

Each rank holds a slice of the tokens for all that is done token by token. Attention exchanges slices of tokens for
slices of heads: a rank attends to whole rows with its share of the heads, by the same functions as one rank alone, and
the exchange is undone (all-to-all; Jacobs et al., DeepSpeed Ulysses, 2023). So packed rows, windows, caps and sinks
stay exact, and each rank has the same work, which rings over rows of unequal length do not give.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from thinktune.distributed import World
from thinktune.errors import UserError
from thinktune.model.attention import ATTENTIONS, CONTEXT_SUFFIX, AttentionName, has_attention_dropout, row_boundaries
from thinktune.model.batch import Batch
from thinktune.model.protocols import CausalLM
from thinktune.model.states import Rows

_GROUPS: dict[str, dist.ProcessGroup] = {}  # by name: an operator takes no objects


@dataclass(frozen=True, slots=True)
class ContextShare:
    """This rank's share of each batch: the `index`-th of `size` slices."""

    index: int = 0
    size: int = 1

    def slice(self, batch: Batch) -> Batch:
        """Return this rank's tokens of a batch on the CPU; boundaries, sources and `max_seqlen` are the whole batch's.

        A batch whose tokens do not divide gets a row of padding at its end. Labels stay with the tokens that predict
        them.
        """
        if self.size == 1:
            return batch
        tokens = batch.ids.shape[1]
        added = -tokens % self.size
        own = (tokens + added) // self.size
        first = self.index * own
        kept = (batch.label_positions >= first) & (batch.label_positions < first + own)
        ends = batch.cu_seqlens if not added else pad(batch.cu_seqlens, (0, 1), value=tokens + added)
        return replace(
            batch,
            ids=pad(batch.ids, (0, added))[:, first : first + own].contiguous(),
            position_ids=pad(batch.position_ids, (0, added))[:, first : first + own].contiguous(),
            cu_seqlens=ends,
            max_seqlen=max(batch.max_seqlen, added),
            first_token=first,
            label_positions=batch.label_positions[kept] - first,
            labels=batch.labels[kept],
            label_kinds=batch.label_kinds[kept],
            label_sources=None if batch.label_sources is None else batch.label_sources[kept],
            unpadded_tokens=min(max(0, batch.unpadded_tokens - first), own),
        )


WHOLE = ContextShare()


def context_fault(config: Any, size: int, rows: Rows) -> str | None:
    """Return the sentence for a model whose attention so many ranks cannot share, or None."""
    if size == 1:
        return None
    heads = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    what = f"expert.context_parallel: is {size}, "
    if rows != "packed":
        kind = config.model_type
        return f"{what}and layers of type {kind} pass a state along a row, which ranks cannot share; set it to 1"
    if has_attention_dropout(config):
        return f"{what}and the model drops attention weights, which ranks would draw apart; set it to 1"
    if heads % size:
        return f"{what}which does not divide the {heads} attention heads; set a divisor of {heads}"
    if groups % size and size % groups:
        return f"{what}which neither divides nor is a multiple of the {groups} key-value heads; set a divisor"
    return None


def require_ranks(size: int, ranks: int) -> None:
    """Raise UserError where so many ranks cannot be divided into groups of `size`."""
    if ranks % size:
        raise UserError(
            f"expert.context_parallel: is {size}, which does not divide the {ranks} "
            f"{'rank' if ranks == 1 else 'ranks'} of this run; start a multiple of {size}, or set it to 1"
        )


def share_context(model: CausalLM, world: World, size: int) -> ContextShare:
    """Have `size` neighbouring ranks share the tokens of a model's batches, and return this rank's share.

    Call it after `set_attention`, on all ranks, which then give the model nothing but slices (`ContextShare.slice`) of
    batches that their group has in common. Gradients of a rank are those of its tokens; their sum over all ranks is
    that of the whole loss.
    """
    if size == 1:
        return WHOLE
    mesh = init_device_mesh(model.device.type, (world.size // size, size), mesh_dim_names=("batches", "context"))
    group = mesh["context"].get_group()
    _GROUPS[group.group_name] = group
    share = ContextShare(mesh.get_local_rank("context"), size)
    inner: AttentionName = model.config._attn_implementation  # pyright: ignore # which `set_attention` has set
    name = f"{inner}{CONTEXT_SUFFIX}"
    mask: Callable[..., Any] = sdpa_mask
    AttentionInterface.register(name, _exchanging(ATTENTIONS[inner], share, group.group_name))
    AttentionMaskInterface.register(name, mask)
    model.set_attn_implementation(name)
    return share


def _exchanging(attention: Callable[..., Any], share: ContextShare, group: str) -> Callable[..., Any]:
    """Wrap an attention function: of packed rows it sees all tokens with a share of the heads."""

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, None]:
        if row_boundaries(options.get("cu_seqlens"), attention_mask) is None:  # generation: each rank has all of it
            return attention(module, query, key, value, attention_mask, **options)
        if (times := share.size // key.shape[1]) > 1:
            key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
        if (sinks := options.get("s_aux")) is not None:
            options["s_aux"] = sinks.chunk(share.size)[share.index]
        query, key, value = (_exchanged(part, share.size, group) for part in (query, key, value))
        output, _ = attention(module, query, key, value, attention_mask, **options)
        return _exchanged(output, share.size, group), None

    return attend


def _exchanged(part: Tensor, size: int, group: str) -> Tensor:
    """Turn (1, heads, a slice of the tokens, dim) into (1, a share of the heads, tokens, dim).

    And, by the same steps, attention's output (1, tokens, a share of the heads, dim) into (1, a slice, heads, dim).
    """
    received = exchange(part[0].unflatten(0, (size, -1)).contiguous(), group)
    return received.transpose(0, 1).flatten(1, 2)[None]


@torch.library.custom_op("thinktune::exchange", mutates_args=())
def exchange(parts: Tensor, group: str) -> Tensor:
    """Send the i-th of `parts` to the i-th rank of a group, and return what all ranks sent here, by rank."""
    received = torch.empty_like(parts)
    dist.all_to_all_single(received, parts.contiguous(), group=_GROUPS[group])
    return received


@exchange.register_fake
def _(parts: Tensor, group: str) -> Tensor:
    return torch.empty_like(parts)


def _setup_context(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:
    ctx.group = inputs[1]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    return exchange(gradient.contiguous(), ctx.group), None


exchange.register_autograd(_backward, setup_context=_setup_context)
