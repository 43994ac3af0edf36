"""The tape of a layer: what its forward pass leaves for the backward one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LayerTape:
    """What the backward pass needs.  `hs`, `cs` (T+1, B, H) begin with h0 and c0; `gates` (T, B, 4H) hold i, f, g, o;
    `tanh_c` (T, B, H); `x` (T, B, I) is scaled and masked by the dropout, if there is one.
    """

    x: Tensor
    hs: Tensor
    cs: Tensor
    gates: Tensor
    tanh_c: Tensor

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """H, I, B, T."""
        steps, batch, inputs = self.x.shape
        return self.tanh_c.shape[2], inputs, batch, steps
