"""The float backend's backward pass in PyTorch's operations, for what the compiled one (`native`) does not serve.

Gate gradients, sieve, and GEMMs over the surviving rows or columns only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradsieve.golden.types import SieveMode
from gradsieve.training.float_pass import FloatPass, Kept, LayerGradients, Workspace
from gradsieve.training.forward import compaction_pays
from gradsieve.training.methods.sieves import Sifted, sift
from gradsieve.training.methods.structured_dropout import kept_columns
from gradsieve.training.tape import LayerTape


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


class _Side:
    """The GEMMs of x or of h: errors dz' W and weight gradients dz'^T v, over some rows, some columns or everything.

    `values` (T, B, n) are what the layer read, `mask` (T, n) the columns kept of them.
    """

    def __init__(self, name: str, w: Tensor, values: Tensor, mask: Tensor | None, workspace: Workspace) -> None:
        self.name, self.w, self.values, self.mask, self.workspace = name, w, values, mask, workspace
        self.dw = torch.zeros_like(w)
        self.share = 1.0 if mask is None else float(mask.double().mean())
        self.kept: list[Tensor] | None = None
        if mask is not None and compaction_pays(self.share, values.shape[1]):
            self.kept = kept_columns(mask)
            # Transposed, a column is a row: copied and added in one piece.
            self.w_t = w.t().contiguous()
            self.dw_t = torch.zeros_like(self.w_t)

    def error(self, dz: Tensor, t: int) -> Tensor:
        """dz' W of step t, (B, n), by all rows."""
        if self.kept is not None:
            some = self.w_t.index_select(0, self.kept[t])
            return dz.new_zeros(len(dz), len(self.w_t)).index_copy_(1, self.kept[t], dz @ some.t())
        return self._masked(dz @ self.w, t)

    def error_of_rows(self, dz: Tensor, rows: Tensor, t: int) -> Tensor:
        """The same by the rows given; `dz` (B, rows)."""
        some = self.workspace.get(f"w_{self.name}", (len(rows), self.w.shape[1]), self.w)
        return self._masked(dz @ torch.index_select(self.w, 0, rows, out=some), t)

    def add_columns(self, dz: Tensor, t: int) -> None:
        """The weight gradients of step t, of the columns kept."""
        assert self.kept is not None
        kept = self.kept[t]
        self.dw_t.index_add_(0, kept, self.values[t].index_select(1, kept).t() @ dz)

    def add_rows(self, dz: Tensor, rows: Tensor, t: int) -> None:
        """The weight gradients of step t, of the rows given; `dz` (B, rows)."""
        part = self.workspace.get(f"dw_{self.name}", (len(rows), self.w.shape[1]), self.w)
        self.dw.index_add_(0, rows, torch.mm(dz.t(), self._masked(self.values[t], t), out=part))

    def add_steps(self, dz: Tensor, steps: slice | Tensor) -> None:
        """The weight gradients of several steps in one GEMM; `dz` (steps * B, 4H)."""
        values = self.values[steps]
        if self.mask is not None:
            values = values * self.mask[steps][:, None]
        self.dw.addmm_(dz.t(), values.reshape(len(dz), -1))

    def gradient(self) -> Tensor:
        """dW (4H, n)."""
        return self.dw if self.kept is None else self.dw.add_(self.dw_t.t())

    def _masked(self, values: Tensor, t: int) -> Tensor:
        return values if self.mask is None else values * self.mask[t]


class FloatBackward(FloatPass):
    """One backward pass in PyTorch's operations.

    Each step uses what costs least: GEMMs over the rows that the sieve kept, over the columns that the dropout kept, or
    over everything.
    """

    def run(self) -> tuple[LayerGradients, Kept]:
        """See `FloatPass`."""
        H, I, B, T = self.tape.sizes
        like = self.upstream.dy
        (x_mask, h_mask), h_scale = self.masks, self.h_scale
        w_hh = self.w_hh if h_scale == 1 else self.w_hh * h_scale
        self.x = _Side("ih", self.w_ih, self.tape.x, x_mask, self.workspace)
        self.h = _Side("hh", w_hh, self.tape.hs[:-1], h_mask, self.workspace)
        self.dx = like.new_empty(T, B, I) if self.need_dx else None
        self.db = like.new_zeros(4 * H)
        self.dz = self.workspace.get("dz", (T, B, 4 * H), like)
        self.whole_steps: list[int] = []
        lanes = min(self.lanes, B)
        rows = torch.ones(T, -(-B // lanes), 4 * H, dtype=torch.bool, device=like.device)
        elements = self._steps(lanes, rows)
        self._finish()
        dw_hh = self.h.gradient()
        if h_scale != 1:
            dw_hh.mul_(h_scale)
        gradients = LayerGradients(self.dx, self.dh, self.dc, self.x.gradient(), dw_hh, self.db)
        share = int(rows.count_nonzero()) / rows.numel()
        return gradients, Kept(rows.cpu(), int(elements), share, bool(self.db.isfinite().all()))

    def _steps(self, lanes: int, rows: Tensor) -> int | Tensor:
        H, _, B, T = self.tape.sizes
        factors = _factors(self.tape, self.workspace)
        f = self.tape.gates[:, :, H : 2 * H]
        self.dh, self.dc = self.upstream.dh, self.upstream.dc.clone()
        elements: int | Tensor = 0
        draws = self.draws(rows.shape[1])
        for t in reversed(range(T)):
            dh = self.dh + self.upstream.dy[t]
            self.dc.addcmul_(dh, factors.cell[t])
            dz = self.dz[t]
            gates = dz.view(B, 4, H)
            torch.mul(self.dc[:, None], factors.gates[t, :, :3], out=gates[:, :3])
            torch.mul(dh, factors.gates[t, :, 3], out=gates[:, 3])
            self.dc.mul_(f[t])
            if self.mode == SieveMode.DENSE:
                self._whole(t)
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
        share = len(kept) / len(union)
        if compaction_pays(share, B) and share < self._column_share():
            small = dz.index_select(1, kept)
            if factor is not None and self.mode == SieveMode.STOCHASTIC:
                small *= factor[:, kept]
            self._rows(t, small, kept)
            return torch.count_nonzero(small)
        if factor is not None:
            dz *= factor
        self._whole(t)
        return torch.count_nonzero(dz)

    def _column_share(self) -> float:
        """What the columns leave of the work of a step, where they are used."""
        sides = (self.x, self.h)
        return sum(v.share * v.w.numel() if v.kept is not None else v.w.numel() for v in sides) / sum(
            v.w.numel() for v in sides
        )

    def _rows(self, t: int, dz: Tensor, kept: Tensor) -> None:
        """The GEMMs of step t over the rows `kept`; `dz` (B, rows)."""
        if self.dx is not None:
            self.dx[t] = self.x.error_of_rows(dz, kept, t)
        self.dh = self.h.error_of_rows(dz, kept, t)
        for side in (self.x, self.h):
            side.add_rows(dz, kept, t)
        self.db.index_add_(0, kept, dz.sum(dim=0))

    def _whole(self, t: int) -> None:
        """dh of step t by all rows, and all that goes by columns; the rest waits for one GEMM of all such steps."""
        dz = self.dz[t]
        self.whole_steps.append(t)
        self.dh = self.h.error(dz, t)
        if self.dx is not None and self.x.kept is not None:
            self.dx[t] = self.x.error(dz, t)
        for side in (self.x, self.h):
            if side.kept is not None:
                side.add_columns(dz, t)

    def _finish(self) -> None:
        """dx, dW and db of the steps that used all rows, where they did not go by columns."""
        if not self.whole_steps:
            return
        I, T = self.tape.x.shape[2], len(self.dz)
        every = len(self.whole_steps) == T
        steps = slice(None) if every else torch.tensor(self.whole_steps, device=self.dz.device)
        dz = self.dz[steps].flatten(0, 1)
        self.db += dz.sum(dim=0)
        if self.dx is not None and self.x.kept is None:
            if every:
                torch.mm(dz, self.w_ih, out=self.dx.view(-1, I))
            else:
                self.dx[steps] = (dz @ self.w_ih).unflatten(0, (-1, self.dz.shape[1]))
            if self.x.mask is not None:
                self.dx[steps] *= self.x.mask[steps][:, None]
        for side in (self.x, self.h):
            if side.kept is None:
                side.add_steps(dz, steps)
