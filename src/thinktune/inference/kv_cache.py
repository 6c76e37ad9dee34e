"""Padded KV cache of the running sequences, and the forward passes of prefill and decode, for any class of model."""

from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from thinktune.distributed import World
from thinktune.inference.cached_attention import Pass, cached_attention, packed_pass
from thinktune.inference.recurrent_states import RecurrentStates
from thinktune.inference.requests import GenerationError
from thinktune.model import CausalLM
from thinktune.model.decoder import decoder
from thinktune.model.device import copy_to_device
from thinktune.model.forward import cache_argument, with_unsharded_root

GROW_COLUMNS = 256  # columns by which the buffers grow; each growth copies them
GROW_ROWS = 8  # rows by which they grow


class KVCache:
    """Keys and values, one row a sequence: row r fills columns 0 to `lengths[r]` - 1, the rest is padding.

    The rows are always dense: where one is freed, the last takes its index. A pass that fails changes no row, except
    where `is_broken` says so.

    Layers with a recurrent state (linear attention, Mamba, short convolutions) keep one for each row. It can be made
    neither from padding nor from several rows side by side, so such a model reads whole prompts, one after another;
    decode passes add one token to every row, as they do for all models.
    """

    is_compileable = False  # transformers asks

    def __init__(self, model: CausalLM) -> None:
        self.lengths: list[int] = []
        self.is_broken = False  # a pass failed when the states of some layers had moved on: only a new cache helps
        self._model = model
        self._states = RecurrentStates(model)
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}  # by layer: (rows, kv heads, columns, size)
        self.layout = object()  # another one as soon as any buffer has another address
        # Of the present pass: where each of its tokens is written; how many rows and columns its attention sees, (0, 0)
        # if only the pass itself; and how many the buffers must hold.
        self._write_rows = self._write_columns = torch.empty(0, dtype=torch.long)
        self._visible = self._required = (0, 0)
        self._seen = (0, 0)  # columns before the present pass, and with it, as transformers counts them
        self._updates = 0  # of the present pass: how often layers have used it

    @property
    def reads_whole_prompts(self) -> bool:
        """Return True if a prompt cannot be read in chunks."""
        return bool(self._states)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Prefill whole prompts as new rows, without padding; returns logits (prompts, vocabulary) fp32."""
        if self._states and (len(prompts) > 1 or self.lengths):
            return self._prefill_each(prompts)
        self._states = RecurrentStates(self._model) if self._states else self._states
        first, lengths = len(self.lengths), [len(prompt) for prompt in prompts]
        rows = [first + index for index, length in enumerate(lengths) for _ in range(length)]
        columns = [column for length in lengths for column in range(length)]
        ids = [token for prompt in prompts for token in prompt]
        cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int()
        self._set_write_positions(rows, columns, visible=(0, 0), required=(first + len(prompts), max(lengths)))
        self._seen = (0, len(ids))
        present = packed_pass(self._model, self._tensor([columns]), cu_seqlens, max(lengths))
        logits = self._forward(self._tensor([ids]), present, self._tensor(cu_seqlens[1:].long() - 1))[0]
        self.lengths += lengths
        return logits

    def _prefill_each(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Prefill prompts one after another, each in a cache of its own, and adopt them all."""
        caches = [KVCache(self._model) for _ in prompts]
        logits = [cache.prefill([prompt]) for cache, prompt in zip(caches, prompts, strict=True)]
        for cache in caches:
            self.adopt(cache)
        return torch.cat(logits)

    def extend(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Append the same number of tokens to every row (decode: one); returns logits (rows, vocabulary) fp32."""
        new_tokens = len(ids[0])
        assert new_tokens == 1 or not self._states, "a prompt whose state is recurrent is read as a whole"
        positions = [list(range(length, length + new_tokens)) for length in self.lengths]
        rows = [row for row in range(len(ids)) for _ in range(new_tokens)]
        size = (len(ids), max(self.lengths) + new_tokens)
        self._set_write_positions(rows, [column for row in positions for column in row], visible=size, required=size)
        self._seen = (size[1] - new_tokens, size[1])
        self.is_broken = bool(self._states)  # until the pass has come to its end
        present = Pass(self._tensor(positions), size[1])
        logits = self._forward(self._tensor(ids), present, self._tensor([new_tokens - 1]))[:, 0]
        self.is_broken = False
        self.lengths = [length + new_tokens for length in self.lengths]
        return logits

    def extend_slots(self, ids: Tensor, lengths: Tensor, columns: int) -> Tensor:
        """Append one token to each of the first rows, by tensors on the device alone; returns logits as `extend` does.

        Nothing in it follows from how long the rows are, so that a card can repeat what it launches; `end_repeat` then
        counts the tokens. Attention sees `columns` of the buffers, which must be there.

        Args:
            ids: (slots,) int64: the tokens; of a slot without a row, any.
            lengths: (slots,) int64: how many columns each row fills before the pass; 0 for a slot without a row.
            columns: of the buffers, more than any of `lengths`.
        """
        assert not self._states, "a recurrent state has other addresses after every pass"
        self._write_rows, self._write_columns = torch.arange(len(ids), device=ids.device), lengths
        self._visible = self._required = (len(ids), columns)
        self._seen = (columns - 1, columns)
        present = Pass(lengths[:, None], columns, is_padded=True)
        return self._forward(ids[:, None], present, torch.zeros(1, dtype=torch.long, device=ids.device))[:, 0]

    def end_repeat(self) -> None:
        """Count the token that each row has got by `extend_slots`, or by a repetition of it."""
        self.lengths = [length + 1 for length in self.lengths]

    def take_back(self) -> None:
        """Forget the token that each row got last: a pass whose tokens cannot be sampled must change no row."""
        self.lengths = [length - 1 for length in self.lengths]
        self.is_broken = bool(self._states)

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns that every buffer has; (0, 0) before the first pass."""
        sizes = [(keys.shape[0], keys.shape[2]) for keys, _ in self._buffers.values()]
        return (min(rows for rows, _ in sizes), min(columns for _, columns in sizes)) if sizes else (0, 0)

    def grow(self, rows: int, columns: int) -> None:
        """Grow the buffers to so many rows and columns at least; no pass does so before it must."""
        self._required = (rows, columns)
        for layer, (keys, values) in self._buffers.items():
            self._grow(layer, keys, values)

    def reserve(self, rows: int, columns: int, world: World) -> bool:
        """Grow the buffers for a pass to come; return False, on all ranks, where one of them has no memory for it.

        Ranks that share weights must all make a pass or none. One process finds out in the pass itself.
        """
        if world.size == 1:
            return True
        is_full = False
        try:
            self.grow(rows, columns)
        except torch.OutOfMemoryError:
            is_full = True
        return not world.any(is_full)

    def adopt(self, other: "KVCache") -> None:
        """Append the rows of another cache."""
        first, max_length = len(self.lengths), max(other.lengths)
        self._required = (first + len(other.lengths), max_length)
        for layer, (keys, values) in other._buffers.items():
            for mine, theirs in zip(self._grow(layer, keys, values), (keys, values), strict=True):
                mine[first : self._required[0], :, :max_length] = theirs[: len(other.lengths), :, :max_length]
        self._states.append(other._states, is_first=not first)
        self.lengths += other.lengths

    def free(self, row: int) -> None:
        """Free a row; the last one takes its index."""
        last = len(self.lengths) - 1
        length = self.lengths[last]
        if row != last:
            for keys, values in self._buffers.values():
                for buffer in (keys, values):
                    buffer[row, :, :length] = buffer[last, :, :length]
        self._states.free(row)
        self.lengths[row] = length
        self.lengths.pop()

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write a layer's keys and values (rows, kv heads, tokens, size), and return those that attention sees.

        The attention layers of transformers call it, and the methods below, by these names.
        """
        self._updates += 1
        buffers = self._grow(layer, key, value)
        for buffer, new in zip(buffers, (key, value), strict=True):
            buffer[self._write_rows, :, self._write_columns] = new.transpose(1, 2).flatten(0, 1).to(buffer.dtype)
        rows, columns = self._visible
        if not rows:
            return key, value
        keys, values = buffers
        return keys[:rows, :, :columns], values[:rows, :, :columns]

    def get_seq_length(self, *_: Any, **__: Any) -> int:
        """Return the columns before the present pass."""
        return self._seen[0]

    get_query_offset = get_seq_length

    def get_mask_sizes(self, *_: Any, **__: Any) -> tuple[int, int]:
        """Return how many columns attention sees in the present pass, and the first of them."""
        return self._seen[1], 0

    @property
    def layers(self) -> Any:
        """Return transformers' own objects with the states, by layer."""
        self._updates += 1
        return self._states.cache.layers

    def is_recording_past(self, *_: Any, **__: Any) -> bool:
        """Return False: no token is ever taken back."""
        return False

    def has_previous_state(self, *arguments: Any, **options: Any) -> bool:
        """Return True if a layer has a state from before."""
        return self._states.cache.has_previous_state(*arguments, **options)

    def get_conv_state(self, *arguments: Any, **options: Any) -> Tensor | None:
        """Return the last inputs of a layer's convolution, None at the start; some classes update them in place."""
        self._updates += 1
        return self._states.cache.get_conv_state(*arguments, **options)

    def get_recurrent_state(self, *arguments: Any, **options: Any) -> Tensor | None:
        """Return a layer's state, None at the start; some classes update it in place."""
        self._updates += 1
        return self._states.cache.get_recurrent_state(*arguments, **options)

    def update_conv_state(self, *arguments: Any, **options: Any) -> Tensor:
        """Append the inputs of a layer's convolution."""
        self._updates += 1
        return self._states.cache.update_conv_state(*arguments, **options)

    def update_recurrent_state(self, *arguments: Any, **options: Any) -> Tensor:
        """Set a layer's state."""
        self._updates += 1
        return self._states.cache.update_recurrent_state(*arguments, **options)

    def _set_write_positions(
        self, rows: list[int], columns: list[int], *, visible: tuple[int, int], required: tuple[int, int]
    ) -> None:
        """Set where the next pass writes its tokens, what its attention sees, and what the buffers must hold."""
        self._write_rows, self._write_columns = self._tensor([rows, columns])  # one copy to the device
        self._visible, self._required = visible, required

    def _forward(self, ids: Tensor, present: Pass, last: Tensor) -> Tensor:
        """Return the logits (rows, len(last), vocabulary) fp32 of one pass of `ids` at the tokens `last` of each row.

        The class's own forward pass makes them: it scales or caps them as it was trained to.
        """
        self._updates = 0
        options: dict[str, Any] = {"logits_to_keep": last} if "logits_to_keep" in self._parameters else {}
        if self.takes_positions:
            options["position_ids"] = present.positions

        def forward() -> Tensor:
            # Not by a call of the model, whose hooks under FSDP2 would shard the root again.
            with cached_attention(self._model, present):
                output = self._model.forward(input_ids=ids, use_cache=True, **{self._argument: self}, **options)
            logits: Tensor = output.logits if "logits_to_keep" in options else output.logits[:, last]
            return self._logits(logits)

        logits = with_unsharded_root(self._model, forward)
        if not self._updates:  # the reply would come from the last token alone
            raise _unused_cache_error(self._model)
        return logits

    @cached_property
    def _argument(self) -> str:
        """Name by which the forward pass takes this cache."""
        name = cache_argument(self._model)
        if name is None:
            raise _unused_cache_error(self._model)
        return name

    @cached_property
    def _parameters(self) -> frozenset[str]:
        """Names of the parameters of the forward pass."""
        return frozenset(signature(self._model.forward).parameters)

    @cached_property
    def takes_positions(self) -> bool:
        """Return False for a model that has no positions at all."""
        names = self._parameters | frozenset(signature(decoder(self._model).forward).parameters)
        return "position_ids" in names

    def _logits(self, logits: Tensor) -> Tensor:
        return logits.float()

    def _tensor(self, values: Sequence[Any] | Tensor) -> Tensor:
        return copy_to_device(torch.as_tensor(values), self._model.device)

    def _grow(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return a layer's buffers, grown to the required size; keys are kept in the values' dtype."""
        keys, values = self._buffers.get(layer, (key[:0], value[:0]))
        rows, columns = self._required
        if layer not in self._buffers or keys.shape[0] < rows or keys.shape[2] < columns:
            keys, values = _grown(keys, self._required, value), _grown(values, self._required, value)
            self._buffers[layer], self.layout = (keys, values), object()
        return keys, values


def _unused_cache_error(model: CausalLM) -> GenerationError:
    return GenerationError(
        f"transformers {version('transformers')}: {type(model).__name__} does not use the KV cache, so it cannot "
        "generate; install another release, as in pip install 'transformers==5.24.*'"
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
