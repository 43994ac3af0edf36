"""The elementwise part of a step: from the gradients of h and c to those of the gates, each bracket rounded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradsieve.golden.arithmetic import requantize
from gradsieve.golden.types import Tape
from gradsieve.hw.formats import Formats


@dataclass(frozen=True)
class Factors:
    """The derivative factors of a whole tape, (T, B, H) each in the activation format."""

    s: Tensor
    qi: Tensor
    qf: Tensor
    qg: Tensor
    qo: Tensor
    saturations: int


def derivative_factors(formats: Formats, tape: Tape) -> Factors:
    """s, qi, qf, qg and qo of every step of an int64 tape: they do not depend on any gradient."""
    form = formats.activation
    saturations = 0

    def factor(first: Tensor | int, value: Tensor) -> Tensor:
        nonlocal saturations
        out, count = requantize((first << form.fraction) - value * value, 2 * form.fraction, form)
        saturations += count
        return out

    s, qg = factor(form.scale, tape.tanh_c), factor(form.scale, tape.g)
    qi, qf, qo = (factor(v, v) for v in (tape.i, tape.f, tape.o))
    return Factors(s=s, qi=qi, qf=qf, qg=qg, qo=qo, saturations=saturations)


def gate_gradients(
    formats: Formats, tape: Tape, factors: Factors, t: int, dh_rec: Tensor, dc: Tensor
) -> tuple[Tensor, Tensor, int]:
    """One step of the elementwise arithmetic.

    `dh_rec`, `dc` (B, H), gradient format, are the gradients of h_t (through the recurrence) and of c_t.  Returns dz
    (B, 4H) and the dc of the step before (B, H), gradient format, and the saturations of the gradient-format results.
    """
    gradient, activation, cell = formats.gradient, formats.activation, formats.cell
    saturations = 0

    def bracket(value: Tensor, extra_fraction: int = 0) -> Tensor:
        nonlocal saturations
        out, count = requantize(value, gradient.fraction + extra_fraction, gradient)
        saturations += count
        return out

    def times(value: Tensor, activations: Tensor) -> Tensor:
        return bracket(value * activations, activation.fraction)

    i, f, g, o, tc = (v[t] for v in (tape.i, tape.f, tape.g, tape.o, tape.tanh_c))
    dh = bracket(tape.dy[t] + dh_rec)
    e = times(dh, o)
    dct = bracket(dc + times(e, factors.s[t]))
    dz_o = times(times(dh, tc), factors.qo[t])
    dz_i = times(times(dct, g), factors.qi[t])
    dz_f = times(bracket(dct * tape.c_prev[t], cell.fraction), factors.qf[t])
    dz_g = times(times(dct, i), factors.qg[t])
    return torch.cat([dz_i, dz_f, dz_g, dz_o], dim=1), times(dct, f), saturations
