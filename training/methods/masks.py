"""Weight masks of an LSTM: which weights exist, in blocks of one gate row by R columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


def expand_blocks(mask: Tensor, columns: int, width: int) -> Tensor:
    """A mask of tiles of `columns` columns, (rows, ceil(width / columns)), to one of single columns, (rows, width)."""
    return mask if columns == 1 else mask.repeat_interleave(columns, dim=1)[:, :width]


@dataclass
class WeightMasks:
    """`masks`: by the name of the weight (`weight_ih_l0`, ...), bool (4H, ceil(n / columns)); others are whole.

    `columns` = R, as the engine's: the last block of a row may be narrower.  1 is unstructured, which the engines do
    not skip.  Weights outside the masks count as zero and get no gradient.
    """

    columns: int
    masks: Mapping[str, Tensor]
    _expanded: dict[str, tuple[Any, Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def apply(self, name: str, weight: Tensor) -> Tensor:
        """The weight with the blocks that do not exist at zero.  Raises ValueError for a mask of another shape."""
        mask = self.masks.get(name)
        if mask is None:
            return weight
        rows, width = weight.shape
        expected = (rows, -(-width // self.columns))
        if mask.dtype != torch.bool or tuple(mask.shape) != expected:
            raise ValueError(
                f"mask of {name} must be torch.bool of shape {expected} (blocks of {self.columns} columns), "
                f"got {mask.dtype} of shape {tuple(mask.shape)}"
            )
        if torch.is_inference_mode_enabled() or mask.is_inference():  # such tensors cannot be kept for training
            return weight * expand_blocks(mask, self.columns, width).to(weight, copy=True)
        known, key = self._expanded.get(name), (mask._version, weight.dtype, weight.device)
        if known is None or known[0] != key or known[1] is not mask:
            known = self._expanded[name] = (key, mask, expand_blocks(mask, self.columns, width).to(weight))
        return weight * known[2]

    def blocks(self, layer: str, rows: int, widths: tuple[int, int]) -> Tensor:
        """The bitmap of a layer as in `gradsieve.golden.types.Masks.block`: (4H, tiles of x, then of h) bool."""
        parts = []
        for kind, width in zip(("ih", "hh"), widths, strict=True):
            mask = self.masks.get(f"weight_{kind}_{layer}")
            parts.append(torch.ones(rows, -(-width // self.columns), dtype=torch.bool) if mask is None else mask.cpu())
        return torch.cat(parts, dim=1)


def kept_units(masks: Sequence[Tensor], n: int, layers: Sequence[str], hidden_size: int) -> Tensor:
    """The hidden units of layer n that a mask of each layer, (H,) bool, keeps, as indices.

    Raises ValueError unless there is a mask of each layer, and the n-th is one that keeps a unit.
    """
    if len(masks) != len(layers):
        raise ValueError(f"unit_masks must hold a mask for each of {layers}, got {len(masks)}")
    mask = masks[n]
    if mask.dtype != torch.bool or tuple(mask.shape) != (hidden_size,) or not bool(mask.any()):
        raise ValueError(
            f"unit_masks[{n}] must be torch.bool of shape ({hidden_size},) with at least one unit, "
            f"got {mask.dtype} of shape {tuple(mask.shape)} with {int(mask.sum())} units"
        )
    return mask.nonzero()[:, 0]
