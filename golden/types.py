"""What a run takes and returns, forward or backward: the golden model and every device speak these types.

All tensors hold integers in the formats of the engine's config, time first: T steps, B batch lanes, H hidden units,
I inputs; gate rows k = gate * H + unit in the order i, f, g, o, as `torch.nn.LSTM`.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from gradsieve.hw.config import RANDOM_SEED, SieveMode


@dataclass(frozen=True)
class Sieve:
    """The sieve's run-time settings.

    `tau` is unsigned, in gradient LSBs, below 2**width of the gradient format; `random` is the xorshift32 state
    before the run, never zero.
    """

    mode: SieveMode = SieveMode.DENSE
    tau: int = 0
    random: int = RANDOM_SEED


@dataclass(frozen=True)
class Weights:
    """`w_ih` (4H, I) and `w_hh` (4H, H), weight format; `bias` (4H), bias format, which only a forward run takes."""

    w_ih: Tensor
    w_hh: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True)
class Inputs:
    """What a forward run reads: `x` (T, B, I), input format, and the state before the first step, zeros where None.

    `h0` (B, H), input format; `c0` (B, H), cell format.
    """

    x: Tensor
    h0: Tensor | None = None
    c0: Tensor | None = None


@dataclass(frozen=True)
class Tape:
    """What the forward pass leaves for the backward pass, and the gradients from above.

    (T, B, H): `i`, `f`, `g`, `o`, `tanh_c` (activation format), `c_prev` = c_{t-1} (cell format), `h_prev` = h_{t-1}
    (input format), `dy` (gradient format).  (T, B, I): `x` (input format).  (B, H): the seeds `dh`, `dc` = gradients
    of the state after the last step (gradient format).
    """

    x: Tensor
    h_prev: Tensor
    i: Tensor
    f: Tensor
    g: Tensor
    o: Tensor
    tanh_c: Tensor
    c_prev: Tensor
    dy: Tensor
    dh: Tensor
    dc: Tensor

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """H, I, B, T."""
        steps, batch, inputs = self.x.shape
        return self.i.shape[2], inputs, batch, steps


@dataclass(frozen=True)
class Masks:
    """Bitmaps from the host; None keeps everything.

    `block` (4H, tiles) bool: weight blocks of one gate row by R columns.  `column` (T, tiles) bool: tiles of R columns
    of x and h per step.  tiles = ceil(I/R) of x, then ceil(H/R) of h.
    """

    block: Tensor | None = None
    column: Tensor | None = None


@dataclass(frozen=True)
class Saturations:
    """Values that left their format's range, by where; padding never counts.

    `gate`: the `gradient`-format results of the gate gradient arithmetic (every bracket of the contract counts once
    an element: dh, e, [e*s], dct, ho, ig, fc, gi, the four dz, dc).  `factor`: the `activation`-format ones (s, qo,
    qi, qf, qg).  `sieve`: elements of surviving rows that the stochastic shift saturated.  `error`: dx and dh_rec.
    """

    gate: int = 0
    factor: int = 0
    sieve: int = 0
    error: int = 0


class Result:
    """What a run returns, field by field comparable with what another device returns for the same run."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def differences(self, other: Self) -> dict[str, int]:
        """How many elements of each field differ from `other` (a wrong shape counts as all of them)."""
        out = {}
        for name in self.__dataclass_fields__:
            a, b = getattr(self, name), getattr(other, name)
            if not isinstance(a, Tensor):
                out[name] = int(a != b)
            elif a.shape != b.shape:
                out[name] = max(a.numel(), b.numel(), 1)
            else:
                out[name] = int(torch.count_nonzero(a.long() != b.long()))
        return out

    def mismatches(self, other: Self) -> int:
        """The sum of `differences`: 0 means equal to the last bit."""
        return sum(self.differences(other).values())


@dataclass(frozen=True)
class Gradients(Result):
    """The result of one backward run.

    `dx` (T, B, I), `dh0`, `dc0` (B, H): gradients of x and of the state before the first step, gradient format.
    `dw_ih` (4H, I), `dw_hh` (4H, H): weight_grad format, exact; `db` (4H): bias_grad format, exact.
    `rows_kept` (T, batch_tiles, 4H) bool: rows that the sieve let through (host masks not counted).
    `elements_kept` (T, batch_tiles, 4) int64: elements of the sieved dz' that are not zero, by gate.
    `indices`: row indices streamed by both dataflows = 2 * sum of row_kept & block_kept & column_kept over steps,
    batch tiles and column tiles.  `macs`: useful multiply-accumulates = the same sum, each index counted by the columns
    of its tile (R, less in the last tile of x and of h) times the lanes of its batch tile that hold a sample.
    `random`: the xorshift32 state after the run.
    """

    dx: Tensor
    dh0: Tensor
    dc0: Tensor
    dw_ih: Tensor
    dw_hh: Tensor
    db: Tensor
    rows_kept: Tensor
    elements_kept: Tensor
    indices: int
    macs: int
    random: int
    saturations: Saturations = field(default_factory=Saturations)


@dataclass(frozen=True)
class ForwardSaturations:
    """Values of a forward run that left their format's range, by where; padding never counts.

    `z`: sums in the preactivation format; `c`: cell states; `h`: outputs.  What S and T cap is no saturation.
    """

    z: int = 0
    c: int = 0
    h: int = 0


@dataclass(frozen=True)
class Outputs(Result):
    """The result of one forward run, with what the backward run needs of it.

    (T, B, H): `y` = h_t and `h_prev` = h_{t-1} (input format), `i`, `f`, `g`, `o`, `tanh_c` (activation format),
    `c_prev` = c_{t-1} (cell format).  (B, H): `c_n`, the cell state after the last step (cell format); h after it is
    `y[-1]`.  `indices`: row indices streamed = sum of block_kept & column_kept over steps, batch tiles, gate rows and
    column tiles.  `macs`: useful multiply-accumulates, each index counted by the columns of its tile times the lanes of
    its batch tile that hold a sample.
    """

    y: Tensor
    h_prev: Tensor
    i: Tensor
    f: Tensor
    g: Tensor
    o: Tensor
    tanh_c: Tensor
    c_prev: Tensor
    c_n: Tensor
    indices: int
    macs: int
    saturations: ForwardSaturations = field(default_factory=ForwardSaturations)

    def tape(self, x: Tensor, dy: Tensor, dh: Tensor | None = None, dc: Tensor | None = None) -> Tape:
        """The tape of a backward run with these gradients from above; `dh` and `dc` are zeros where None."""
        zeros = torch.zeros_like(self.c_n)
        return Tape(
            x=x, h_prev=self.h_prev, i=self.i, f=self.f, g=self.g, o=self.o, tanh_c=self.tanh_c, c_prev=self.c_prev,
            dy=dy, dh=zeros if dh is None else dh, dc=zeros if dc is None else dc,
        )  # fmt: skip
