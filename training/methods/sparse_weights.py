"""Dynamic sparse training of LSTM weights: masks that move, a budget that does not (Liu et al. 2021, Selfish-RNN).

A weight is (4H, n), its gates stacked in the order i, f, g, o.  A mask is made of blocks of one gate row by R columns,
so that the engine skips what is masked; R = 1 is the paper's unstructured mask.  From time to time the blocks of the
smallest magnitude are removed and as many are grown at random.  Both look at the four gates together, so density moves
between them while the total stays: the paper's cell gate redistribution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from gradsieve.training.methods.masks import expand_blocks

Distribution = Literal["uniform", "er"]
"""How the budget is spread over the weights: the same density for each, or by Erdős-Rényi."""


@dataclass(frozen=True)
class MaskUpdate:
    """What one update of the masks did, by weight.

    `rate` is the share of the blocks that was removed, `blocks` how many blocks that were, and as many were grown.
    `removed` and `grown` are bool, of the weight's shape.  A block that was removed and grown again is in both: it
    starts at zero like every grown one, so an optimiser's state of the weights in `grown` has to be reset.
    """

    rate: float
    blocks: dict[str, int]
    removed: dict[str, Tensor]
    grown: dict[str, Tensor]


class DynamicSparseTraining:
    """Block masks over named weights: magnitude removal, random growth, a rate that decays (Liu et al. 2021).

    `masks` holds, by name, a bool tensor (4H, ceil(n/R)) on the weight's device: True is kept.  The last block of a
    row is narrower where R does not divide n.  A new object has drawn its masks and touched no weight: `apply_` does.

    The paper's code draws the first masks by Bernoulli trials and grows an expected number of weights.  Here both
    counts are exact, ours, so that the budget is: round(density * blocks) of each weight for `uniform`; for `er`,
    round(density * blocks of all weights) shared in proportion to Erdős-Rényi's (rows + columns) / (rows * columns) a
    block; a weight that would need more than all its blocks is dense, and the others share the rest (ours).
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        density: float,
        columns: int,
        *,
        steps: int,
        death_rate: float = 0.8,
        final_death_rate: float = 0.005,
        distribution: Distribution = "uniform",
        seed: int = 0,
    ) -> None:
        """Draw the masks.  `columns` is R, `steps` the length of the cosine decay of the removal rate.

        Raises ValueError for settings out of range, for weights that are not floating-point matrices of 4H rows, and
        for a density that leaves a weight without a block.
        """
        if not 0 < density <= 1:
            raise ValueError(f"density must be greater than 0 and at most 1, got {density}")
        for name, value in (("columns", columns), ("steps", steps)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= final_death_rate <= death_rate <= 1:
            raise ValueError(
                "death_rate and final_death_rate must be 0 <= final_death_rate <= death_rate <= 1, "
                f"got {death_rate} and {final_death_rate}"
            )
        if distribution not in get_args(Distribution):
            raise ValueError(f"distribution must be {' or '.join(get_args(Distribution))}, got {distribution!r}")
        _check_weights(weights)
        self.columns = columns
        self.steps = steps
        self.death_rate = death_rate
        self.final_death_rate = final_death_rate
        self._weights = dict(weights)
        self._kept = self._budget(density, distribution)
        self._generator = torch.Generator().manual_seed(seed)
        self.masks: dict[str, Tensor] = {}
        for name, weight in self._weights.items():
            rows, tiles = self._grid(weight)
            mask = torch.zeros(rows * tiles, dtype=torch.bool, device=weight.device)
            mask[self._choose(torch.arange(len(mask), device=weight.device), self._kept[name])] = True
            self.masks[name] = mask.view(rows, tiles)

    def rate(self, step: int) -> float:
        """Share of the kept blocks that an update at `step` removes.

        A cosine from `death_rate` at step 0 to `final_death_rate` at step `steps`, where it stays.
        """
        if step < 0:
            raise ValueError(f"step must be at least 0, got {step}")
        progress = min(step / self.steps, 1.0)
        span = self.death_rate - self.final_death_rate
        return self.final_death_rate + span * (1 + math.cos(math.pi * progress)) / 2

    def expand(self, name: str) -> Tensor:
        """The mask of one weight, bool, of the weight's shape (4H, n)."""
        return expand_blocks(self.masks[name], self.columns, self._weights[name].shape[1])

    @torch.no_grad()
    def apply_(self) -> None:
        """Set the masked elements of every weight to zero, in place; to be called after each optimiser step."""
        for name, weight in self._weights.items():
            weight.masked_fill_(~self.expand(name), 0)

    @torch.no_grad()
    def update_(self, step: int) -> MaskUpdate:
        """Remove and grow once; the paper does so once an epoch.  Masked and grown weights are zero afterwards.

        Of each weight, ceil(rate * kept) blocks go: those of the smallest mean |w| (ours; the paper's |w| at R = 1),
        lower index first among equals.  Then blocks drawn uniformly from all that are off, the removed ones included,
        restore the first count.  A weight without a masked block is left alone (ours): growth could only zero what was
        removed.

        Raises ValueError, and changes nothing, for a negative step or a weight that is not finite.
        """
        rate = self.rate(step)
        for name, weight in self._weights.items():
            if not weight.isfinite().all():
                bad = weight[~weight.isfinite()]
                raise ValueError(f"{name} must be finite, got {bad[0].item()} (values that are not finite: {len(bad)})")
        result = MaskUpdate(rate, {}, {}, {})
        for name, weight in self._weights.items():
            # A new tensor: masks that were handed out before must not change.
            mask = self.masks[name].flatten().clone()
            kept = mask.nonzero().flatten()
            count = 0 if len(kept) == len(mask) else math.ceil(rate * len(kept))
            scores = block_magnitudes(weight, self.columns).flatten()[kept]
            removed, grown = torch.zeros_like(mask), torch.zeros_like(mask)
            removed[kept[scores.argsort(stable=True)[:count]]] = True
            mask &= ~removed
            grown[self._choose((~mask).nonzero().flatten(), self._kept[name] - int(mask.sum()))] = True
            mask |= grown
            grid = self.masks[name].shape
            self.masks[name] = mask.view(grid)
            result.blocks[name] = count
            result.removed[name] = expand_blocks(removed.view(grid), self.columns, weight.shape[1])
            result.grown[name] = expand_blocks(grown.view(grid), self.columns, weight.shape[1])
            weight.masked_fill_(result.grown[name], 0)
        self.apply_()
        return result

    def density_by_gate(self) -> dict[str, tuple[float, float, float, float]]:
        """Share of the blocks kept in gates i, f, g and o, by weight."""
        out = {}
        for name, mask in self.masks.items():
            i, f, g, o = mask.view(4, -1).double().mean(1).tolist()
            out[name] = (i, f, g, o)
        return out

    def state_dict(self) -> dict[str, Any]:
        """A copy of the masks and the state of the random numbers; the weights are the caller's to save."""
        masks = {name: mask.clone() for name, mask in self.masks.items()}
        return {"masks": masks, "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` of an object with the same settings returned: training goes on as it would have.

        Raises ValueError, and changes nothing, for anything else.
        """
        check_keys(state, ("masks", "generator"), "state")
        check_keys(state["masks"], tuple(self._weights), "state['masks']")
        for name, mask in state["masks"].items():
            check_mask(mask, tuple(self.masks[name].shape), f"state['masks'][{name!r}]")
            if int(mask.sum()) != self._kept[name]:
                raise ValueError(f"state['masks'][{name!r}] must keep {self._kept[name]} blocks, got {int(mask.sum())}")
        self._generator = restored_generator(state["generator"])
        # In the order of the weights: it decides which weight draws which random numbers.
        self.masks = {name: state["masks"][name].to(w.device, copy=True) for name, w in self._weights.items()}

    def _grid(self, weight: Tensor) -> tuple[int, int]:
        return weight.shape[0], -(-weight.shape[1] // self.columns)

    def _choose(self, candidates: Tensor, count: int) -> Tensor:
        # The order is drawn on the CPU, so that the masks do not depend on the device.
        order = torch.randperm(len(candidates), generator=self._generator)[:count]
        return candidates[order.to(candidates.device)]

    def _budget(self, density: float, distribution: Distribution) -> dict[str, int]:
        shapes = [(weight.shape[0], weight.shape[1]) for weight in self._weights.values()]
        blocks = [math.prod(self._grid(weight)) for weight in self._weights.values()]
        if distribution == "uniform":
            counts = [round(density * n) for n in blocks]
        else:
            counts = _erdos_renyi(shapes, blocks, round(density * sum(blocks)))
        for name, count, n in zip(self._weights, counts, blocks, strict=True):
            if count == 0:
                raise ValueError(
                    f"density must keep a block of every weight, got {density}: none of the {n} blocks of {name}"
                )
        return dict(zip(self._weights, counts, strict=True))


def block_magnitudes(weight: Tensor, columns: int) -> Tensor:
    """Mean |w| of the blocks of one row by `columns` columns, (rows, ceil(n / columns)); padding does not count."""
    rows, width = weight.shape
    tiles = -(-width // columns)
    padded = torch.nn.functional.pad(weight.detach().abs(), (0, tiles * columns - width))
    widths = torch.full((tiles,), columns, dtype=weight.dtype, device=weight.device)
    widths[-1] = width - columns * (tiles - 1)
    return padded.view(rows, tiles, columns).sum(2) / widths


def check_keys(state: Any, names: Sequence[str], what: str) -> None:
    """Raise ValueError, naming `what`, unless `state` is a mapping with exactly these keys."""
    if not isinstance(state, Mapping):
        raise ValueError(f"{what} must be a mapping with {', '.join(names)}; got {kind_of(state)}")
    if set(state) != set(names):
        raise ValueError(f"{what} must hold {', '.join(names)}; got {', '.join(map(str, state)) or 'nothing'}")


def check_mask(mask: Any, shape: tuple[int, ...], what: str) -> None:
    """Raise ValueError, naming `what`, unless `mask` is a bool tensor of this shape."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or tuple(mask.shape) != shape:
        raise ValueError(f"{what} must be torch.bool of shape {shape}, got {kind_of(mask)}")


def kind_of(value: Any) -> str:
    """A value in the words of an error message: dtype and shape of a tensor, the type of anything else."""
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def restored_generator(state: Any) -> torch.Generator:
    """A CPU generator in the state that `Generator.get_state` returned.  Raises ValueError for anything else."""
    try:
        return torch.Generator().set_state(state)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"state['generator'] must be the state of a CPU generator ({error})") from error


def _check_weights(weights: Mapping[str, Tensor]) -> None:
    if not weights:
        raise ValueError("weights must hold at least one weight, got none")
    for name, weight in weights.items():
        if weight.ndim != 2 or weight.numel() == 0 or weight.shape[0] % 4:
            raise ValueError(f"{name} must have shape (4H, n), got {tuple(weight.shape)}")
        if not weight.is_floating_point():
            raise ValueError(f"{name} must have a floating-point dtype, got {weight.dtype}")


def _erdos_renyi(shapes: Sequence[tuple[int, int]], blocks: Sequence[int], total: int) -> list[int]:
    scale = [(rows + columns) / (rows * columns) for rows, columns in shapes]
    dense: set[int] = set()
    shares = [float(n) for n in blocks]
    while len(dense) < len(blocks):
        others = [k for k in range(len(blocks)) if k not in dense]
        factor = (total - sum(blocks[k] for k in dense)) / sum(scale[k] * blocks[k] for k in others)
        for k in others:
            shares[k] = min(factor * scale[k], 1.0) * blocks[k]
        full = {k for k in others if factor * scale[k] > 1}
        if not full:
            break
        dense |= full
    counts = [math.floor(share) for share in shares]
    # Largest remainder first, so that the whole blocks add up to the budget.
    by_remainder = sorted(range(len(blocks)), key=lambda k: counts[k] - shares[k])
    for k in [k for k in by_remainder if counts[k] < blocks[k]][: total - sum(counts)]:
        counts[k] += 1
    return counts
