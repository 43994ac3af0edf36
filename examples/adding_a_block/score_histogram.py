"""A block that is not in the engine: how many gate rows have a score of how many bits, to choose a threshold by."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import EngineConfig
from gradsieve.hw.layouts import gate_rows_layout
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.pipeline import Pipeline

STAGES = ("magnitude", "bits", "counted")


class ScoreHistogram(wiring.Component):
    """Counts gate rows by the bits of their score, the largest |dz| of their lanes: a score of 5 has 3, one of 0 none.

    `rows` brings `gate_rows_per_cycle` rows in any cycle; `count_<bits>` has counted them `latency` cycles later.
    Counts wrap at 32 bits; `clear` zeroes them, and forgets a row that is counted in the same cycle.
    """

    latency = len(STAGES)

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.most_bits = config.formats.gradient.width  # of the lowest value's magnitude
        counts = {f"count_{bits}": Out(32) for bits in range(self.most_bits + 1)}
        super().__init__({"rows": In(Flow(gate_rows_layout(config))), "clear": In(1), **counts})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        rows, lanes = range(self.config.gate_rows_per_cycle), range(self.config.C)
        pipe = Pipeline(m, STAGES)
        _, *valid = pipe.marks(self.rows.valid)
        dz = self.rows.payload

        pipe.begin("magnitude")
        magnitudes = [
            [pipe.put(Mux(dz[r][b] < 0, -dz[r][b], dz[r][b])[: self.most_bits], f"magnitude_{r}_{b}") for b in lanes]
            for r in rows
        ]
        pipe.begin("bits")  # of the largest, which are those of all together; one-hot
        scores = [reduce(or_, [magnitude.now for magnitude in row]) for row in magnitudes]
        bits = [
            pipe.put(Cat(~s.any(), *[s[n] & ~s[n + 1 :].any() for n in range(self.most_bits)]), f"bits_{r}")
            for r, s in enumerate(scores)
        ]
        pipe.begin("counted")
        for n in range(self.most_bits + 1):
            count = getattr(self, f"count_{n}")
            with m.If(valid[STAGES.index("bits")]):
                m.d.sync += count.eq(count + sum((row.now[n] for row in bits), start=Const(0)))
            with m.If(self.clear):
                m.d.sync += count.eq(0)
        pipe.end()
        return m
