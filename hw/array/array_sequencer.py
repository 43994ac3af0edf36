"""Array sequencer: the order in which tiles reach the array."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import EngineConfig
from gradsieve.hw.layouts import job_layout, run_layout
from gradsieve.hw.lib.arithmetic import bits_for
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.loop_counter import LoopCounter
from gradsieve.hw.lib.register_slice import RegisterSlice
from gradsieve.hw.lib.stream_memory import StreamMemory, write_layout


class ArraySequencer(wiring.Component):
    """Jobs for the compactor, one a cycle: for each batch tile dh_rec first, then dx, then dW of x and of h.

    dh_rec comes first because the next step's gate gradients wait for it; dx and dW cover them.  `steps` brings one
    token a batch tile whose rows are in the gate gradient store (1: it kept some row); `inputs_done` one pulse a batch
    tile whose x and h are in the input store.  Gradient jobs that can have no index (no row or column kept) are left
    out, except the last of a batch tile, which ends it.  Gradient jobs also go to `input_jobs`, well ahead of their
    first index, so that their stationary inputs load behind the running tile.  `waiting` is high while the next token
    is missing.  A token that is waited for gives its first job `latency` cycles later.
    """

    latency = (
        1  # the state
        + RegisterSlice.latency  # the address of the tile's column bit
        + StreamMemory.latency
        + RegisterSlice.latency  # the bit
        + RegisterSlice.latency  # the job, judged by it
    )

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.column_bits = config.max_T * config.tiles
        super().__init__(
            {
                "run": In(run_layout(config)),
                "start": In(1),
                "column_bitmap_write": In(Flow(write_layout(1, self.column_bits))),
                "steps": In(stream.Signature(1)),
                "inputs_done": In(1),
                "jobs": Out(stream.Signature(job_layout(config))),
                "input_jobs": Out(stream.Signature(job_layout(config))),
                "waiting": Out(1),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c, run = self.config, self.run
        m.submodules.column_bitmap = columns = StreamMemory(1, self.column_bits)
        wiring.connect(m, wiring.flipped(self.column_bitmap_write), columns.write)
        meta_layout = data.StructLayout({"job": job_layout(c), "any_row": 1})
        m.submodules.meta = meta_fifo = SyncFIFOBuffered(width=meta_layout.size, depth=4)
        meta = data.View(meta_layout, meta_fifo.r_data)
        asked_layout = data.StructLayout({"address": range(self.column_bits), "meta": meta_layout})
        m.submodules.asked = asked = RegisterSlice(asked_layout)
        meta_in, ask = asked.source.payload.meta, asked.sink.payload

        # the compactor's stall ends at a register: it reaches neither the memory nor the states within a cycle
        m.submodules.column = column = RegisterSlice(1)
        wiring.connect(m, columns.word, column.source)

        step, batch_tile = Signal(range(c.max_T)), LoopCounter(m, run.end.batch_tiles, "batch_tile")
        # both count the tiles; they end apart
        x_tile, h_tile = LoopCounter(m, run.end.x_tiles, "x_tile"), LoopCounter(m, run.end.h_tiles, "h_tile")
        first_column = Signal(bits_for(max(c.max_I, c.max_H) + c.R))
        slot, any_row = Signal(), Signal()
        inputs_ready, inputs_taken = Signal(2), Signal()
        issue, offer = Signal(), Signal()
        end_x, end_h = x_tile.at_end, h_tile.at_end
        gradient, hidden = Signal(), Signal()
        m.d.sync += inputs_ready.eq(inputs_ready + self.inputs_done - inputs_taken)
        job = meta_in.job
        m.d.comb += [
            issue.eq(offer & asked.source.ready),
            asked.source.valid.eq(offer),
            asked.source.payload.address.eq(step * c.tiles + job.tile),
            columns.request.valid.eq(asked.sink.valid & meta_fifo.w_rdy),
            columns.request.payload.eq(ask.address),
            meta_fifo.w_en.eq(asked.sink.valid & columns.request.ready),
            meta_fifo.w_data.eq(ask.meta),
            asked.sink.ready.eq(columns.request.ready & meta_fifo.w_rdy),
            job.gradient.eq(gradient),
            job.hidden.eq(hidden),
            job.slot.eq(slot),
            job.tile.eq(Mux(hidden, c.x_tiles + h_tile.value, x_tile.value)),
            job.first_column.eq(first_column),
            job.lanes.eq(Mux(batch_tile.at_end, run.last_lanes, c.C)),
            job.batch_tile.eq(batch_tile.value),
            job.ends_hidden.eq(~gradient & hidden & end_h),
            job.ends_step.eq(gradient & hidden & end_h),
            meta_in.any_row.eq(any_row),
        ]
        with m.If(hidden):
            m.d.comb += job.columns.eq(Mux(end_h, run.last_h_columns, c.R))
        with m.Else():
            m.d.comb += job.columns.eq(Mux(end_x, run.last_x_columns, c.R))

        def tiles(state: str, is_gradient: bool, is_hidden: bool, after: str) -> None:
            with m.State(state):
                m.d.comb += [offer.eq(1), gradient.eq(is_gradient), hidden.eq(is_hidden)]
                with m.If(issue):
                    (h_tile if is_hidden else x_tile).advance()
                    m.d.sync += first_column.eq(first_column + c.R)
                    with m.If(end_h if is_hidden else end_x):
                        m.d.sync += first_column.eq(0)
                        m.next = after

        with m.FSM():
            with m.State("IDLE"):  # no run
                with m.If(self.start):
                    m.d.sync += [step.eq(run.T - 1), slot.eq(0), first_column.eq(0)]
                    for each in (batch_tile, x_tile, h_tile):
                        each.clear()
                    m.next = "WAIT_ROWS"
            with m.State("WAIT_ROWS"):  # for the rows of the next batch tile
                m.d.comb += [self.steps.ready.eq(1), self.waiting.eq(~self.steps.valid)]
                with m.If(self.steps.valid):
                    m.d.sync += any_row.eq(self.steps.payload)
                    m.next = "ERROR_HIDDEN"
            tiles("ERROR_HIDDEN", False, True, "ERROR_INPUT")  # dh_rec
            tiles("ERROR_INPUT", False, False, "WAIT_INPUTS")  # dx
            with m.State("WAIT_INPUTS"):  # for x and h of this batch tile
                with m.If(inputs_ready != 0):
                    m.d.comb += inputs_taken.eq(1)
                    m.next = "GRADIENT_INPUT"
            tiles("GRADIENT_INPUT", True, False, "GRADIENT_HIDDEN")  # dW_ih
            tiles("GRADIENT_HIDDEN", True, True, "NEXT")  # dW_hh
            with m.State("NEXT"):  # on to the next batch tile or step
                m.d.sync += slot.eq(~slot)
                batch_tile.advance()
                m.next = "WAIT_ROWS"
                with m.If(batch_tile.at_end):
                    m.d.sync += step.eq(step - 1)
                    with m.If(step == 0):
                        m.d.comb += self.done.eq(1)
                        m.next = "IDLE"

        # a job and what its column says of it; jobs without any index end here
        m.submodules.judged = judged = RegisterSlice(job_layout(c))
        kept, skip, judges = Signal(), Signal(), Signal()
        m.d.comb += [
            kept.eq(column.sink.payload | ~run.column_mask),
            skip.eq(meta.job.gradient & ~meta.job.ends_step & (~kept | ~meta.any_row)),
            judges.eq(meta_fifo.r_rdy & column.sink.valid & judged.source.ready),
            meta_fifo.r_en.eq(judges),
            column.sink.ready.eq(judges),
            judged.source.valid.eq(judges & ~skip),
            judged.source.payload.eq(meta.job),
            judged.source.payload.kept.eq(kept),
        ]

        # to both readers in the same cycle
        fenced, offered, both_ready = Signal(), judged.sink.payload, Signal()
        m.d.comb += [
            both_ready.eq(self.jobs.ready & (self.input_jobs.ready | ~offered.gradient)),
            judged.sink.ready.eq(both_ready),
            self.jobs.valid.eq(judged.sink.valid & (self.input_jobs.ready | ~offered.gradient)),
            self.input_jobs.valid.eq(judged.sink.valid & offered.gradient & self.jobs.ready),
            self.input_jobs.payload.eq(self.jobs.payload),
            self.jobs.payload.eq(offered),
            self.jobs.payload.fence.eq(offered.gradient & ~fenced),
        ]
        with m.If(judged.sink.valid & both_ready):
            m.d.sync += fenced.eq(offered.gradient)
        return m
