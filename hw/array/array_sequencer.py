"""Array sequencer: the order in which tiles reach the array."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from itertools import pairwise
from operator import or_
from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from gradsieve.hw.array.schedule import BACKWARD, Phase
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.dataflow import having
from gradsieve.hw.layouts import job_layout, run_layout
from gradsieve.hw.lib.arithmetic import bits_for
from gradsieve.hw.lib.credit_counter import CreditCounter
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.loop_counter import LoopCounter
from gradsieve.hw.lib.register_slice import RegisterSlice
from gradsieve.hw.lib.stream_memory import StreamMemory, write_layout


def _meta_layout(config: EngineConfig) -> data.StructLayout:
    return data.StructLayout({"job": job_layout(config), "any_row": 1})


class ArraySequencer(wiring.Component):
    """Jobs for the compactor, one a cycle: for each step, descending, and batch tile, ascending, those of `phases`.

    `steps` brings one token a batch tile whose rows are in the gate gradient store (1: it kept some row); `inputs_done`
    one pulse a batch tile whose x and h are in the input store.  Jobs that can have no index (no row or column kept)
    are left out if their sums lie in a store, except the last of a batch tile, which ends it.  Jobs with a stationary
    input also go to `input_jobs`, well ahead of their first index, so that it loads while the tile before runs.
    `waiting` is high while the next token is missing.  A token that is waited for gives its first job `latency` cycles
    later.
    """

    latency = (
        1  # the state
        + RegisterSlice.latency  # the address of the tile's column bit
        + StreamMemory.latency
        + RegisterSlice.latency  # the bit
        + RegisterSlice.latency  # the job, judged by it
    )

    def __init__(self, config: EngineConfig, phases: tuple[Phase, ...] = BACKWARD) -> None:
        self.config, self.phases = config, phases
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
        meta_layout = _meta_layout(c)
        m.submodules.meta = meta_fifo = SyncFIFOBuffered(width=meta_layout.size, depth=4)
        asked_layout = data.StructLayout({"address": range(self.column_bits), "meta": meta_layout})
        m.submodules.asked = asked = RegisterSlice(asked_layout)
        meta_in, ask = asked.source.payload.meta, asked.sink.payload

        # the compactor's stall ends at a register: it reaches neither the memory nor the states within a cycle
        m.submodules.column = column = RegisterSlice(1)
        wiring.connect(m, columns.word, column.source)

        step = Signal(range(c.max_T))
        batch_tile = LoopCounter(m, run.end.batch_tiles, "batch_tile")
        # both count the tiles; they end apart
        x_tile, h_tile = LoopCounter(m, run.end.x_tiles, "x_tile"), LoopCounter(m, run.end.h_tiles, "h_tile")
        first_column = Signal(bits_for(max(c.max_I, c.max_H) + c.R))
        slot = Signal()
        any_row = Signal()
        m.submodules.inputs_ready = inputs = CreditCounter(2)  # batch tiles whose x and h wait for their jobs
        issue = Signal()
        offer = Signal()
        end_x, end_h = x_tile.at_end, h_tile.at_end
        phase = Signal(range(len(self.phases)))

        def of_phase(says: Callable[[Phase], bool]) -> Value:
            """What the table says of the phase at hand."""
            return reduce(or_, [phase == n for n, of in enumerate(self.phases) if says(of)], Const(0))

        hidden, waits_for_rows = of_phase(lambda p: p.columns == "h"), of_phase(lambda p: p.waits_for == "rows")
        last_phase, end_tile = phase == len(self.phases) - 1, Mux(hidden, end_h, end_x)
        next_waits = of_phase(lambda p: any(a is p and b.waits_for is not None for a, b in pairwise(self.phases)))
        m.d.comb += inputs.acquire.eq(self.inputs_done)
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
            job.hidden.eq(hidden),
            job.slot.eq(slot),
            job.tile.eq(Mux(hidden, c.x_tiles + h_tile.value, x_tile.value)),
            job.first_column.eq(first_column),
            job.lanes.eq(Mux(batch_tile.at_end, run.last_lanes, c.C)),
            job.batch_tile.eq(batch_tile.value),
            job.ends_hidden.eq(of_phase(lambda p: p.result == "dh_rec") & end_tile),
            job.ends_step.eq(last_phase & end_tile),
            meta_in.any_row.eq(any_row),
        ]
        with m.Switch(phase):
            for n, of in enumerate(self.phases):
                with m.Case(n):
                    m.d.comb += job.dataflow.eq(of.dataflow)
        with m.If(hidden):
            m.d.comb += job.columns.eq(Mux(end_h, run.last_h_columns, c.R))
        with m.Else():
            m.d.comb += job.columns.eq(Mux(end_x, run.last_x_columns, c.R))

        with m.FSM():
            with m.State("IDLE"):  # no run
                with m.If(self.start):
                    m.d.sync += [step.eq(run.T - 1), slot.eq(0), first_column.eq(0), phase.eq(0)]
                    for each in (batch_tile, x_tile, h_tile):
                        each.clear()
                    m.next = "WAIT"
            with m.State("WAIT"):  # for what the phase needs of this batch tile
                m.d.comb += [self.steps.ready.eq(waits_for_rows), self.waiting.eq(waits_for_rows & ~self.steps.valid)]
                with m.If(waits_for_rows):
                    m.d.sync += any_row.eq(self.steps.payload)
                with m.Else():
                    m.d.comb += inputs.release.eq(~inputs.idle)
                with m.If(Mux(waits_for_rows, self.steps.valid, ~inputs.idle)):
                    m.next = "TILES"
            with m.State("TILES"):  # a job for each column tile of the phase
                m.d.comb += offer.eq(1)
                with m.If(issue):
                    m.d.sync += first_column.eq(first_column + c.R)
                    with m.If(hidden):
                        h_tile.advance()
                    with m.Else():
                        x_tile.advance()
                    with m.If(end_tile):
                        m.d.sync += [first_column.eq(0), phase.eq(Mux(last_phase, 0, phase + 1))]
                        with m.If(last_phase):
                            m.next = "NEXT"
                        with m.Elif(next_waits):
                            m.next = "WAIT"
            with m.State("NEXT"):  # on to the next batch tile or step
                m.d.sync += slot.eq(~slot)
                batch_tile.advance()
                m.next = "WAIT"
                with m.If(batch_tile.at_end):
                    m.d.sync += step.eq(step - 1)
                    with m.If(step == 0):
                        m.d.comb += self.done.eq(1)
                        m.next = "IDLE"

        self._send(m, self._judge(m, meta_fifo, column))
        return m

    def _judge(self, m: Module, meta_fifo: SyncFIFOBuffered, column: RegisterSlice) -> RegisterSlice:
        """A job and what its column says of it; jobs that can have no index end here."""
        c, run = self.config, self.run
        meta = data.View(_meta_layout(c), meta_fifo.r_data)
        m.submodules.judged = judged = RegisterSlice(job_layout(c))
        kept = Signal()
        skip = Signal()
        judges = Signal()
        m.d.comb += [
            kept.eq(column.sink.payload | ~run.column_mask),
            skip.eq(having(meta.job.dataflow, begins="store") & ~meta.job.ends_step & (~kept | ~meta.any_row)),
            judges.eq(meta_fifo.r_rdy & column.sink.valid & judged.source.ready),
            meta_fifo.r_en.eq(judges),
            column.sink.ready.eq(judges),
            judged.source.valid.eq(judges & ~skip),
            judged.source.payload.eq(meta.job),
            judged.source.payload.kept.eq(kept),
        ]
        return judged

    def _send(self, m: Module, judged: RegisterSlice) -> None:
        """To both readers in the same cycle."""
        fenced = Signal()
        offered = judged.sink.payload
        both_ready = Signal()
        loads, stores = having(offered.dataflow, stationary="input"), having(offered.dataflow, ends="store")
        m.d.comb += [
            both_ready.eq(self.jobs.ready & (self.input_jobs.ready | ~loads)),
            judged.sink.ready.eq(both_ready),
            self.jobs.valid.eq(judged.sink.valid & (self.input_jobs.ready | ~loads)),
            self.input_jobs.valid.eq(judged.sink.valid & loads & self.jobs.ready),
            self.input_jobs.payload.eq(self.jobs.payload),
            self.jobs.payload.eq(offered),
            self.jobs.payload.fence.eq(stores & ~fenced),
        ]
        with m.If(judged.sink.valid & both_ready):
            m.d.sync += fenced.eq(stores)
