"""The arithmetic contract (docs/arithmetic.md): one backward run of the engine, to the last bit."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from gradsieve.golden.arithmetic import exact_matmul, limit, plain, requantize, xorshift32_states
from gradsieve.golden.gate_gradient import derivative_factors, gate_gradients
from gradsieve.golden.masks import ExpandedMasks
from gradsieve.golden.sieve import sift, tile_scores, visiting_order
from gradsieve.golden.types import Gradients, Masks, Saturations, Sieve, SieveMode, Tape, Weights
from gradsieve.golden.validation import check_inputs
from gradsieve.golden.work import index_counts, tile_lanes, tile_widths, useful_macs
from gradsieve.hw.config import EngineConfig

__all__ = ["backward", "check_inputs", "row_scores"]


def backward(
    config: EngineConfig,
    weights: Weights,
    tape: Tape,
    sieve: Sieve | None = None,
    masks: Masks | None = None,
) -> Gradients:
    """What an engine of this config computes: every field of `Gradients`, bit-exact.

    Shapes and formats are those of `gradsieve.golden.types`, any integer dtype; all results are int64 (`rows_kept`
    bool) on the CPU.  No sieve is the dense one, no masks keep everything.  Raises ValueError for whatever
    `check_inputs` refuses, before any work.
    """
    sieve = sieve if sieve is not None else Sieve()
    masks = masks if masks is not None else Masks()
    check_inputs(config, weights, tape, sieve, masks)
    run = _Run(config, weights, tape, masks)
    run.steps(sieve)
    return run.results()


def row_scores(config: EngineConfig, weights: Weights, tape: Tape, masks: Masks | None = None) -> Tensor:
    """The scores that the sieve would see in a dense run, (T, batch_tiles, 4H) int64: to choose tau from.

    Raises ValueError for whatever `check_inputs` refuses.
    """
    masks = masks if masks is not None else Masks()
    check_inputs(config, weights, tape, None, masks)
    run = _Run(config, weights, tape, masks)
    run.steps(Sieve())
    return torch.stack([tile_scores(dz, config.C) for dz in run.dz])


class _Run:
    """The state of one run: the recurrence goes step by step, all that hangs off it is computed at the end."""

    def __init__(self, config: EngineConfig, weights: Weights, tape: Tape, masks: Masks) -> None:
        self.config = config
        self.formats = config.formats
        self.tape = Tape(**{f.name: plain(getattr(tape, f.name)) for f in fields(Tape)})
        self.H, self.I, self.B, self.T = tape.sizes
        self.masks = ExpandedMasks(config, masks, self.H, self.I, self.T)
        self.w_ih = plain(weights.w_ih) * self.masks.block_x
        self.w_hh = plain(weights.w_hh) * self.masks.block_h

    def random_words(self, sieve: Sieve) -> Tensor | None:
        """The random words by step, batch tile and gate row; none are drawn outside stochastic mode."""
        self.random = sieve.random
        if sieve.mode != SieveMode.STOCHASTIC:
            return None
        shape = (self.T, -(-self.B // self.config.C), 4 * self.H)
        states = xorshift32_states(sieve.random, shape[0] * shape[1] * shape[2])
        self.random = int(states[-1])
        return visiting_order(states.reshape(shape), self.H).flip(0)

    def steps(self, sieve: Sieve) -> None:
        """Run the recurrence and the sieve from the last step to the first."""
        f = self.formats
        words = self.random_words(sieve)
        factors = derivative_factors(f, self.tape)
        empty = torch.empty(0, dtype=torch.int64)
        self.dz, self.rows, self.elements = ([empty] * self.T for _ in range(3))
        self.gate_saturations = self.sieve_saturations = self.error_saturations = 0
        self.factor_saturations = factors.saturations
        dh_rec, dc = self.tape.dh, self.tape.dc
        for t in reversed(range(self.T)):
            dz, dc, count = gate_gradients(f, self.tape, factors, t, dh_rec, dc)
            self.gate_saturations += count
            sieved = sift(dz, sieve, self.config.C, f.gradient, None if words is None else words[t])
            self.sieve_saturations += sieved.saturations
            self.dz[t], self.rows[t], self.elements[t] = sieved.dz, sieved.rows, sieved.elements
            dh_rec = self.error(sieved.dz, self.w_hh, self.masks.column_h[t])
        self.dh0, self.dc0 = dh_rec, dc

    def error(self, dz: Tensor, w: Tensor, kept: Tensor) -> Tensor:
        """dx or dh_rec: the exact sums of W^T dz', requantized once; `dz` (N, 4H), `kept` broadcasts over the sums."""
        f = self.formats
        total = exact_matmul(dz, w, limit(f.gradient), limit(f.weight)) * kept
        out, count = requantize(total, f.gradient.fraction + f.weight.fraction, f.gradient)
        self.error_saturations += count
        return out

    def weight_gradient(self, dz: Tensor, columns: Tensor, kept: Tensor, block: Tensor) -> Tensor:
        """dW of the columns of x or h: `dz` (T*B, 4H), `columns` (T, B, n), `kept` (T, n), `block` (4H, n)."""
        f = self.formats
        stationary = (columns * kept[:, None, :]).flatten(0, 1)
        return exact_matmul(dz.T, stationary, limit(f.gradient), limit(f.input)) * block

    def work(self) -> tuple[int, int]:
        """Indices streamed and useful multiply-accumulates."""
        counts = index_counts(torch.stack(self.rows), self.masks.block, self.masks.column, self.masks.tiles)
        lanes, widths = tile_lanes(self.B, self.config.C), tile_widths(self.H, self.I, self.config.R)
        return 2 * int(counts.sum()), 2 * useful_macs(counts, lanes, widths)

    def results(self) -> Gradients:
        """All that does not feed back into the recurrence, and the bookkeeping."""
        dz = torch.cat(self.dz)
        dx = self.error(dz, self.w_ih, self.masks.column_x.repeat_interleave(self.B, dim=0))
        indices, macs = self.work()
        return Gradients(
            dx=dx.unflatten(0, (self.T, self.B)),
            dh0=self.dh0,
            dc0=self.dc0,
            dw_ih=self.weight_gradient(dz, self.tape.x, self.masks.column_x, self.masks.block_x),
            dw_hh=self.weight_gradient(dz, self.tape.h_prev, self.masks.column_h, self.masks.block_h),
            db=dz.sum(dim=0),
            rows_kept=torch.stack(self.rows),
            elements_kept=torch.stack(self.elements),
            indices=indices,
            macs=macs,
            random=self.random,
            saturations=Saturations(
                gate=self.gate_saturations,
                factor=self.factor_saturations,
                sieve=self.sieve_saturations,
                error=self.error_saturations,
            ),
        )
