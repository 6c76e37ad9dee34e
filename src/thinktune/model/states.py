"""Last hidden states of a batch: rows packed into one sequence, or apart, each an entry of a padded batch."""

import inspect
from typing import Any, Literal

import torch
from torch import Tensor

from thinktune.model.attention import boundaries_as_mask, reads_cu_seqlens_on_device
from thinktune.model.batch import Batch
from thinktune.model.decoder import decoder
from thinktune.model.protocols import CausalLM

# Packed rows are told apart by attention alone, or also by other packages' kernels for layers with a state.
Rows = Literal["packed", "kernels", "apart"]


def batch_states(model: CausalLM, batch: Batch, rows: Rows) -> Tensor:
    """Return the last hidden states (n, hidden) of a batch, in its order of tokens; no row sees another."""
    if rows == "apart":
        return _apart_states(model, batch)
    return _packed_states(model, batch, kernels=rows == "kernels")


def _kernel_options(batch: Batch) -> dict[str, Any]:
    """Return the boundaries of rows as flash-linear-attention, and as causal-conv1d and mamba-ssm want them."""
    numbers = torch.repeat_interleave(batch.cu_seqlens.diff().long())
    device, ends = batch.ids.device, batch.cu_seqlens.unique()  # without the repeated end of padding
    return {
        "cu_seq_lens_q": ends.to(device, non_blocking=True),
        "seq_idx": numbers.int()[None].to(device, non_blocking=True),
    }


def _packed_states(model: CausalLM, batch: Batch, *, kernels: bool) -> Tensor:
    cu_seqlens = batch.cu_seqlens
    options = _kernel_options(batch) if kernels else dict[str, Any]()
    if reads_cu_seqlens_on_device(model):
        options["host_cu_seqlens"] = cu_seqlens
        cu_seqlens = cu_seqlens.to(batch.ids.device, non_blocking=True)
    if not kernels:  # whose layers call them with an option of this name; attention finds it in the mask's place
        options["cu_seqlens"] = cu_seqlens
    output = _call(
        model,
        input_ids=batch.ids,
        position_ids=batch.position_ids,
        attention_mask=boundaries_as_mask(cu_seqlens),  # in the place of a mask: transformers builds none
        use_cache=False,
        max_seqlen=batch.max_seqlen,
        **options,
    )
    return output.last_hidden_state[0]


def _apart_states(model: CausalLM, batch: Batch) -> Tensor:
    """Run each row as an entry padded at its end, where nothing that comes before can see it."""
    starts = batch.cu_seqlens[:-1][batch.cu_seqlens.diff() > 0].long()
    lengths = batch.cu_seqlens.diff()[batch.cu_seqlens.diff() > 0].long()
    columns = torch.arange(int(lengths.max()))
    places = (starts[:, None] + torch.minimum(columns, lengths[:, None] - 1)).to(batch.ids.device)
    output = _call(
        model,
        input_ids=batch.ids[0][places],
        position_ids=columns.expand(len(lengths), -1).to(batch.ids.device),
        attention_mask=None,  # the class builds its own, for windows and chunks
        use_cache=False,
    )
    real = (columns < lengths[:, None]).flatten().nonzero()[:, 0].to(batch.ids.device)
    return output.last_hidden_state.flatten(0, 1).index_select(0, real)


def _call(model: CausalLM, **options: Any) -> Any:
    """Run the decoder with the options that its class takes."""
    inner = decoder(model)
    parameters = inspect.signature(inner.forward).parameters
    if not any(each.kind == inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        options = {name: value for name, value in options.items() if name in parameters}
    return inner(**options)
