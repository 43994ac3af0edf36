"""Structured dropout: the same units for the whole batch, drawn anew at every time step, in tiles of R columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradsieve.training.methods.masks import expand_blocks


@dataclass(frozen=True)
class StructuredDropout:
    """Drops tiles of `columns` columns of x with probability `input` and of h_{t-1} with probability `hidden`.

    Sarma et al. 2021, case III: structured within the batch, randomised in time.  The tiles (so that the engine skips
    them) and this way to draw them are ours: each step keeps a number of tiles that is the nearest below or above
    (1 - p) * tiles, drawn so that each tile survives with probability exactly 1 - p; survivors are scaled by 1/(1 - p).
    Raises ValueError for a probability outside 0 to below 1 or a width below 1.
    """

    input: float = 0.0
    hidden: float = 0.0
    columns: int = 16

    def __post_init__(self) -> None:
        for name in ("input", "hidden"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and less than 1, got {getattr(self, name)!r}")
        if self.columns < 1:
            raise ValueError(f"columns must be at least 1, got {self.columns!r}")

    def draw(self, steps: int, I: int, H: int, generator: torch.Generator | None = None) -> ColumnMasks:
        """Which tiles to keep in each of `steps` time steps of a layer."""
        x, h = (_tiles(steps, -(-n // self.columns), p, generator) for n, p in ((I, self.input), (H, self.hidden)))
        return ColumnMasks(x, h, I, H, self.columns, 1 / (1 - self.input), 1 / (1 - self.hidden))


def _tiles(steps: int, tiles: int, p: float, generator: torch.Generator | None) -> Tensor | None:
    if p == 0:
        return None
    drawn: dict[str, Any] = (
        {} if generator is None else {"generator": generator}
    )  # torch.compile knows no generator that is None
    # Rounding the number of survivors at random makes the probability of each tile exactly 1 - p.
    count = torch.floor((1 - p) * tiles + torch.rand(steps, 1, dtype=torch.float64, **drawn))
    order = torch.rand(steps, tiles, **drawn).argsort(dim=1).argsort(dim=1)
    return order < count


@dataclass(frozen=True)
class ColumnMasks:
    """Kept tiles of a run: `x` (T, ceil(I/R)) and `h` (T, ceil(H/R)) bool, None for all; the scales of survivors."""

    x: Tensor | None
    h: Tensor | None
    I: int
    H: int
    columns: int
    x_scale: float
    h_scale: float

    def by_column(self, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        """The masks of single columns, (T, I) and (T, H) bool, on the device of those who use them."""
        x, h = (
            None if m is None else expand_blocks(m, self.columns, n).to(device)
            for m, n in ((self.x, self.I), (self.h, self.H))
        )
        return x, h

    def tiles(self) -> Tensor:
        """(T, x tiles + h tiles) bool, as `gradsieve.golden.types.Masks.column`."""
        steps = len(self.x if self.x is not None else self.h)  # type: ignore[arg-type]
        parts = [
            torch.ones(steps, -(-n // self.columns), dtype=torch.bool) if m is None else m
            for m, n in ((self.x, self.I), (self.h, self.H))
        ]
        return torch.cat(parts, dim=1)

    def steps(self, begin: int, end: int) -> ColumnMasks:
        """The masks of some of the time steps."""
        x, h = (None if m is None else m[begin:end] for m in (self.x, self.h))
        return ColumnMasks(x, h, self.I, self.H, self.columns, self.x_scale, self.h_scale)


def kept_columns(mask: Tensor) -> list[Tensor]:
    """The indices of the columns kept, by time step, of a mask (T, n)."""
    return [row.nonzero()[:, 0] for row in mask]


class ColumnDropout(nn.Module):
    """Structured dropout of a tensor (T, B, n) as a module, for what is not the input of an LSTM: its output, say.

    In training mode each time step keeps tiles of `columns` columns, drawn as `StructuredDropout` does, from PyTorch's
    own random numbers; survivors are scaled by 1/(1 - p).  Raises ValueError for a probability outside 0 to below 1 or
    a width below 1.
    """

    def __init__(self, p: float, columns: int = 16) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p must be at least 0 and less than 1, got {p!r}")
        StructuredDropout(columns=columns)  # checks them
        self.p, self.columns = p, columns

    def forward(self, x: Tensor) -> Tensor:
        """x (T, B, n), masked and scaled in training mode."""
        if not self.training or self.p == 0:
            return x
        tiles = _tiles(len(x), -(-x.shape[2] // self.columns), self.p, None)
        assert tiles is not None
        mask = expand_blocks(tiles, self.columns, x.shape[2])
        return x * (mask[:, None].to(x) / (1 - self.p))
