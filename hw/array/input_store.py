"""Input store: x and h of two batch tiles, and the loader that puts a tile's columns into the array."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from gradsieve.hw.array.operand_fetch import STORE_LATENCY
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.layouts import input_row_layout, job_layout
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.idioms import gated
from gradsieve.hw.lib.register_slice import RegisterSlice
from gradsieve.hw.lib.stream_memory import StreamMemory, write_layout


def loaded_row(config: EngineConfig) -> int:
    """The row of a tile with which it counts as loaded: `taken` finds the last one sent."""
    return max(config.R - 1 - STORE_LATENCY, 0)


def reload_cycles(config: EngineConfig) -> int:
    """Cycles from `taken` to `loaded` for the next job: both are registers, and a row a cycle comes between."""
    return 1 + loaded_row(config) + 1


class InputStore(wiring.Component):
    """Two slots of max_I + max_H lane vectors: x from 0, h from max_I.

    `jobs` names tiles in the order in which the array will use them; each is read, R rows in R cycles, columns
    beyond the tile's last as zeros, and sent on `rows` (whose `row` is zero in other cycles).  `loaded` is high from
    the tile's last row but two (its first, if R is less than 3) until `taken`, which comes STORE_LATENCY cycles
    after it rose or later; the next tile's rows follow from the cycle after that.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.depth = 2 * (config.max_I + config.max_H)
        self.lanes = data.ArrayLayout(signed(config.formats.input.width), config.C)
        super().__init__(
            {
                "write": In(Flow(write_layout(self.lanes, self.depth))),
                "jobs": In(stream.Signature(job_layout(config))),
                "rows": Out(Flow(input_row_layout(config))),
                "loaded": Out(1),
                "taken": In(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c = self.config
        m.submodules.memory = memory = StreamMemory(self.lanes, self.depth)
        wiring.connect(m, wiring.flipped(self.write), memory.write)
        meta_layout = data.StructLayout({"row": range(c.R), "exists": 1, "last": 1})
        m.submodules.meta = meta_fifo = SyncFIFOBuffered(width=meta_layout.size, depth=4)
        meta = data.View(meta_layout, meta_fifo.r_data)
        m.submodules.asked = asked = RegisterSlice(
            data.StructLayout({"address": range(self.depth), "meta": meta_layout})
        )
        row = Signal(range(c.R))
        issue = Signal()
        asks = Signal()
        job, ask, coming = self.jobs.payload, asked.sink.payload, asked.source.payload
        m.d.comb += [
            asked.source.valid.eq(self.jobs.valid),
            issue.eq(self.jobs.valid & asked.source.ready),
            coming.address.eq(Mux(job.slot, self.depth // 2, 0) + Mux(job.hidden, c.max_I, 0) + job.first_column + row),
            coming.meta.row.eq(row),
            coming.meta.exists.eq(row < job.columns),
            coming.meta.last.eq(row == c.R - 1),
            self.jobs.ready.eq(asked.source.ready & (row == c.R - 1)),
            # a row that does not exist asks the memory for nothing
            asks.eq(asked.sink.valid & memory.request.ready & meta_fifo.w_rdy),
            asked.sink.ready.eq(memory.request.ready & meta_fifo.w_rdy),
            memory.request.valid.eq(asks & ask.meta.exists),
            memory.request.payload.eq(ask.address),
            meta_fifo.w_data.eq(ask.meta),
            meta_fifo.w_en.eq(asks),
        ]
        with m.If(issue):
            m.d.sync += row.eq(Mux(row == c.R - 1, 0, row + 1))

        send = Signal()
        complete = Signal()
        m.d.comb += [
            send.eq(~complete & meta_fifo.r_rdy & (memory.word.valid | ~meta.exists)),
            meta_fifo.r_en.eq(send),
            memory.word.ready.eq(send & meta.exists),
        ]
        # a register: the array is large
        lanes = Signal(self.lanes, reset_less=True)
        m.d.comb += self.rows.payload.lanes.eq(lanes)
        m.d.sync += [
            self.rows.valid.eq(send),
            self.rows.payload.row.eq(Cat(*[send & (meta.row == j) for j in range(c.R)])),
            lanes.eq(gated(memory.word.payload.as_value(), meta.exists)),
        ]
        with m.If(send & (meta.row == loaded_row(c))):
            m.d.sync += self.loaded.eq(1)
        with m.Elif(self.taken):
            m.d.sync += self.loaded.eq(0)
        with m.If(send & meta.last):
            m.d.sync += complete.eq(1)
        with m.Elif(self.taken):
            m.d.sync += complete.eq(0)
        return m
