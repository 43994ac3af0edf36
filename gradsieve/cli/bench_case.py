"""Runs for the bench: synthetic training tapes in which exactly the chosen gate rows have a gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradsieve.cli.options import CommandError
from gradsieve.golden.backward import row_scores
from gradsieve.golden.quantize import quantize
from gradsieve.golden.types import Sieve, SieveMode, Tape, Weights
from gradsieve.hw.config import GATES, EngineConfig
from gradsieve.hw.formats import FixedPoint

ATTEMPTS = 8


@dataclass(frozen=True)
class Case:
    """One run and `rows` (T, batch_tiles, 4H) bool, the rows that the sieve must keep in it."""

    weights: Weights
    tape: Tape
    sieve: Sieve
    rows: Tensor


def rows_of_share(share: float, H: int) -> int:
    """How many of the 4H rows of a step and batch tile the share stands for: the nearest number, at least one."""
    return max(1, round(share * len(GATES) * H))


def make_case(config: EngineConfig, sizes: tuple[int, int, int, int], share: float, seed: int) -> Case:
    """A run of sizes H, I, B, T that keeps `share` of the rows of every step and batch tile; 1 is the dense run.

    Which rows is drawn at random for each step and tile.  The tape gives every other row a gradient of exactly zero in
    all its lanes, so the `row` sieve drops those at any tau, here 1.  The same arguments give the same run.  Raises
    CommandError if the config's formats are too coarse for every chosen row to get a gradient.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(ATTEMPTS):
        rows = _choose(config, sizes, share, generator)
        weights, tape = _values(config, sizes, generator)
        tape = _silence(config, tape, rows)
        # With the other rows at zero the sieve changes nothing, so these are the scores of the sieved run as well.
        if torch.equal(row_scores(config, weights, tape) > 0, rows):
            dense = bool(rows.all())
            sieve = Sieve() if dense else Sieve(mode=SieveMode.ROW, tau=1)
            return Case(weights=weights, tape=tape, sieve=sieve, rows=rows)
    raise CommandError(
        f"the formats of engine {config.name!r} are too coarse for the bench's synthetic gradients: "
        f"chosen rows come out as zeros (gradient is {config.formats.gradient})"
    )


def _choose(config: EngineConfig, sizes: tuple[int, int, int, int], share: float, generator: torch.Generator) -> Tensor:
    H, _, B, T = sizes
    order = torch.rand(T, -(-B // config.C), len(GATES) * H, generator=generator).argsort(dim=-1)
    return order.argsort(dim=-1) < rows_of_share(share, H)


def _values(config: EngineConfig, sizes: tuple[int, int, int, int], generator: torch.Generator) -> tuple[Weights, Tape]:
    """Gates half open and gradients of order one: a run in which every gate row's gradient is far from zero."""
    H, I, B, T = sizes
    formats = config.formats

    def draw(form: FixedPoint, shape: tuple[int, ...], low: float, high: float, signed: bool = True) -> Tensor:
        values = low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)
        signs = 1 - 2 * torch.randint(2, shape, generator=generator) if signed else 1
        return quantize(values * signs, form)[0]

    step, state, activation = (T, B, H), (B, H), formats.activation
    bound = 0.5 / H**0.5
    # One sign a unit and sample for all steps: the cell's gradient, a sum over steps, then never cancels.
    signs = 1 - 2 * torch.randint(2, state, generator=generator)
    tape = Tape(
        x=draw(formats.input, (T, B, I), 0.0, 2.0),
        h_prev=draw(formats.input, step, 0.0, 0.7),
        i=draw(activation, step, 0.35, 0.65, signed=False),
        f=draw(activation, step, 0.35, 0.65, signed=False),
        g=draw(activation, step, 0.4, 0.6),
        o=draw(activation, step, 0.35, 0.65, signed=False),
        tanh_c=draw(activation, step, 0.4, 0.6),
        c_prev=draw(formats.cell, step, 0.4, 1.2),
        dy=draw(formats.gradient, step, 0.6, 1.0, signed=False) * signs,
        dh=draw(formats.gradient, state, 0.0, 0.1),
        dc=draw(formats.gradient, state, 0.0, 0.5, signed=False) * signs,
    )
    weights = Weights(
        w_ih=draw(formats.weight, (len(GATES) * H, I), 0.0, bound),
        w_hh=draw(formats.weight, (len(GATES) * H, H), 0.0, bound),
    )
    return weights, tape


def _silence(config: EngineConfig, tape: Tape, rows: Tensor) -> Tape:
    """The tape with a gradient of exactly zero in all lanes of every row not in `rows`, and only there.

    dz_o has the factor tanh c and dz_f the factor c_{t-1}, which occur nowhere else but in the always positive
    1 - tanh² c.  dz_i has the factor g and dz_g the factors i and 1 - g²: g = 0 silences i alone, g = -1 g alone and
    i = 0 both.
    """
    batch = tape.i.shape[1]
    lanes = rows.repeat_interleave(config.C, dim=1)[:, :batch]
    i, f, g, o = lanes.unflatten(-1, (len(GATES), -1)).unbind(dim=2)
    minus_one = -config.formats.activation.scale
    fields = dict(vars(tape))
    fields["tanh_c"] = torch.where(o, tape.tanh_c, 0)
    fields["c_prev"] = torch.where(f, tape.c_prev, 0)
    fields["g"] = torch.where(g, torch.where(i, tape.g, 0), torch.where(i, minus_one, tape.g))
    fields["i"] = torch.where(i | g, tape.i, 0)
    return Tape(**fields)
