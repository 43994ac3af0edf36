"""Size division: the sizes that the host wrote, checked and divided into tiles."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import BITMAP_WORD, EngineConfig
from gradsieve.hw.layouts import sizes_layout
from gradsieve.hw.lib.arithmetic import bits_for
from gradsieve.hw.lib.multiplier import Multiplier

SETTLING = Multiplier.latency + 1
"""Cycles from a run's sizes to what follows from `terms`: their product, and the user's sum with it."""


class SizeDivision(wiring.Component):
    """Divides B by C and H and I by R, by subtracting: `done` pulses at most `latency` cycles after `start`.

    `stale`: the sizes were written (`written`) and not yet divided.  `bad`: the last ones that were are not all between
    1 and what the config allows; then `sizes` means nothing.  `sizes` stays until the next division, `terms` is B * T.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.largest = {"H": config.max_H, "I": config.max_I, "B": config.max_B, "T": config.max_T}
        super().__init__(
            {
                **{n: In(32) for n in self.largest},
                "written": In(1),
                "start": In(1),
                "done": Out(1),
                "stale": Out(1, init=1),
                "bad": Out(1),
                "sizes": Out(sizes_layout(config)),
                "terms": Out(bits_for(config.max_B * config.max_T)),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from `start` to `done` at most: the load, a subtraction for each tile but the first, and settling."""
        c = self.config
        return 2 + max(c.batch_tiles, c.x_tiles, c.h_tiles) - 1 + SETTLING

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c, sizes = self.config, self.sizes
        out_of_range = {n: Signal(name=f"{n}_out_of_range") for n in self.largest}
        for name, largest in self.largest.items():
            value = getattr(self, name)
            m.d.sync += out_of_range[name].eq((value == 0) | (value > largest))
        quotients = {
            "B": (c.C, sizes.batch_tiles, sizes.last_lanes),
            "I": (c.R, sizes.x_tiles, sizes.last_x_columns),
            "H": (c.R, sizes.h_tiles, sizes.last_h_columns),
        }
        remainders = {n: Signal(range(self.largest[n] + 1), name=f"remainder_{n}") for n in quotients}
        words_shift = BITMAP_WORD.bit_length() - 1
        # one factor more bit each: the multiplier is signed
        m.submodules.multiplier = multiplier = Multiplier(len(sizes.B) + 1, len(sizes.T) + 1)
        m.d.comb += [multiplier.a.eq(sizes.B), multiplier.b.eq(sizes.T), self.terms.eq(multiplier.p)]
        m.d.sync += [
            sizes.bitmap_words.eq(((sizes.H << 2) + BITMAP_WORD - 1) >> words_shift),
            sizes.end.bitmap_words.eq(((sizes.H << 2) - 1) >> words_shift),
            *[sizes.end[n].eq(getattr(sizes, n) - 1) for n in ("H", "I", "T", "batch_tiles", "x_tiles", "h_tiles")],
            sizes.end.tiles.eq(sizes.x_tiles + sizes.h_tiles - 1),
        ]
        settled = Signal(range(SETTLING + 1))
        with m.FSM():
            with m.State("IDLE"):  # the sizes are divided, or stale
                with m.If(self.start):
                    m.next = "LOAD"
            with m.State("LOAD"):  # takes the sizes
                m.d.sync += [getattr(sizes, n).eq(getattr(self, n)) for n in self.largest]
                # cleared here, so that a size written meanwhile is not missed
                m.d.sync += [self.bad.eq(Cat(*out_of_range.values()).any()), self.stale.eq(0), settled.eq(0)]
                for name, (_, count, _last) in quotients.items():
                    m.d.sync += [remainders[name].eq(getattr(self, name)), count.eq(1)]
                m.next = "DIVIDE"
            with m.State("DIVIDE"):  # subtracts until nothing is left, and waits for what follows
                finished = settled == SETTLING
                with m.If(~finished):
                    m.d.sync += settled.eq(settled + 1)
                for name, (divisor, count, last) in quotients.items():
                    with m.If(remainders[name] > divisor):
                        m.d.sync += [remainders[name].eq(remainders[name] - divisor), count.eq(count + 1)]
                        m.d.sync += settled.eq(0)
                    m.d.sync += last.eq(remainders[name])
                with m.If(finished | self.bad):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
        with m.If(self.written):
            m.d.sync += self.stale.eq(1)
        return m
