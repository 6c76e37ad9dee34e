"""Padded KV cache of the running sequences, and the forward passes of prefill and decode."""

from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from thinktune.distributed import World
from thinktune.inference.requests import GenerationError
from thinktune.model import CausalLM
from thinktune.model.attention import reads_cu_seqlens_on_device
from thinktune.model.decoder import decoder
from thinktune.model.forward import cache_argument, with_unsharded_root

GROW_COLUMNS = 256  # columns by which the buffers grow; each growth copies them
GROW_ROWS = 8  # rows by which they grow


class KVCache:
    """Keys and values, one row a sequence: row r fills columns 0 to `lengths[r]` - 1, the rest is padding.

    The rows are always dense: where one is freed, the last takes its index. A pass that fails changes no row.
    """

    def __init__(self, model: CausalLM) -> None:
        self.lengths: list[int] = []
        self._model = model
        self._layers: list[tuple[Tensor, Tensor]] = []  # keys and values of each layer: (rows, kv heads, columns, size)
        # Of the present pass: where each of its tokens is written; how many rows and columns its attention sees, (0, 0)
        # if only the pass itself; and how many the buffers must hold.
        self._write_rows = self._write_columns = torch.empty(0, dtype=torch.long)
        self._visible = self._required = (0, 0)
        self._updates = 0  # of the present pass: how many layers have written

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Prefill whole prompts as new rows, packed without padding; returns logits (prompts, vocabulary) fp32."""
        first, lengths = len(self.lengths), [len(prompt) for prompt in prompts]
        rows = [first + index for index, length in enumerate(lengths) for _ in range(length)]
        columns = [column for length in lengths for column in range(length)]
        ids = [token for prompt in prompts for token in prompt]
        cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int()
        self._set_write_positions(rows, columns, visible=(0, 0), required=(first + len(prompts), max(lengths)))
        varlen = self._varlen_kwargs(cu_seqlens, max(lengths))
        logits = with_unsharded_root(
            self._model, lambda: self._logits(self._forward([ids], [columns], None, **varlen)[0, cu_seqlens[1:] - 1])
        )
        self.lengths += lengths
        return logits

    def extend(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Append the same number of tokens to every row (decode: one); returns logits (rows, vocabulary) fp32."""
        new_tokens = len(ids[0])
        positions = [list(range(length, length + new_tokens)) for length in self.lengths]
        rows = [row for row in range(len(ids)) for _ in range(new_tokens)]
        size = (len(ids), max(self.lengths) + new_tokens)
        self._set_write_positions(rows, [column for row in positions for column in row], visible=size, required=size)
        logits = with_unsharded_root(self._model, lambda: self._logits(self._forward(ids, positions, size[1])[:, -1]))
        self.lengths = [length + new_tokens for length in self.lengths]
        return logits

    def reserve(self, rows: int, columns: int, world: World) -> bool:
        """Grow the buffers for a pass to come; return False, on all ranks, where one of them has no memory for it.

        Ranks that share weights must all make a pass or none. One process finds out in the pass itself.
        """
        if world.size == 1:
            return True
        self._required, is_full = (rows, columns), False
        try:
            for layer, (keys, values) in enumerate(self._layers):
                self._buffers(layer, keys, values)
        except torch.OutOfMemoryError:
            is_full = True
        return not world.any(is_full)

    def adopt(self, other: "KVCache") -> None:
        """Append the rows of another cache."""
        first, max_length = len(self.lengths), max(other.lengths)
        self._required = (first + len(other.lengths), max_length)
        for layer, (keys, values) in enumerate(other._layers):
            for mine, theirs in zip(self._buffers(layer, keys, values), (keys, values), strict=True):
                mine[first : self._required[0], :, :max_length] = theirs[: len(other.lengths), :, :max_length]
        self.lengths += other.lengths

    def free(self, row: int) -> None:
        """Free a row; the last one takes its index."""
        last = len(self.lengths) - 1
        length = self.lengths[last]
        if row != last:
            for keys, values in self._layers:
                for buffer in (keys, values):
                    buffer[row, :, :length] = buffer[last, :, :length]
        self.lengths[row] = length
        self.lengths.pop()

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write a layer's keys and values (rows, kv heads, tokens, size), and return those that attention sees.

        The attention layers of transformers call it by this name.
        """
        self._updates += 1
        buffers = self._buffers(layer, key, value)
        for buffer, new in zip(buffers, (key, value), strict=True):
            buffer[self._write_rows, :, self._write_columns] = new.transpose(1, 2).flatten(0, 1).to(buffer.dtype)
        rows, columns = self._visible
        if not rows:
            return key, value
        keys, values = buffers
        return keys[:rows, :, :columns], values[:rows, :, :columns]

    def _set_write_positions(
        self, rows: list[int], columns: list[int], *, visible: tuple[int, int], required: tuple[int, int]
    ) -> None:
        """Set where the next pass writes its tokens, what its attention sees, and what the buffers must hold."""
        self._write_rows, self._write_columns = self._tensor([rows, columns])
        self._visible, self._required = visible, required

    def _forward(
        self,
        ids: Sequence[Sequence[int]],
        positions: Sequence[Sequence[int]],
        visible_columns: int | None,
        **options: Any,
    ) -> Tensor:
        """Return the last hidden states (rows, tokens, hidden) of one pass.

        Attention sees the first `visible_columns` of the cache as far as each token's position, or with None the pass
        alone.
        """
        position_ids = self._tensor(positions)
        self._updates = 0
        mask = None
        if visible_columns is not None and position_ids.numel() > 1:  # a single token sees all there is
            mask = (torch.arange(visible_columns, device=position_ids.device) <= position_ids[:, :, None])[:, None]
        output = decoder(self._model)(
            input_ids=self._tensor(ids),
            position_ids=position_ids,
            attention_mask={"full_attention": mask},
            use_cache=True,
            **{self._argument: self},
            **options,
        )
        if not self._updates:  # the reply would come from the last token alone
            raise _unused_cache_error(self._model)
        return output.last_hidden_state

    @cached_property
    def _argument(self) -> str:
        """Name by which the forward pass takes this cache."""
        name = cache_argument(self._model)
        if name is None:
            raise _unused_cache_error(self._model)
        return name

    def _varlen_kwargs(self, cu_seqlens: Tensor, max_seqlen: int) -> dict[str, Any]:
        """Return the arguments by which variable-length attention keeps packed prompts apart."""
        if reads_cu_seqlens_on_device(self._model):
            cu_seqlens = cu_seqlens.to(self._model.device)
        return {"cu_seqlens": cu_seqlens, "max_seqlen": max_seqlen}

    def _logits(self, hidden: Tensor) -> Tensor:
        return self._model.get_output_embeddings()(hidden).float()

    def _tensor(self, values: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(values, device=self._model.device)

    def _buffers(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return a layer's buffers, grown to the required size; keys are kept in the values' dtype."""
        if layer == len(self._layers):
            self._layers.append((_grown(key[:0], self._required, value), _grown(value[:0], self._required, value)))
        keys, values = self._layers[layer]
        if keys.shape[0] < self._required[0] or keys.shape[2] < self._required[1]:
            keys, values = (_grown(buffer, self._required, value) for buffer in (keys, values))
            self._layers[layer] = keys, values
        return keys, values


def _unused_cache_error(model: CausalLM) -> GenerationError:
    return GenerationError(
        f"transformers {version('transformers')}: {type(model).__name__} does not use the KV cache that it is given, "
        "and no reply can be made; install another release, as in pip install 'transformers==5.24.*'"
    )


def _grown(buffer: Tensor, required: tuple[int, int], like: Tensor) -> Tensor:
    """Return the buffer grown to the required rows and columns, in whole steps; padding is zero: it must be finite."""
    rows, columns = (-(-size // step) * step for size, step in zip(required, (GROW_ROWS, GROW_COLUMNS), strict=True))
    columns = max(columns, buffer.shape[2] if buffer.shape[0] else 0)
    kept = min(rows, buffer.shape[0])  # rows beyond the required ones belong to no sequence
    grown = like.new_zeros(rows, buffer.shape[1], columns, buffer.shape[3])
    if kept:
        grown[:kept, :, : buffer.shape[2]] = buffer[:kept]
    return grown
