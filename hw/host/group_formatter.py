"""Group formatter: groups of elements of a readout from the stores' words, exact or requantized to 32 bits."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import EngineConfig
from gradsieve.hw.layouts import (
    EXACT_BITS,
    SHORT_BITS,
    gradient_word_layout,
    group_elements,
    group_layout,
    read_mode_layout,
)
from gradsieve.hw.lib.arithmetic import bits_for, clip, overflows
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.pipeline import Pipeline, Staged

STAGES = ("paired", "chosen", "coarse", "shifted", "rounded", "judged", "clipped")
"""From a word to its group: choice in two steps, shift in two, rounding, overflow, saturation."""


def group_count(config: EngineConfig) -> int:
    """Groups of a word of dW."""
    return config.column_slots // group_elements(config)


def place_layout(config: EngineConfig) -> data.StructLayout:
    """Which elements: the one of db, or a group of the word of dW; `last` of their section."""
    return data.StructLayout({"bias": 1, "group": range(max(group_count(config), 2)), "last": 1})


class GroupFormatter(wiring.Component):
    """One group a cycle on `groups`, `latency` cycles after its place came on `places` and its word beside it.

    Elements are as `mode` says, which is steady during a readout: exact, or rounded half to even to its fraction and
    saturated to 32 bits.  `saturated` counts, a cycle after a group, its elements that 32 bits could not hold.
    """

    latency = len(STAGES)

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "mode": In(read_mode_layout()),
                "places": In(Flow(place_layout(config))),
                "gradient_words": In(gradient_word_layout(config)),
                "bias_word": In(signed(config.formats.weight_grad_width)),
                "groups": Out(Flow(group_layout(config))),
                "saturated": Out(Flow(bits_for(group_elements(config)))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c = self.config
        width, elements, count = c.formats.weight_grad_width, group_elements(c), group_count(c)
        is_exact = Signal()
        m.d.sync += is_exact.eq(self.mode.exact)  # steady, but comes from far
        pipe = Pipeline(m, STAGES)
        m.d.comb += self.groups.valid.eq(pipe.marks(self.places.valid)[-1])
        place = self.places.payload

        # of two groups each, then of those
        pipe.begin("paired")
        is_bias, last, group = (pipe.enter(place[name], name) for name in ("bias", "last", "group"))
        bias_word = pipe.put(self.bias_word, "bias_word")
        padded = [self.gradient_words[n] for n in range(c.R)]
        padded += [Const(0, signed(width))] * (c.column_slots - c.R)
        pairs = []
        for n in range(elements):
            choices = padded[n::elements]
            halves = [choices[g : g + 2] for g in range(0, count, 2)]
            paired = [Mux(place.group[0], p[-1], p[0]) if count > 1 else p[0] for p in halves]
            pairs.append([pipe.put(v, f"paired_{n}_{g}") for g, v in enumerate(paired)])
        pipe.begin("chosen")
        fraction = Mux(is_bias.now, c.formats.bias_grad.fraction, c.formats.weight_grad.fraction)
        shift = pipe.put((fraction - self.mode.fraction)[: (width + 16).bit_length()], "shift")
        values = []
        for n, of_element in enumerate(pairs):
            value = Signal(signed(width), name=f"value_{n}")
            choices = [v.now for v in of_element]
            m.d.comb += value.eq(Array(choices)[group.now >> 1] if count > 2 else choices[0])
            if n == 0:
                with m.If(is_bias.now):
                    m.d.comb += value.eq(bias_word.now)
            values.append(pipe.put(value, f"chosen_{n}"))

        requantized = self._requantize(pipe, values, shift)
        pipe.begin("clipped")
        short = [clip(value.now, overflow.now, SHORT_BITS) for value, overflow in requantized]
        exact = [Cat(v.now, v.now[-1].replicate(EXACT_BITS - width)) for v in values]
        short_bits = [Signal(signed(SHORT_BITS), name=f"short_{n}") for n in range(elements)]
        m.d.comb += [bits.eq(value) for bits, value in zip(short_bits, short, strict=True)]
        elements_out = pipe.put(Mux(is_exact, Cat(*exact), Cat(*short_bits)), "data")
        flags = [
            pipe.put(overflow.now & (~is_bias.now if n else 1) & ~is_exact, f"saturated_{n}")
            for n, (_, overflow) in enumerate(requantized)
        ]
        pipe.end()
        out = self.groups.payload
        m.d.comb += [
            out.data.eq(elements_out.now),
            out.exact.eq(is_exact),
            out.single.eq(is_bias.now),
            out.last.eq(last.now),
        ]
        m.d.sync += [
            self.saturated.valid.eq(self.groups.valid),
            self.saturated.payload.eq(sum((f.now for f in flags[1:]), start=flags[0].now)),
        ]
        return m

    def _requantize(self, pipe: Pipeline, values: list[Staged], shift: Staged) -> list[tuple[Staged, Staged]]:
        """Values rounded half to even at a shift chosen at run time, and whether 32 bits cannot hold them."""
        width = self.config.formats.weight_grad_width
        pipe.begin("coarse")
        eights, rest = shift.now[3:], shift.now[:3]
        # n < shift, from its eights and its rest
        below_shift = [(n >> 3 < eights) | ((n >> 3 == eights) & (n % 8 < rest)) for n in range(width + 1)]
        doubled = [v.now << 1 for v in values]
        coarse = [pipe.put(v >> (eights << 3), f"coarse_{n}") for n, v in enumerate(doubled)]
        below = [
            pipe.put(Cat(*[v[n] & is_below for n, is_below in enumerate(below_shift)]), f"below_{k}")
            for k, v in enumerate(doubled)
        ]
        fine = pipe.put(rest, "shift_fine")
        pipe.begin("shifted")
        shifted = [pipe.put(v.now >> fine.now, f"shifted_{n}") for n, v in enumerate(coarse)]
        sticky = [pipe.put(v.now.any(), f"sticky_{n}") for n, v in enumerate(below)]
        pipe.begin("rounded")
        rounded = [
            pipe.put((v.now >> 1) + (v.now[0] & (s.now | v.now[1])), f"rounded_{n}")
            for n, (v, s) in enumerate(zip(shifted, sticky, strict=True))
        ]
        pipe.begin("judged")
        return [(v, pipe.put(overflows(v.now, SHORT_BITS), f"overflow_{n}")) for n, v in enumerate(rounded)]
