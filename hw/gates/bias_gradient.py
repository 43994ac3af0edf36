"""Bias gradient accumulator: db, the sum of every sieved gate gradient over lanes, batch tiles and steps."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import EngineConfig
from gradsieve.hw.layouts import gate_rows_layout
from gradsieve.hw.lib.block_memory import BlockMemory
from gradsieve.hw.lib.delay_line import DelayLine
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.stream_memory import write_layout


class BiasGradientAccumulator(wiring.Component):
    """db[q] += sum over lanes of dz'[q]; a group of rows a cycle, exact.

    `rows` carries groups of consecutive rows and their group address; one group may return after `latency` cycles at
    the earliest.  While no rows come, `word` is db of the row q that was at `address` `read_latency` cycles before.
    `clear` zeroes a row, at the earliest in the cycle after that of its address.
    """

    latency = 1 + BlockMemory.latency  # the address's register
    read_latency = latency + 1  # the word's

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.groups = config.gate_rows // config.gate_rows_per_cycle
        super().__init__(
            {
                "rows": In(Flow(write_layout(gate_rows_layout(config), self.groups))),
                "address": In(range(config.gate_rows)),
                "word": Out(signed(config.formats.weight_grad_width)),
                "clear": In(Flow(range(config.gate_rows))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c, rate = self.config, self.config.gate_rows_per_cycle
        width = c.formats.weight_grad_width
        layout = data.StructLayout({"valid": 1, "address": range(self.groups)})
        asked, *on_the_way = [Signal(layout, name=f"group_stage{n}") for n in range(self.latency)]
        m.d.sync += [asked.valid.eq(self.rows.valid), asked.address.eq(self.rows.payload.address)]
        m.d.sync += [later.eq(earlier) for earlier, later in pairwise((asked, *on_the_way))]
        arrived = on_the_way[-1]
        # the host's rows are read through the same port: the controller never reads during a run
        address = Signal(range(c.gate_rows), reset_less=True)
        choice = range(max(rate, 2))
        banks = [Signal(choice, name=f"bank_stage{n + 1}", reset_less=True) for n in range(BlockMemory.latency)]
        clears = Signal()
        clear = Signal.like(address, reset_less=True)
        m.d.sync += [
            address.eq(self.address),
            *[later.eq(earlier) for earlier, later in pairwise((address % rate, *banks))],
            clears.eq(self.clear.valid),
            clear.eq(self.clear.payload),
        ]
        words = []
        for r in range(rate):
            # no word is read in the cycle in which it is written
            m.submodules[f"bank_{r}"] = memory = BlockMemory(width, self.groups)
            terms = [self.rows.payload.word[r][lane] for lane in range(c.C)]
            lane_sum = sum(terms[1:], start=terms[0])
            m.submodules[f"lane_sum_{r}"] = waiting = DelayLine(lane_sum.shape(), self.latency)
            old = memory.read_data.as_signed()
            cleared = clears & (clear % rate == r)
            m.d.comb += [
                waiting.input.eq(lane_sum),
                memory.read_enable.eq(1),
                memory.output_enable.eq(1),
                memory.read_address.eq(Mux(asked.valid, asked.address, address // rate)),
                memory.write_enable.eq(arrived.valid | cleared),
                memory.write_address.eq(Mux(clears, clear // rate, arrived.address)),
                memory.write_data.eq(Mux(clears, 0, old + waiting.output)),
            ]
            words.append(old)
        word = Signal(signed(width), reset_less=True)
        m.d.sync += word.eq(Array(words)[banks[-1]] if rate > 1 else words[0])
        m.d.comb += self.word.eq(word)
        return m
