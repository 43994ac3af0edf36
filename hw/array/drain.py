"""Drain: finished error sums become dh_rec in the state store and dx for the host."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from gradsieve.hw.array.operand_fetch import OperandFetch
from gradsieve.hw.array.requantizer import Requantizer
from gradsieve.hw.array.systolic_array import drain_latency
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.layouts import job_layout, requantized_layout
from gradsieve.hw.lib.arithmetic import bits_for
from gradsieve.hw.lib.credit_counter import CreditCounter
from gradsieve.hw.lib.credit_queue import QUEUE_LATENCY
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.register_slice import ForwardRegister, RegisterSlice
from gradsieve.hw.lib.stream_memory import write_layout

JOB_DELAY = 1
"""Cycles from the end of a tile to its announcement."""


class Drain(wiring.Component):
    """Requantizes the rows of each error tile and sends them where they belong, one row of C lanes a cycle.

    `ready` means: a tile may end now, and its R rows have room.  `jobs` announces each tile that ends, `sums` brings
    its rows.  Rows of h go to `hidden_write` at batch_tile * max_H + column, rows of x to `dx`; rows beyond the tile's
    columns are dropped.  `hidden_done` pulses when the last row of h of a batch tile is written.  A full `dx` stream
    only ever delays `ready`.
    """

    latency = Requantizer.latency + QUEUE_LATENCY + ForwardRegister.latency + 2 * RegisterSlice.latency
    """Cycles from a row on `sums` to where it belongs: the queue, the slice that ends its stall, and its place."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        # room for the tiles that may end before `ready` knows of one that has is kept free
        unseen = JOB_DELAY + CreditCounter.latency - 1
        self.kept_free = unseen // config.R
        # tiles in flight: one being filled, one being taken, and those that cover the way from the array and back
        way = JOB_DELAY + OperandFetch.answer + drain_latency(config) + self.latency + CreditCounter.latency
        self.tiles = 2 + self.kept_free + -(-way // config.R)
        gradients = data.ArrayLayout(signed(config.formats.gradient.width), config.C)
        super().__init__(
            {
                "ready": Out(1),
                "jobs": In(Flow(job_layout(config))),
                "sums": In(Flow(data.ArrayLayout(signed(config.error_sum_width), config.C))),
                "hidden_write": Out(Flow(write_layout(gradients, config.batch_tiles * config.max_H))),
                "hidden_done": Out(1),
                "dx": Out(stream.Signature(gradients)),
                "saturated": Out(Flow(bits_for(config.C))),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c = self.config
        depth = self.tiles * c.R
        m.submodules.requantizer = requantizer = Requantizer(c)
        wiring.connect(m, wiring.flipped(self.sums), requantizer.sums)
        row_layout = requantized_layout(c)
        m.submodules.rows = rows = SyncFIFOBuffered(width=row_layout.size, depth=depth)
        m.submodules.jobs = jobs = SyncFIFOBuffered(width=job_layout(c).size, depth=self.tiles)
        m.d.comb += [
            rows.w_data.eq(requantizer.gradients.payload),
            rows.w_en.eq(requantizer.gradients.valid),
            jobs.w_data.eq(self.jobs.payload),
            jobs.w_en.eq(self.jobs.valid),
        ]
        queued = data.View(job_layout(c), jobs.r_data)
        at_hand = data.StructLayout(
            {"hidden": 1, "ends_hidden": 1, "columns": queued.columns.shape(), "base": range(c.batch_tiles * c.max_H)}
        )
        m.submodules.next_job = next_job = RegisterSlice(at_hand)
        m.d.comb += [
            next_job.source.valid.eq(jobs.r_rdy),
            jobs.r_en.eq(next_job.source.ready),
            *[getattr(next_job.source.payload, n).eq(getattr(queued, n)) for n in ("hidden", "ends_hidden", "columns")],
            next_job.source.payload.base.eq(queued.batch_tile * c.max_H + queued.first_column),
        ]
        # the queue may be a block memory, whose words come late in the cycle; and the stall ends after it
        m.submodules.next_row = next_row = ForwardRegister(row_layout)
        wiring.connect(m, rows.r_stream, next_row.source)
        m.submodules.row_slice = row_slice = RegisterSlice(row_layout)
        wiring.connect(m, next_row.sink, row_slice.source)
        job, queued_row = next_job.sink.payload, row_slice.sink.payload
        m.submodules.tiles_open = tiles = CreditCounter(self.tiles, at_once=1 + self.kept_free)
        spacing = Signal(range(c.R + 1))
        index = Signal(range(c.R))
        # a row and what its job says of it
        placed_layout = data.StructLayout(
            {
                **dict(row_layout.members),
                "hidden": 1,
                "exists": 1,
                "last": 1,
                "ends_hidden": 1,
                "address": range(c.batch_tiles * c.max_H),
            }
        )
        m.submodules.placed = placed = RegisterSlice(placed_layout)
        coming, row = placed.source.payload, placed.sink.payload
        m.d.comb += [
            placed.source.valid.eq(row_slice.sink.valid & next_job.sink.valid),
            row_slice.sink.ready.eq(placed.source.ready & next_job.sink.valid),
            next_job.sink.ready.eq(placed.source.ready & row_slice.sink.valid & coming.last),
            *[getattr(coming, n).eq(getattr(queued_row, n)) for n in row_layout.members],
            coming.hidden.eq(job.hidden),
            coming.exists.eq(index < job.columns),
            coming.last.eq(index == c.R - 1),
            coming.ends_hidden.eq(job.ends_hidden & coming.last),
            coming.address.eq(job.base + index),
        ]
        with m.If(placed.source.valid & placed.source.ready):
            m.d.sync += index.eq(Mux(coming.last, 0, index + 1))

        take = Signal()
        # ends of tiles are R cycles apart: the drain register of a lane serves one row at a time
        # a register says so
        spaced = Signal(init=1)
        next_spaced = Signal()
        m.d.comb += next_spaced.eq(spaced | (spacing == 1))
        with m.If(self.jobs.valid):
            m.d.comb += next_spaced.eq(c.R <= JOB_DELAY + 1)
            m.d.sync += spacing.eq(max(c.R - 1 - JOB_DELAY, 0))
        with m.Elif(~spaced):
            m.d.sync += spacing.eq(spacing - 1)
        m.d.sync += spaced.eq(next_spaced)
        m.d.comb += [
            self.dx.valid.eq(placed.sink.valid & ~row.hidden & row.exists),
            self.dx.payload.eq(row.lanes),
            placed.sink.ready.eq(row.hidden | ~row.exists | self.dx.ready),
            take.eq(placed.sink.valid & placed.sink.ready),
            # rows of h never wait
            self.hidden_write.valid.eq(placed.sink.valid & row.hidden & row.exists),
            self.hidden_write.payload.address.eq(row.address),
            self.hidden_write.payload.word.eq(row.lanes),
            self.hidden_done.eq(placed.sink.valid & row.ends_hidden),
            tiles.acquire.eq(self.jobs.valid),
            tiles.release.eq(take & row.last),
            self.ready.eq(spaced & tiles.available),
            self.idle.eq(tiles.idle),
        ]
        m.d.sync += [
            self.saturated.valid.eq(take & row.exists),
            self.saturated.payload.eq(sum((row.saturated[n] for n in range(1, c.C)), start=row.saturated[0])),
        ]
        return m
