"""docs/arithmetic.md once more, scalar by scalar in Python integers: it shares no arithmetic with `golden`.

Slow and plain on purpose: every line can be held against the page.  Only the types are `golden`'s.
"""

from __future__ import annotations

from collections import Counter

import torch

from gradsieve.golden.types import Gradients, Masks, Saturations, Sieve, Tape, Weights
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.formats import FixedPoint

WORD = 2**32


def half_even(value: int, divisor: int) -> int:
    """The integer next to value / divisor, and of two the even one."""
    quotient, rest = divmod(value, divisor)
    return quotient + (2 * rest > divisor or (2 * rest == divisor and quotient % 2 == 1))


class ScalarRun:
    """What both directions share: sizes, weights, masks, and the rounding that counts."""

    def __init__(self, config: EngineConfig, weights: Weights, masks: Masks, sizes: tuple[int, int, int, int]) -> None:
        self.formats = config.formats
        self.r, self.c = config.R, config.C
        self.H, self.I, self.B, self.T = sizes
        self.w = [ih + hh for ih, hh in zip(weights.w_ih.tolist(), weights.w_hh.tolist(), strict=True)]
        self.block = None if masks.block is None else masks.block.tolist()
        self.column = None if masks.column is None else masks.column.tolist()
        self.saturations: Counter[str] = Counter()

    def put(self, value: int, fraction: int, form: FixedPoint, where: str) -> int:
        """Round half to even to the format's fraction, then saturate and count it."""
        quotient = half_even(value, 2 ** (fraction - form.fraction))
        top = 2 ** (form.width - 1)
        if -top <= quotient < top:
            return quotient
        self.saturations[where] += 1
        return top - 1 if quotient > 0 else -top

    def column_tile(self, j: int) -> int:
        """The tile of column j of [x ; h]; x and h are tiled apart."""
        if j < self.I:
            return j // self.r
        return (self.I + self.r - 1) // self.r + (j - self.I) // self.r

    def streams(self, t: int, k: int, j: int) -> bool:
        """Whether the host's masks let the array meet gate row k and column j at step t."""
        tile = self.column_tile(j)
        return (self.block is None or self.block[k][tile]) and (self.column is None or self.column[t][tile])


class Contract(ScalarRun):
    """One backward run; `run` gives its result."""

    def __init__(self, config: EngineConfig, weights: Weights, tape: Tape, sieve: Sieve, masks: Masks) -> None:
        super().__init__(config, weights, masks, tape.sizes)
        self.tape = {name: getattr(tape, name).tolist() for name in tape.__dataclass_fields__}
        self.sieve = sieve
        self.random = sieve.random

    def gate_gradient(self, t: int, b: int, u: int, dh_rec: int, dc: int) -> tuple[list[int], int]:
        """dz of gates i, f, g, o of one unit and lane, and dc of the step before."""
        i, f, g, o, tc, c_prev, dy = (
            self.tape[name][t][b][u] for name in ("i", "f", "g", "o", "tanh_c", "c_prev", "dy")
        )
        grad, act, cell = self.formats.gradient, self.formats.activation, self.formats.cell
        one = 2**act.fraction

        def factor(first: int, value: int) -> int:
            return self.put(first * one - value * value, 2 * act.fraction, act, "factor")

        def gradient(value: int, extra: int) -> int:
            return self.put(value, grad.fraction + extra, grad, "gate")

        dh = gradient(dy + dh_rec, 0)
        e = gradient(dh * o, act.fraction)
        s = factor(one, tc)
        dct = gradient(dc + gradient(e * s, act.fraction), 0)
        ho = gradient(dh * tc, act.fraction)
        qo = factor(o, o)
        dz_o = gradient(ho * qo, act.fraction)
        ig = gradient(dct * g, act.fraction)
        qi = factor(i, i)
        dz_i = gradient(ig * qi, act.fraction)
        fc = gradient(dct * c_prev, cell.fraction)
        qf = factor(f, f)
        dz_f = gradient(fc * qf, act.fraction)
        gi = gradient(dct * i, act.fraction)
        qg = factor(one, g)
        dz_g = gradient(gi * qg, act.fraction)
        return [dz_i, dz_f, dz_g, dz_o], gradient(dct * f, act.fraction)

    def sift(self, row: list[int]) -> tuple[bool, list[int]]:
        """One row through the sieve: whether it is kept, and its elements after it."""
        mode, tau = self.sieve.mode.name.lower(), self.sieve.tau
        score = max(abs(v) for v in row)
        if mode == "dense":
            return True, row
        if mode == "element":
            row = [0 if abs(v) < tau else v for v in row]
            return any(v != 0 for v in row), row
        if mode == "row":
            return (True, row) if score >= tau and score != 0 else (False, [0] * len(row))
        assert mode == "stochastic"
        word = self.next_random()
        if score == 0:
            return False, [0] * len(row)
        n = 0
        while score * 2**n < tau:
            n += 1
        if n > 15 or word % 2**n != 0:
            return False, [0] * len(row)
        form = self.formats.gradient
        return True, [self.put(v * 2**n, form.fraction, form, "sieve") for v in row]

    def next_random(self) -> int:
        """Advance the xorshift32 register and read it."""
        y = self.random
        y = (y ^ (y * 2**13)) % WORD
        y = y ^ (y // 2**17)
        y = (y ^ (y * 2**5)) % WORD
        self.random = y
        return y

    def run(self) -> Gradients:
        """The whole page, t from last to first."""
        H, I, B, T = self.H, self.I, self.B, self.T
        grad, weight = self.formats.gradient, self.formats.weight
        batch_tiles = [list(range(b, min(b + self.c, B))) for b in range(0, B, self.c)]
        columns = range(I + H)
        dx = [[[0] * I for _ in range(B)] for _ in range(T)]
        dw = [[0] * (I + H) for _ in range(4 * H)]
        db = [0] * (4 * H)
        rows_kept = [[[False] * (4 * H) for _ in batch_tiles] for _ in range(T)]
        elements_kept = [[[0] * 4 for _ in batch_tiles] for _ in range(T)]
        dh_rec = [list(lane) for lane in self.tape["dh"]]
        dc = [list(lane) for lane in self.tape["dc"]]
        indices = macs = 0
        for t in reversed(range(T)):
            dz = [[0] * (4 * H) for _ in range(B)]
            for tile, lanes in enumerate(batch_tiles):
                for u in range(H):
                    found = {}
                    for b in lanes:
                        found[b], dc[b][u] = self.gate_gradient(t, b, u, dh_rec[b][u], dc[b][u])
                    for gate in range(4):
                        k = gate * H + u
                        kept, row = self.sift([found[b][gate] for b in lanes])
                        rows_kept[t][tile][k] = kept
                        for b, value in zip(lanes, row, strict=True):
                            dz[b][k] = value
                            elements_kept[t][tile][gate] += value != 0
                            db[k] += value
                        if not kept:
                            continue
                        counted = set()
                        for j in columns:
                            if not self.streams(t, k, j):
                                continue
                            counted.add(self.column_tile(j))
                            macs += 2 * len(lanes)
                            for b in lanes:
                                xh = self.tape["x"][t][b][j] if j < I else self.tape["h_prev"][t][b][j - I]
                                dw[k][j] += dz[b][k] * xh
                        indices += 2 * len(counted)
            for b in range(B):
                for j in columns:
                    total = sum(dz[b][k] * self.w[k][j] for k in range(4 * H) if self.streams(t, k, j))
                    value = self.put(total, grad.fraction + weight.fraction, grad, "error")
                    if j < I:
                        dx[t][b][j] = value
                    else:
                        dh_rec[b][j - I] = value
        return Gradients(
            dx=torch.tensor(dx),
            dh0=torch.tensor(dh_rec),
            dc0=torch.tensor(dc),
            dw_ih=torch.tensor([line[:I] for line in dw]),
            dw_hh=torch.tensor([line[I:] for line in dw]),
            db=torch.tensor(db),
            rows_kept=torch.tensor(rows_kept),
            elements_kept=torch.tensor(elements_kept),
            indices=indices,
            macs=macs,
            random=self.random,
            saturations=Saturations(**self.saturations),
        )
