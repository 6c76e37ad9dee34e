"""Last hidden states of a batch: rows packed into one sequence, or apart, each an entry of a padded batch."""

import inspect
from typing import Any, Literal

import torch
from torch import Tensor

from thinktune.model.attention import boundaries_as_mask, reads_cu_seqlens_on_device
from thinktune.model.batch import Batch
from thinktune.model.decoder import decoder
from thinktune.model.protocols import CausalLM

Rows = Literal["packed", "apart"]


def batch_states(model: CausalLM, batch: Batch, rows: Rows) -> Tensor:
    """Return the last hidden states (n, hidden) of a batch, in its order of tokens; no row sees another."""
    return _packed_states(model, batch) if rows == "packed" else _apart_states(model, batch)


def _packed_states(model: CausalLM, batch: Batch) -> Tensor:
    cu_seqlens, options = batch.cu_seqlens, dict[str, Any]()
    if reads_cu_seqlens_on_device(model):
        options["host_cu_seqlens"] = cu_seqlens
        cu_seqlens = cu_seqlens.to(batch.ids.device, non_blocking=True)
    output = _call(
        model,
        input_ids=batch.ids,
        position_ids=batch.position_ids,
        attention_mask=boundaries_as_mask(cu_seqlens),  # in the place of a mask: transformers builds none
        use_cache=False,
        cu_seqlens=cu_seqlens,
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
