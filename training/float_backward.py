"""The float engine's backward pass: gate gradients, sieve, and GEMMs over the surviving rows or columns only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from golden.types import SieveMode
from training.forward import LayerTape, compaction_pays
from training.sieves import Sifted, sift
from training.structured_dropout import ColumnMasks, kept_columns


@dataclass(frozen=True)
class Upstream:
    """Gradients that reach the layer: `dy` (T, B, H), and `dh`, `dc` (B, H) of the state after the last step."""

    dy: Tensor
    dh: Tensor
    dc: Tensor


@dataclass(frozen=True)
class LayerGradients:
    """`dx` (T, B, I; None if nobody needs it), `dh0`, `dc0` (B, H), `dw_ih` (4H, I), `dw_hh` (4H, H), `db` (4H).

    dx is the gradient of the tape's x: what the dropout did to it is not undone.
    """

    dx: Tensor | None
    dh0: Tensor
    dc0: Tensor
    dw_ih: Tensor
    dw_hh: Tensor
    db: Tensor


@dataclass(frozen=True)
class Kept:
    """What the sieve kept: `rows` (T, batch_tiles, 4H) bool, and elements of dz' that are not zero."""

    rows: Tensor
    elements: int


class Workspace:
    """Buffers that live from pass to pass: fresh memory costs as much as the arithmetic on it."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def get(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """An uninitialised buffer of this shape; the one of the last call with this name if it fits."""
        size = torch.Size(shape).numel()
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < size or buffer.dtype != like.dtype or buffer.device != like.device:
            buffer = self._buffers[name] = like.new_empty(size)
        return buffer[:size].view(shape)

    def __deepcopy__(self, memo: dict[int, Any]) -> Workspace:
        return Workspace()

    def __reduce__(self) -> tuple[type[Workspace], tuple[()]]:
        return Workspace, ()


@dataclass
class _Factors:
    """Derivative factors of the whole tape.

    dct = dc + dh * `cell`; dz of gates i, f, g = dct * `gates[:, :, :3]`, dz_o = dh * `gates[:, :, 3]`.
    """

    gates: Tensor
    cell: Tensor


def _factors(tape: LayerTape, work: Workspace) -> _Factors:
    H, _, B, T = tape.sizes
    i, f, g, o = tape.gates.view(T, B, 4, H).unbind(2)
    gates = work.get("factors", (T, B, 4, H), tape.gates)
    cell, one = work.get("cell", (T, B, H), i), work.get("one", (T, B, H), i)
    for n, (a, times) in enumerate(((i, g), (f, tape.cs[:-1]), (None, i), (o, tape.tanh_c))):
        if a is None:  # i (1 - g^2)
            torch.mul(g, g, out=one)
            torch.sub(times, one.mul_(times), out=gates[:, :, n])
        else:  # a (1 - a) times
            torch.mul(a, a, out=one)
            torch.mul(torch.sub(a, one, out=one), times, out=gates[:, :, n])
    torch.mul(tape.tanh_c, tape.tanh_c, out=one)
    torch.sub(o, one.mul_(o), out=cell)
    return _Factors(gates, cell)


@dataclass
class FloatBackward:
    """One backward pass; `run` gives the gradients and what was kept.

    `w_ih` and `w_hh` are the effective weights (masks applied; w_hh without the dropout's scale).  `lanes` is the width
    of a batch tile.  Where a step keeps too many rows for compaction to pay, its GEMMs are over all of them.
    """

    tape: LayerTape
    upstream: Upstream
    w_ih: Tensor
    w_hh: Tensor
    mode: SieveMode
    tau: float
    lanes: int
    columns: ColumnMasks | None
    generator: torch.Generator | None
    workspace: Workspace
    need_dx: bool = True
    dense_steps: list[int] = field(default_factory=list)

    def run(self) -> tuple[LayerGradients, Kept]:
        """Raises nothing of its own: shapes were checked where the tape was made."""
        H, I, B, T = self.tape.sizes
        like = self.upstream.dy
        self.x_mask, self.h_mask = self.columns.by_column() if self.columns is not None else (None, None)
        if self.h_mask is not None:
            assert self.columns is not None
            self.w_hh = self.w_hh * self.columns.h_scale
        self.dx = like.new_empty(T, B, I) if self.need_dx else None
        self.dw_ih, self.dw_hh = like.new_zeros(4 * H, I), like.new_zeros(4 * H, H)
        self.db = like.new_zeros(4 * H)
        self.dz = self.workspace.get("dz", (T, B, 4 * H), like)
        self.by_columns = self._columns_pay(B)
        if self.by_columns:
            self.x_kept, self.h_kept = (None if m is None else kept_columns(m) for m in (self.x_mask, self.h_mask))
            self.w_ih_t, self.w_hh_t = self.w_ih.t().contiguous(), self.w_hh.t().contiguous()
            self.dw_ih_t, self.dw_hh_t = like.new_zeros(I, 4 * H), like.new_zeros(H, 4 * H)
        lanes = min(self.lanes, B)
        rows = torch.ones(T, -(-B // lanes), 4 * H, dtype=torch.bool, device=like.device)
        elements = self._steps(lanes, rows)
        self._finish()
        if self.h_mask is not None:
            assert self.columns is not None
            self.dw_hh.mul_(self.columns.h_scale)
        gradients = LayerGradients(self.dx, self.dh, self.dc, self.dw_ih, self.dw_hh, self.db)
        return gradients, Kept(rows, int(elements))

    def _columns_pay(self, B: int) -> bool:
        masks = [m.double().mean() for m in (self.x_mask, self.h_mask) if m is not None]
        return bool(masks) and compaction_pays(float(min(masks)), B)

    def _steps(self, lanes: int, rows: Tensor) -> int | Tensor:
        H, _, B, T = self.tape.sizes
        factors = _factors(self.tape, self.workspace)
        f = self.tape.gates[:, :, H : 2 * H]
        self.dh, self.dc = self.upstream.dh, self.upstream.dc.clone()
        elements: int | Tensor = 0
        draws = None
        if self.mode == SieveMode.STOCHASTIC:
            like = self.tape.gates
            draws = torch.rand(rows.shape, generator=self.generator, dtype=like.dtype).to(like.device)
        for t in reversed(range(T)):
            dh = self.dh + self.upstream.dy[t]
            self.dc.addcmul_(dh, factors.cell[t])
            dz = self.dz[t]
            gates = dz.view(B, 4, H)
            torch.mul(self.dc[:, None], factors.gates[t, :, :3], out=gates[:, :3])
            torch.mul(dh, factors.gates[t, :, 3], out=gates[:, 3])
            self.dc.mul_(f[t])
            if self.mode == SieveMode.DENSE:
                self._dense(t)
                continue
            sifted = sift(self.mode, self.tau, dz, lanes, None if draws is None else draws[t])
            rows[t] = sifted.rows
            elements += self._sieved(t, sifted)
        return self.dz.numel() if self.mode == SieveMode.DENSE else elements

    def _sieved(self, t: int, sifted: Sifted) -> Tensor:
        """Go on from the sieved gate gradients of step t; returns the elements of dz' that are not zero."""
        dz, B, factor = self.dz[t], self.dz.shape[1], sifted.factor
        union = sifted.rows[0] if len(sifted.rows) == 1 else sifted.rows.any(dim=0)
        kept = union.nonzero()[:, 0]
        if compaction_pays(len(kept) / len(union), B) and not self.by_columns:
            small = dz.index_select(1, kept)
            if factor is not None and self.mode == SieveMode.STOCHASTIC:
                small *= factor[:, kept]
            self._rows(t, small, kept)
            return torch.count_nonzero(small)
        if factor is not None:
            dz *= factor
        self._dense(t)
        return torch.count_nonzero(dz)

    def _rows(self, t: int, dz: Tensor, kept: Tensor) -> None:
        """The GEMMs of step t over the rows `kept`; `dz` (B, rows)."""
        K = len(kept)
        for name, w, dw, operand in (
            ("ih", self.w_ih, self.dw_ih, self.tape.x[t]),
            ("hh", self.w_hh, self.dw_hh, self._h_read(t)),
        ):
            if name == "hh" or self.dx is not None:
                some = self.workspace.get(f"w_{name}", (K, w.shape[1]), w)
                torch.index_select(w, 0, kept, out=some)
                if name == "ih":
                    torch.mm(dz, some, out=self.dx[t])  # type: ignore[index]
                else:
                    self.dh = torch.mm(dz, some)
            part = self.workspace.get(f"dw_{name}", (K, w.shape[1]), w)
            dw.index_add_(0, kept, torch.mm(dz.t(), operand, out=part))
        self._mask(t)
        self.db.index_add_(0, kept, dz.sum(dim=0))

    def _dense(self, t: int) -> None:
        """dh of step t by all rows; dx and dW wait for the end, where one GEMM does all such steps.

        With column masks whose compaction pays, they are done here, over the columns kept.
        """
        dz = self.dz[t]
        if not self.by_columns:
            self.dense_steps.append(t)
            self.dh = dz @ self.w_hh
            if self.h_mask is not None:
                self.dh *= self.h_mask[t]
            return
        B = len(dz)
        if self.dx is not None:
            self._column_error(dz, self.w_ih_t, self.x_kept, t, self.dx[t])
        self.dh = dz.new_empty(B, len(self.w_hh_t))
        self._column_error(dz, self.w_hh_t, self.h_kept, t, self.dh)
        for dw_t, kept, operand in (
            (self.dw_ih_t, self.x_kept, self.tape.x[t]),
            (self.dw_hh_t, self.h_kept, self.tape.hs[t]),
        ):
            if kept is None:
                dw_t.addmm_(operand.t(), dz)
            else:
                dw_t.index_add_(0, kept[t], operand.index_select(1, kept[t]).t() @ dz)
        self.db += dz.sum(dim=0)

    @staticmethod
    def _column_error(dz: Tensor, w_t: Tensor, kept: list[Tensor] | None, t: int, out: Tensor) -> None:
        if kept is None:
            torch.mm(dz, w_t.t(), out=out)
        else:
            out.zero_().index_copy_(1, kept[t], dz @ w_t.index_select(0, kept[t]).t())

    def _h_read(self, t: int) -> Tensor:
        """h_{t-1} as step t read it, without the dropout's scale."""
        h = self.tape.hs[t]
        return h if self.h_mask is None else h * self.h_mask[t]

    def _mask(self, t: int) -> None:
        """Columns that the dropout dropped get no gradient."""
        if self.x_mask is not None and self.dx is not None:
            self.dx[t] *= self.x_mask[t]
        if self.h_mask is not None:
            self.dh *= self.h_mask[t]

    def _finish(self) -> None:
        """dx, dW and db of the steps that used all rows."""
        if self.by_columns:
            self.dw_ih, self.dw_hh = self.dw_ih_t.t().contiguous(), self.dw_hh_t.t().contiguous()
            return
        H, I, B, T = self.tape.sizes
        if not self.dense_steps:
            return
        every = len(self.dense_steps) == T
        pick = slice(None) if every else torch.tensor(self.dense_steps[::-1], device=self.dz.device)
        dz = self.dz[pick].view(-1, 4 * H)
        x, h = self.tape.x[pick].reshape(-1, I), self.tape.hs[:-1]
        if self.h_mask is not None:
            h = h * self.h_mask[:, None]
        h = h[pick].reshape(-1, H)
        if self.dx is not None:
            if every:
                torch.mm(dz, self.w_ih, out=self.dx.view(-1, I))
            else:
                self.dx[pick] = (dz @ self.w_ih).view(-1, B, I)
            if self.x_mask is not None:
                self.dx[pick] *= self.x_mask[pick][:, None]
        self.dw_ih.addmm_(dz.t(), x)
        self.dw_hh.addmm_(dz.t(), h)
        self.db += dz.sum(dim=0)
