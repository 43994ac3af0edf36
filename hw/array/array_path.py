"""The array path: from sieved rows to dx, dh_rec and dW."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, connect, flipped

from gradsieve.hw.array.array_sequencer import ArraySequencer
from gradsieve.hw.array.compactor import Compactor
from gradsieve.hw.array.drain import Drain
from gradsieve.hw.array.input_store import InputStore
from gradsieve.hw.array.operand_fetch import OperandFetch
from gradsieve.hw.array.systolic_array import SystolicArray
from gradsieve.hw.array.weight_gradient_store import WeightGradientStore
from gradsieve.hw.array.weight_store import WeightStore
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.interfaces import Commands, SievedRows, weight_gradient_read
from gradsieve.hw.layouts import gate_rows_layout, job_layout, lanes_layout
from gradsieve.hw.lib.credit_counter import CreditCounter
from gradsieve.hw.lib.idioms import gated
from gradsieve.hw.lib.register_slice import RegisterSlice
from gradsieve.hw.lib.stream_memory import StreamMemory

JOB_QUEUE = 4
"""Jobs that wait for the array: the stationary inputs of the next ones load meanwhile."""


class ArrayPath(wiring.Component):
    """Array sequencer -> compactor -> operand fetch -> systolic array -> drain, with the stores of operands and dW.

    `weight_write`, `block_write` and `column_write` are what packets bring, `sieved` what the gate path makes.  `dx`
    leaves for the host; dW is read between runs.  `settled`: all work of the run that `commands` started is done.
    `events` are what the counters count, each zero in cycles without one.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.sequencer, self.compactor = ArraySequencer(config), Compactor(config)
        self.weights, self.fetch, self.drain = WeightStore(config), OperandFetch(config), Drain(config)
        events = {
            "busy_cycles": Out(1),
            "indices": Out(1),
            "macs": Out(self.fetch.macs.shape()),
            "saturated_error": Out(self.drain.saturated.payload.shape()),
            "stall_gates": Out(1),
            "stall_input": Out(1),
            "stall_drain": Out(1),
        }
        super().__init__(
            {
                "commands": In(Commands(config)),
                "weight_write": self.weights.signature.members["write"],
                "block_write": self.compactor.signature.members["block_bitmap_write"],
                "column_write": self.sequencer.signature.members["column_bitmap_write"],
                "sieved": In(SievedRows(config)),
                "dx": Out(stream.Signature(lanes_layout(config))),
                "gradient_read": In(weight_gradient_read(config)),
                "settled": Out(1),
                "events": Out(wiring.Signature(events)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c, sieved = self.config, self.sieved
        m.submodules.sequencer = sequencer = self.sequencer
        m.submodules.compactor = compactor = self.compactor
        m.submodules.operand_fetch = fetch = self.fetch
        m.submodules.systolic_array = array = SystolicArray(c)
        m.submodules.drain = drain = self.drain
        m.submodules.input_store = inputs = InputStore(c)
        m.submodules.gate_gradient_store = rows = StreamMemory(
            gate_rows_layout(c), 2 * c.gate_rows // c.gate_rows_per_cycle
        )
        m.submodules.weight_store = weights = self.weights
        m.submodules.weight_gradient_store = gradients = WeightGradientStore(c)
        run = self.commands.run
        m.d.comb += [sequencer.run.eq(run), compactor.run.eq(run), sequencer.start.eq(self.commands.start)]

        # what is stored before jobs ask for it
        connect(m, flipped(self.weight_write), weights.write)
        connect(m, flipped(self.block_write), compactor.block_bitmap_write)
        connect(m, flipped(self.column_write), sequencer.column_bitmap_write)
        connect(m, flipped(sieved.row_write), rows.write)
        connect(m, flipped(sieved.bitmap_write), compactor.row_bitmap_write)
        connect(m, flipped(sieved.input_write), inputs.write)

        # jobs -> indices -> operands -> array -> drain and write-back
        connect(m, flipped(sieved.batch_tiles), sequencer.steps)
        m.d.comb += sequencer.inputs_done.eq(sieved.inputs_done)
        for name, source, sink in (
            ("jobs", sequencer.jobs, compactor.jobs),
            ("input_jobs", sequencer.input_jobs, inputs.jobs),
        ):
            m.submodules[name] = queue = SyncFIFOBuffered(width=job_layout(c).size, depth=JOB_QUEUE)
            m.submodules[f"{name}_slice"] = job_slice = RegisterSlice(job_layout(c))
            connect(m, source, queue.w_stream)
            connect(m, queue.r_stream, job_slice.source)
            connect(m, job_slice.sink, sink)
        connect(m, compactor.indices, fetch.indices)
        m.d.comb += [
            rows.request.valid.eq(fetch.row_request.valid),
            rows.request.payload.eq(fetch.row_request.payload),
            fetch.row_word.eq(rows.word.payload),
            rows.word.ready.eq(1),
            weights.address.eq(fetch.weight_address),
            array.weights.eq(weights.words),
            fetch.inputs_loaded.eq(inputs.loaded),
            inputs.taken.eq(fetch.inputs_taken),
            array.swap.eq(fetch.inputs_taken),
            fetch.drain_ready.eq(drain.ready),
        ]
        connect(m, inputs.rows, array.inputs)
        connect(m, fetch.operands, array.operands)
        connect(m, array.drain, drain.sums)
        connect(m, fetch.drain_jobs, drain.jobs)

        # results; the output's stall does not reach the drain within a cycle
        m.submodules.dx = dx = RegisterSlice(lanes_layout(c))
        connect(m, drain.dx, dx.source)
        connect(m, dx.sink, flipped(self.dx))
        connect(m, drain.hidden_write, flipped(sieved.hidden_write))
        m.d.comb += [sieved.hidden_done.eq(drain.hidden_done), sieved.step_done.eq(fetch.step_done)]
        # a run and the readout never use the weight gradients at the same time
        read = self.gradient_read
        connect(m, fetch.gradient_write, gradients.write)
        connect(m, flipped(read.clear), gradients.clear)
        m.d.comb += [
            gradients.address.eq(fetch.gradient_address),
            array.old_sums.eq(gradients.words),
            gradients.sums.eq(array.new_sums),
            gradients.reading.eq(read.active),
            gradients.read_address.eq(read.address),
            read.word.eq(gradients.words),
        ]

        # a run's work is over when every batch tile that was announced has left the array
        all_issued = Signal()
        m.submodules.tiles_left = tiles_left = CreditCounter(2)
        m.d.comb += [
            tiles_left.acquire.eq(sieved.batch_tiles.valid & sieved.batch_tiles.ready),
            tiles_left.release.eq(fetch.step_done),
        ]
        with m.If(self.commands.start | sequencer.done):
            m.d.sync += all_issued.eq(sequencer.done)
        m.d.sync += self.settled.eq(all_issued & tiles_left.idle & fetch.idle & drain.idle)

        saturated = drain.saturated
        m.d.comb += [
            self.events.busy_cycles.eq(fetch.busy),
            self.events.indices.eq(fetch.streamed),
            self.events.macs.eq(gated(fetch.macs, fetch.streamed)),
            self.events.saturated_error.eq(gated(saturated.payload, saturated.valid)),
            self.events.stall_gates.eq(sequencer.waiting & ~fetch.busy),
            self.events.stall_input.eq(fetch.stall_input),
            self.events.stall_drain.eq(fetch.stall_drain),
        ]
        return m
