"""Keys and values of the replies in the making, side by side, and the model's pass over their next tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from thinktune.model.attention import reads_cu_seqlens_on_device
from thinktune.model.forward import with_unsharded_root

GROW_COLUMNS = 256  # columns by which the buffers grow; each growth copies what is there


GROW_ROWS = 8  # rows by which they grow


class KVCache:
    """Rows of keys and values: the tokens of row r stand in columns 0 to `lengths[r]` - 1, the rest is padding.

    The rows are always dense: where one leaves, the last takes its place. A pass that fails changes no row.
    """

    def __init__(self, model: Any) -> None:
        self.lengths: list[int] = []
        self._model = model
        self._layers: list[tuple[Tensor, Tensor]] = []  # keys and values of each layer: (rows, groups, width, size)
        self._write_rows = self._write_columns = torch.empty(
            0, dtype=torch.long
        )  # where each token of the present pass is kept
        self._visible = (0, 0)  # how many rows and columns its attention sees; none where it sees but itself
        self._required = (0, 0)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read whole prompts, packed without padding, as new rows; their next logits (prompts, vocabulary)."""
        first, lengths = len(self.lengths), [len(prompt) for prompt in prompts]
        rows = [first + number for number, length in enumerate(lengths) for _ in range(length)]
        columns = [column for length in lengths for column in range(length)]
        ids = [token for prompt in prompts for token in prompt]
        cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int()
        self._set_write_positions(rows, columns, visible=(0, 0), required=(first + len(prompts), max(lengths)))
        apart = self._varlen_kwargs(cu_seqlens, max(lengths))
        logits = with_unsharded_root(
            self._model, lambda: self._logits(self._forward([ids], [columns], None, **apart)[0, cu_seqlens[1:] - 1])
        )
        self.lengths += lengths
        return logits

    def extend(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Read the same number of tokens behind every row; their next logits (rows, vocabulary)."""
        many = len(ids[0])
        positions = [[length + place for place in range(many)] for length in self.lengths]
        rows = [row for row in range(len(ids)) for _ in range(many)]
        seen = (len(ids), max(self.lengths) + many)
        self._set_write_positions(rows, [column for row in positions for column in row], visible=seen, required=seen)
        logits = with_unsharded_root(self._model, lambda: self._logits(self._forward(ids, positions, seen[1])[:, -1]))
        self.lengths = [length + many for length in self.lengths]
        return logits

    def adopt(self, other: "KVCache") -> None:
        """Take over the rows of another one."""
        first, longest = len(self.lengths), max(other.lengths)
        self._required = (first + len(other.lengths), longest)
        for layer, (keys, values) in enumerate(other._layers):
            for mine, theirs in zip(self._buffers(layer, keys, values), (keys, values), strict=True):
                mine[first : self._required[0], :, :longest] = theirs[: len(other.lengths), :, :longest]
        self.lengths += other.lengths

    def free(self, row: int) -> None:
        """Let a row go; the last one takes its place."""
        last = len(self.lengths) - 1
        length = self.lengths[last]
        if row != last:
            for keys, values in self._layers:
                for buffer in (keys, values):
                    buffer[row, :, :length] = buffer[last, :, :length]
        self.lengths[row] = length
        self.lengths.pop()

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keep the keys and values (rows, groups, tokens, size) of a layer, and return those that attention shall see.

        The attention layers of transformers call it by this name.
        """
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
        """Say where the tokens of the coming pass are kept, and what its attention sees."""
        self._write_rows, self._write_columns = self._tensor([rows, columns])
        self._visible, self._required = visible, required

    def _forward(
        self,
        ids: Sequence[Sequence[int]],
        positions: Sequence[Sequence[int]],
        visible_columns: int | None,
        **options: Any,
    ) -> Tensor:
        """The last hidden states (rows, tokens, hidden) of one pass; `visible_columns` is how many columns attention sees."""
        at = self._tensor(positions)
        mask = None
        if visible_columns is not None and at.numel() > 1:  # one token alone sees all that is there
            mask = (torch.arange(visible_columns, device=at.device) <= at[:, :, None])[:, None]
        output = self._model.model(
            input_ids=self._tensor(ids),
            position_ids=at,
            attention_mask={"full_attention": mask},
            past_key_values=self,
            use_cache=True,
            **options,
        )
        return output.last_hidden_state

    def _varlen_kwargs(self, cu_seqlens: Tensor, max_seqlen: int) -> dict[str, Any]:
        """What keeps packed prompts apart, where the model's attention reads it."""
        if reads_cu_seqlens_on_device(self._model):
            cu_seqlens = cu_seqlens.to(self._model.device)
        return {"cu_seqlens": cu_seqlens, "max_seqlen": max_seqlen}

    def _logits(self, hidden: Tensor) -> Tensor:
        return self._model.get_output_embeddings()(hidden).float()

    def _tensor(self, values: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(values, device=self._model.device)

    def _buffers(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's buffers with room for what is needed; keys are kept in the values' type."""
        if layer == len(self._layers):
            self._layers.append((_grown(key[:0], self._required, value), _grown(value[:0], self._required, value)))
        keys, values = self._layers[layer]
        if keys.shape[0] < self._required[0] or keys.shape[2] < self._required[1]:
            keys, values = (_grown(buffer, self._required, value) for buffer in (keys, values))
            self._layers[layer] = keys, values
        return keys, values


def _grown(buffer: Tensor, required: tuple[int, int], like: Tensor) -> Tensor:
    """The buffer with room for so many rows and columns, in whole blocks; zeros, because padding must be finite."""
    rows, width = (-(-size // block) * block for size, block in zip(required, (GROW_ROWS, GROW_COLUMNS), strict=True))
    width = max(width, buffer.shape[2] if buffer.shape[0] else 0)
    kept = min(rows, buffer.shape[0])  # rows beyond those needed are nobody's
    larger = like.new_zeros(rows, buffer.shape[1], width, buffer.shape[3])
    if kept:
        larger[:kept, :, : buffer.shape[2]] = buffer[:kept]
    return larger
