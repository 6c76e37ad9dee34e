"""AdamW in every memory tier: clipping and the refusal of bad gradients happen on the device."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from thinktune.config import MemoryTierName, TrainConfig
from thinktune.distributed import local_shard
from thinktune.distributed.sharding import as_shard_of, element_offset, shard_mesh
from thinktune.errors import UserError
from thinktune.optim.adamw import ParameterState, StepScalars, adamw_update, chunk_elements
from thinktune.optim.fused_update import FusedUpdate, can_update_fused
from thinktune.optim.memory_tiers import TIERS, MemoryTier, pick_memory_tier
from thinktune.optim.offload import StateOffloader, zero_blocks_on_host
from thinktune.optim.quantization import BlockFormat, BlockQuantized, Moment, join_master, random_keys, split_master


class Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) in one memory tier, after the backward pass or inside it.

    Clipping, and the refusal of a gradient that is not finite, happen on the device, with numbers that the host never
    waits for: no weight is ever updated with a bad number. Creating an optimizer converts the model's weights to the
    tier's format, and then calls `once_converted`, which may move them: from then on they stay where they are. `fused`
    says whether the update is one Triton kernel; None is where `can_update_fused`.

    Inside the backward pass, each weight is updated as soon as its gradient is complete, and the gradient is freed
    before the next one arrives. The step's true norm is not known by then, so gradients are clipped by the larger of
    two norms: that of the previous step, and that of this step's gradients so far. After a bad gradient the rest of the
    step updates nothing; what was updated before it stays. A step must be one backward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: TrainConfig,
        once_converted: Callable[[], object] | None = None,
        *,
        fused: bool | None = None,
    ) -> None:
        self.parameters = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        weights = [*self.parameters.values()]
        device = weights[0].device
        self.memory: MemoryTierName = pick_memory_tier(settings, device)
        self.in_backward = settings.update_in_backward
        self._settings, self._tier, self._device = settings, TIERS[self.memory], device
        remainders = [_convert_weight(weight, self._tier) for weight in weights]
        if once_converted:
            once_converted()
        self._mesh = shard_mesh(weights[0])
        if self._mesh:
            model._apply(_identity)  # pyright: ignore[reportPrivateUsage]  # makes FSDP2 use the converted weights
        shards = [local_shard(weight) for weight in self.parameters.values()]
        self._offloader = _make_offloader(self._tier, device, max(1, *(shard.numel() for shard in shards)))
        self._leaves: Sequence[Tensor] = ()
        self._fused_adamw: torch.optim.AdamW | None = None
        self._states: dict[str, ParameterState] = {}
        if self._tier.uses_fused_adamw and not self.in_backward:
            self._leaves = [nn.Parameter(shard) for shard in shards] if self._mesh else [*self.parameters.values()]
            self._fused_adamw = _make_fused_adamw(self._leaves, settings)
        if not self._fused_adamw:
            self._states = {
                name: _make_parameter_state(weight, remainder, self._tier, self._offloader)
                for (name, weight), remainder in zip(self.parameters.items(), remainders, strict=True)
            }
        # Python scalars would be rounded only once; double precision does the same for these tensors.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._step_counts = torch.zeros(len(self._states), dtype=dtype, device=device)
        self._learning_rate = torch.zeros((), dtype=dtype, device=device)
        self._random_keys = torch.empty(0)
        self._last_norm, self._squared_norm = (torch.zeros((), device=device) for _ in range(2))
        self._fused_update: FusedUpdate | None = None
        if self._states and (can_update_fused(device) if fused is None else fused):
            decays = [self._weight_decay(weight) for weight in weights]
            self._fused_update = FusedUpdate([*self._states.values()], decays, settings.betas, self._step_counts)
        if self.in_backward:
            for index, (name, weight) in enumerate(self.parameters.items()):
                weight.register_post_accumulate_grad_hook(partial(self._update_in_backward, index, name))

    def begin_step(self, step: int, learning_rate: float) -> None:
        """Prepare a step, before its first forward pass."""
        if self._fused_adamw:
            for group in self._fused_adamw.param_groups:
                group["lr"] = learning_rate
        if self._offloader:
            self._offloader.begin_step()
        self._learning_rate.fill_(learning_rate)
        if self._states:
            self._random_keys = random_keys(self._settings.seed, step, len(self._states), self._device)
        if self._fused_update:
            self._fused_update.begin_step(self._learning_rate, self._random_keys)
        self._squared_norm = torch.zeros_like(self._squared_norm)

    def finish_step(self) -> Tensor:
        """Update the weights after the last backward pass, free the gradients, and return the norm before clipping."""
        if self.in_backward:
            norm = self._squared_norm.sqrt()
            self._last_norm = torch.where(norm.isfinite(), norm, self._last_norm)
            return norm
        if self._fused_update:
            return self._update_all(self._fused_update)
        gradients = [local_shard(weight.grad) for weight in self.parameters.values() if weight.grad is not None]
        in_fp32 = self._tier.weights == torch.float32
        norm = self._norm_over_shards(nn.utils.get_total_norm(gradients) if in_fp32 else _total_norm(gradients))
        scale, bad = self._clip(norm)
        if self._fused_adamw:
            self._step_fused(self._fused_adamw, scale, bad)
            return norm
        for index, (name, weight) in enumerate(self.parameters.items()):
            self._update_parameter(index, name, weight, scale, bad)
        return norm

    def _update_all(self, fused: FusedUpdate) -> Tensor:
        """Update all weights by one launch, free the gradients, and return their norm."""
        gradients = [_contiguous_gradient(weight) for weight in self.parameters.values()]
        fused.set_gradients(gradients)
        norm = self._norm_over_shards(fused.squared_norm().sqrt())
        fused.update_all(*self._clip(norm))
        for weight in self.parameters.values():
            weight.grad = None
        return norm

    def _clip(self, norm: Tensor) -> tuple[Tensor, Tensor]:
        """Return what gradients of this norm are divided by, and whether one of them is not finite."""
        return (norm / self._settings.clip_norm).clamp(min=1.0), ~torch.isfinite(norm)

    def _norm_over_shards(self, norm: Tensor) -> Tensor:
        """Return the norm over all shards, given that of this rank's."""
        if self._mesh is None or self._mesh.size() == 1:
            return norm
        square = norm.square()
        dist.all_reduce(square, group=self._mesh.get_group())
        return square.sqrt()

    def _step_fused(self, adamw: torch.optim.AdamW, grad_scale: Tensor, found_inf: Tensor) -> None:
        """Update all weights by torch's fused AdamW."""
        for leaf, weight in zip(self._leaves, self.parameters.values(), strict=True):
            if leaf is not weight:
                leaf.grad, weight.grad = None if weight.grad is None else local_shard(weight.grad), None
        # What torch's GradScaler sets: gradients are divided by the one, and nothing changes where the other is 1.
        adamw.grad_scale, adamw.found_inf = grad_scale, found_inf.float()  # pyright: ignore[reportAttributeAccessIssue]
        adamw.step()
        adamw.zero_grad(set_to_none=True)

    def _update_in_backward(self, index: int, name: str, weight: Tensor) -> None:
        """Update a weight from its post-accumulate-grad hook, when its gradient is complete."""
        assert weight.grad is not None
        if self._fused_update:
            self._update_fused_in_backward(self._fused_update, index, weight)
            return
        norm = self._norm_over_shards(_total_norm([local_shard(weight.grad)]))
        self._squared_norm = self._squared_norm + norm.square()
        norm = torch.maximum(self._squared_norm.sqrt(), self._last_norm)
        self._update_parameter(index, name, weight, *self._clip(norm))

    def _update_fused_in_backward(self, fused: FusedUpdate, index: int, weight: Tensor) -> None:
        """Do the same by three launches: a layer's would need all its gradients at once, in memory and in the norm."""
        gradient = _contiguous_gradient(weight)
        assert gradient is not None
        sums = fused.partial_squares(index, gradient)
        if self._mesh and self._mesh.size() > 1:
            sums = sums.sum(0, keepdim=True)
            dist.all_reduce(sums, group=self._mesh.get_group())
        clipping = fused.clip(sums, self._squared_norm, self._last_norm, self._settings.clip_norm)
        fused.update(index, gradient, *clipping)
        weight.grad = None

    def _weight_decay(self, weight: Tensor) -> float:
        return self._settings.weight_decay if weight.ndim >= 2 else 0.0

    def _update_parameter(self, index: int, name: str, weight: Tensor, grad_scale: Tensor, found_inf: Tensor) -> None:
        if weight.grad is None:
            return
        decay = self._weight_decay(weight)
        count, betas = self._step_counts[index], self._settings.betas
        scalars = StepScalars(self._learning_rate, count, grad_scale, found_inf, betas, decay)
        with torch.no_grad():
            adamw_update(self._states[name], local_shard(weight.grad), scalars, self._random_keys[index])
            self._step_counts[index] += ~found_inf
        weight.grad = None

    def master_weight(self, name: str) -> Tensor:
        """Return a weight as it is kept: the fp32 master if there is one, sharded as the weight is."""
        weight = self.parameters[name]
        if not self._tier.remainder:
            return weight
        state = self._states[name]
        assert state.remainder is not None
        return as_shard_of(join_master(state.weight, state.remainder).view(local_shard(weight).shape), weight)

    def master_weights(self) -> dict[str, Tensor] | None:
        """Return the fp32 masters of unsharded weights on the CPU; None if the model's own weights are the masters.

        They are joined there: that takes 16 bytes an element, which a card on which an evaluation runs may not have.
        """
        if not self._tier.remainder:
            return None
        found: dict[str, Tensor] = {}
        for name, state in self._states.items():
            assert state.remainder is not None
            found[name] = join_master(state.weight.cpu(), state.remainder.cpu()).view(self.parameters[name].shape)
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """Return all state but the weights that a resumed run needs to continue exactly: named tensors, not copied.

        Where weights are sharded over ranks, so are these; the full tensors do not depend on the sharding.
        """
        if self._offloader:
            self._offloader.synchronize()
        found: dict[str, Tensor] = {}
        if self._fused_adamw:
            for (name, weight), leaf in zip(self.parameters.items(), self._leaves, strict=True):
                kept = self._fused_adamw.state[leaf]
                found |= {f"{name}/{key}": as_shard_of(kept[key], weight) for key in ("exp_avg", "exp_avg_sq")}
                found[f"{name}/step"] = kept["step"]
            return found
        found = {"counts": self._step_counts, "last_norm": self._last_norm}
        for name, state in self._states.items():
            for key, moment in (("first", state.first), ("second", state.second)):
                tensors = _moment_tensors(key, moment, self.parameters[name])
                found |= {f"{name}/{part}": tensor for part, tensor in tensors.items()}
        return found


def _make_fused_adamw(leaves: Sequence[Tensor], settings: TrainConfig) -> torch.optim.AdamW:
    """Make torch's own AdamW over fp32 weights, which updates all of them in one fused pass."""
    groups = [
        {"params": [leaf for leaf in leaves if leaf.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [leaf for leaf in leaves if leaf.ndim < 2], "weight_decay": 0.0},
    ]
    made = torch.optim.AdamW([group for group in groups if group["params"]], betas=settings.betas, fused=True)
    for leaf in leaves:  # as its first step would; so that a saved state has tensors to be read into
        step = torch.zeros((), device=leaf.device)
        made.state[leaf] = {"step": step, "exp_avg": torch.zeros_like(leaf), "exp_avg_sq": torch.zeros_like(leaf)}
    return made


def _contiguous_gradient(weight: Tensor) -> Tensor | None:
    """Return this rank's gradient of a weight, as the kernels read it; None if it has none."""
    if weight.grad is None:
        return None
    gradient = local_shard(weight.grad)
    assert gradient.dtype == weight.dtype
    return gradient.contiguous()


def _make_offloader(tier: MemoryTier, device: torch.device, largest: int) -> StateOffloader | None:
    """Make the offloader of a tier; its buffers hold a chunk, or the whole of the largest parameter if that is less."""
    if not (tier.offloaded and isinstance(tier.moments, BlockFormat)):
        return None
    return StateOffloader(device, min(largest, chunk_elements(device)), tier.moments)


def _identity(tensor: Tensor) -> Tensor:
    return tensor


def _convert_weight(weight: nn.Parameter, tier: MemoryTier) -> Tensor | None:
    """Convert a weight to the tier's dtype in place; return the flat remainder of an exact master."""
    kept, remainder = local_shard(weight.detach()), None
    if tier.remainder:
        kept, remainder = split_master(kept.float().contiguous())
        remainder = remainder.view(-1)
    else:
        kept = kept.to(tier.weights).contiguous()
    if shard_mesh(weight):
        torch.utils.swap_tensors(weight, nn.Parameter(as_shard_of(kept, weight)))
    else:
        weight.data = kept
    return remainder


def _make_parameter_state(
    weight: nn.Parameter, remainder: Tensor | None, tier: MemoryTier, offloader: StateOffloader | None
) -> ParameterState:
    """Make the state of a weight, its moments zero."""
    shard = local_shard(weight.detach())
    first, second = (_zero_moment(weight, shard, tier, signed=signed) for signed in (True, False))
    if not isinstance(first, BlockQuantized):
        offloader = None
    return ParameterState(shard.view(-1), remainder, first, second, offloader, element_offset(weight))


def _zero_moment(weight: Tensor, shard: Tensor, tier: MemoryTier, *, signed: bool) -> Moment:
    """Make a zero moment in the tier's format and place; raise UserError if a shard would cut its blocks."""
    size, moments = shard.numel(), tier.moments_of(weight.ndim)
    if isinstance(moments, torch.dtype):
        return torch.zeros(size, dtype=moments, device=shard.device)
    make = partial(zero_blocks_on_host, moments) if tier.offloaded else moments.zeros
    made = make(size, shard.device, signed=signed)
    if size < weight.numel() and not _rows_fill_blocks(made, weight):
        exact = next(name for name, other in TIERS.items() if other.remainder)
        raise UserError(
            f"train.strategy: shards weights over cards, and {moments.bits}-bit states need rows of whole blocks of "
            f"{made.block_size} numbers, but a row has {weight.shape[-1]}; set train.strategy: replicate, or "
            f"train.memory: {exact}"
        )
    return made


def _rows_fill_blocks(blocks: BlockQuantized, weight: Tensor) -> bool:
    return (weight.numel() // max(1, weight.shape[0])) % blocks.block_size == 0


def _moment_tensors(key: str, moment: Moment, weight: Tensor) -> dict[str, Tensor]:
    """Name the tensors of a moment, in the weight's rows; the codebook belongs to the code, not to the run's state."""
    shard = local_shard(weight.detach())
    if isinstance(moment, Tensor):
        return {key: as_shard_of(moment.view(shard.shape), weight)}
    codes, scales = moment.codes, moment.scales
    if _rows_fill_blocks(moment, weight):
        rows, blocks = shard.shape[0], weight.numel() // weight.shape[0] // moment.block_size
        codes = as_shard_of(codes.view(rows, blocks, -1), weight)
        scales = as_shard_of(scales.view(rows, blocks), weight)
    return {f"{key}_codes": codes, f"{key}_scales": scales}


def _total_norm(gradients: list[Tensor]) -> Tensor:
    """Compute the norm of all gradients, summed in fp32: bf16 would keep three digits of it."""
    return torch.stack([torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]).norm()
