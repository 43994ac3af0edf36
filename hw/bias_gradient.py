"""Bias gradient accumulator: db, the sum of every sieved gate gradient over lanes, batch tiles and steps."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.config import EngineConfig
from hw.delay_line import DelayLine
from hw.flow import Flow
from hw.gate_gradient import gate_rows_layout
from hw.memory import write_layout


class BiasGradientAccumulator(wiring.Component):
    """db[q] += sum over lanes of dz'[q]; a group of rows a cycle, exact.

    `rows` carries groups of consecutive rows and their group address; one group may return after `latency` = 3 cycles
    at the earliest.  `request` (a row q) is answered on `word` in order, when no rows come.  `clear` zeroes a row.
    """

    latency = 3

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.groups = config.gate_rows // config.gate_rows_per_cycle
        super().__init__(
            {
                "rows": In(Flow(write_layout(gate_rows_layout(config), self.groups))),
                "request": In(stream.Signature(range(config.gate_rows))),
                "word": Out(stream.Signature(signed(config.formats.weight_grad_width))),
                "clear": In(Flow(range(config.gate_rows))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c, rate = self.config, self.config.gate_rows_per_cycle
        width = c.formats.weight_grad_width
        layout = data.StructLayout({"valid": 1, "address": range(self.groups)})
        stage_0, stage_1, stage_2 = Signal(layout), Signal(layout), Signal(layout)
        m.d.sync += [
            stage_0.valid.eq(self.rows.valid),
            stage_0.address.eq(self.rows.payload.address),
            stage_1.eq(stage_0),
            stage_2.eq(stage_1),
        ]
        # a request reads through the same port: the controller never reads during a run
        reading, read_bank, out_ready = Signal(), Signal(range(max(rate, 2))), Signal()
        m.d.comb += [out_ready.eq(~self.word.valid | self.word.ready), self.request.ready.eq(~reading | out_ready)]
        with m.If(self.request.ready):
            m.d.sync += [reading.eq(self.request.valid), read_bank.eq(self.request.payload % rate)]
        words = []
        for r in range(rate):
            memory = Memory(shape=signed(width), depth=self.groups, init=[])
            m.submodules[f"bank_{r}"] = memory
            write_port, read_port = memory.write_port(), memory.read_port()
            terms = [self.rows.payload.word[r][lane] for lane in range(c.C)]
            lane_sum = sum(terms[1:], start=terms[0])
            m.submodules[f"lane_sum_{r}"] = waiting = DelayLine(lane_sum.shape(), self.latency)
            old = Signal(signed(width), name=f"old_{r}", reset_less=True)
            m.d.sync += old.eq(read_port.data)
            cleared = self.clear.valid & (self.clear.payload % rate == r)
            m.d.comb += [
                waiting.input.eq(lane_sum),
                read_port.en.eq(stage_0.valid | self.request.ready),
                read_port.addr.eq(Mux(stage_0.valid, stage_0.address, self.request.payload // rate)),
                write_port.en.eq(stage_2.valid | cleared),
                write_port.addr.eq(Mux(self.clear.valid, self.clear.payload // rate, stage_2.address)),
                write_port.data.eq(Mux(self.clear.valid, 0, old + waiting.output)),
            ]
            words.append(read_port.data)
        with m.If(out_ready):
            m.d.sync += [
                self.word.valid.eq(reading),
                self.word.payload.eq(Array(words)[read_bank] if rate > 1 else words[0]),
            ]
        return m
