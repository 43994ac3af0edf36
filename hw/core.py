"""The core: every block behind the packet units, wired (docs/architecture.md)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from gradsieve.hw.array.array_sequencer import ArraySequencer
from gradsieve.hw.array.compactor import Compactor
from gradsieve.hw.array.drain import Drain
from gradsieve.hw.array.input_store import InputStore
from gradsieve.hw.array.operand_fetch import OperandFetch
from gradsieve.hw.array.systolic_array import SystolicArray
from gradsieve.hw.array.weight_gradient_store import WeightGradientStore
from gradsieve.hw.array.weight_store import WeightStore
from gradsieve.hw.config import BITMAP_WORD, EngineConfig
from gradsieve.hw.gates.bias_gradient import BiasGradientAccumulator
from gradsieve.hw.gates.gate_gradient import GateGradientUnit
from gradsieve.hw.gates.gate_sequencer import GateSequencer
from gradsieve.hw.gates.row_bitmap import RowBitmapBuilder
from gradsieve.hw.gates.sieve import Sieve
from gradsieve.hw.gates.state_store import StateStore
from gradsieve.hw.host.controller import Controller
from gradsieve.hw.host.counters import Counters
from gradsieve.hw.host.input_packets import InputPackets
from gradsieve.hw.host.output_packets import OutputPackets
from gradsieve.hw.host.packing import beat_layout
from gradsieve.hw.host.readout import WeightGradientReadout
from gradsieve.hw.host.registers import COUNTERS_32, COUNTERS_64
from gradsieve.hw.layouts import gate_rows_layout, job_layout, lanes_layout, state_layout
from gradsieve.hw.lib.credit_counter import CreditCounter
from gradsieve.hw.lib.register_slice import RegisterSlice
from gradsieve.hw.lib.stream_memory import StreamMemory
from gradsieve.hw.packets import STATISTICS_WORDS

JOB_QUEUE = 4
"""Jobs that wait for the array: the stationary inputs of the next ones load meanwhile."""


class Core(wiring.Component):
    """All of the engine that a soft reset resets: from input contents to output beats.

    The packet units' framing state and the host's registers lie outside.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.packets = InputPackets(config)
        packet_contents = {
            name: member.flip()
            for name, member in self.packets.signature.members.items()
            if name not in ("beats", "clear", "resync", "open")
        }
        registers = {
            name: In(32)
            for name in ("h", "i", "b", "t", "tau", "random", "mode", "read_mode", "control", "sizes_written")
        }
        outputs = {
            name.lower(): Out(width) for names, width in ((COUNTERS_64, 64), (COUNTERS_32, 32)) for name in names
        }
        super().__init__(
            {
                **packet_contents,
                **registers,
                **outputs,
                "random_load": In(1),
                "random_live": Out(32),
                "terms": Out(32),
                "busy": Out(1),
                "fatal": Out(1),
                "error_code": Out(4),
                "soft_reset": Out(1),
                "soft_resync": Out(1),
                "stalled": In(1),
                "out": Out(stream.Signature(beat_layout(config.stream_width))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c = self.config
        rate = c.gate_rows_per_cycle
        m.submodules.controller = controller = Controller(c)
        m.submodules.gate_sequencer = gates = GateSequencer(c)
        m.submodules.gate_gradient_unit = unit = GateGradientUnit(c)
        m.submodules.sieve = sieve = Sieve(c)
        m.submodules.row_bitmap_builder = builder = RowBitmapBuilder(c)
        m.submodules.bias_gradient_accumulator = bias = BiasGradientAccumulator(c)
        m.submodules.array_sequencer = sequencer = ArraySequencer(c)
        m.submodules.compactor = compactor = Compactor(c)
        m.submodules.operand_fetch = fetch = OperandFetch(c)
        m.submodules.systolic_array = array = SystolicArray(c)
        m.submodules.drain = drain = Drain(c)
        m.submodules.input_store = inputs = InputStore(c)
        m.submodules.state_store = state = StateStore(c)
        m.submodules.gate_gradient_store = rows = StreamMemory(gate_rows_layout(c), 2 * c.gate_rows // rate)
        m.submodules.weight_store = weights = WeightStore(c)
        m.submodules.weight_gradient_store = gradients = WeightGradientStore(c)
        m.submodules.readout = readout = WeightGradientReadout(c)
        m.submodules.output_packets = output = OutputPackets(c)
        m.submodules.counters = counters = Counters(c)

        def join(source: Any, sink: Any) -> None:
            wiring.connect(m, source, sink)

        flip = wiring.flipped
        for block in (gates, builder, sequencer, compactor, readout, output):
            m.d.comb += block.run.eq(controller.run)
        m.d.comb += self.run.eq(controller.run)

        # commands
        settled = Signal()
        # a read is over when its packet is, and the last of the words that it clears
        packet_sent, words_cleared = Signal(), Signal()
        with m.If(output.done | controller.read):
            m.d.sync += packet_sent.eq(output.done)
        with m.If(readout.done | controller.read):
            m.d.sync += words_cleared.eq(readout.done)
        m.d.comb += [
            *[getattr(controller.sizes, n).eq(getattr(self, n.lower())) for n in ("H", "I", "B", "T")],
            controller.sizes_written.eq(self.sizes_written),
            *[getattr(controller, n).eq(getattr(self, n)) for n in ("mode", "read_mode", "tau", "control")],
            controller.random.eq(sieve.random),
            controller.loading.eq(self.loading),
            controller.run_done.eq(output.done),
            controller.read_done.eq(packet_sent & words_cleared),
            controller.clear_done.eq(readout.done),
            controller.settled.eq(settled),
            controller.packet_error.valid.eq(self.error.valid),
            controller.packet_error.payload.eq(self.error.payload),
            self.running.eq(controller.active),
            self.sizes_ready.eq(controller.sizes_ready | controller.running),
            self.sizes_bad.eq(controller.sizes_bad),
            self.soft_reset.eq(controller.soft_reset),
            self.soft_resync.eq(controller.resync),
            self.busy.eq(controller.busy),
            self.fatal.eq(controller.fatal),
            self.error_code.eq(controller.error),
            self.terms.eq(controller.terms),
            gates.start.eq(controller.start),
            sequencer.start.eq(controller.start),
            output.start_run.eq(controller.start),
            output.start_read.eq(controller.read),
            readout.read.eq(controller.read),
            readout.clear.eq(controller.clear),
            readout.mode.eq(controller.reading),
        ]

        # tape -> gate gradients -> sieve -> rows and bitmaps
        join(flip(self.records), gates.records)
        join(flip(self.x), gates.x)
        join(gates.gate_inputs, unit.inputs)
        join(unit.cells, gates.cells)
        join(unit.rows, sieve.rows)
        join(sieve.sieved, builder.sieved)
        # the bitmap builder may still be at the batch tile before
        m.submodules.tiles = tiles = RegisterSlice(1)
        join(gates.tile, tiles.source)
        join(tiles.sink, builder.tile)
        join(gates.input_write, inputs.write)
        join(builder.row_write, rows.write)
        join(builder.bias_rows, bias.rows)
        join(builder.bitmap_write, compactor.row_bitmap_write)
        m.d.comb += [
            sieve.mode.eq(controller.run.sieve),
            sieve.tau.eq(controller.run.tau),
            sieve.random_load.valid.eq(self.random_load),
            sieve.random_load.payload.eq(self.random),
            self.random_live.eq(sieve.random),
            gates.step_done.eq(fetch.step_done),
            gates.hidden_done.eq(drain.hidden_done),
        ]
        # a batch tile's statistics wait here while dx of the one before leaves
        depth = 2 * (c.bitmap_words + STATISTICS_WORDS)
        m.submodules.statistics = statistics = SyncFIFOBuffered(width=BITMAP_WORD, depth=depth)
        m.submodules.statistics_slice = statistics_slice = RegisterSlice(BITMAP_WORD)
        join(builder.statistics, statistics_slice.source)
        join(statistics_slice.sink, statistics.w_stream)
        join(statistics.r_stream, output.statistics)

        # jobs -> indices -> operands -> array -> drain and write-back
        m.submodules.steps = steps = RegisterSlice(1)  # as many as there may be
        m.d.comb += [steps.source.valid.eq(builder.done), steps.source.payload.eq(builder.rows_kept != 0)]
        join(steps.sink, sequencer.steps)
        m.d.comb += sequencer.inputs_done.eq(gates.inputs_done)
        for name, source, sink in (
            ("jobs", sequencer.jobs, compactor.jobs),
            ("input_jobs", sequencer.input_jobs, inputs.jobs),
        ):
            queue = SyncFIFOBuffered(width=job_layout(c).size, depth=JOB_QUEUE)
            m.submodules[name] = queue
            m.submodules[f"{name}_slice"] = job_slice = RegisterSlice(job_layout(c))
            join(source, queue.w_stream)
            join(queue.r_stream, job_slice.source)
            join(job_slice.sink, sink)
        join(flip(self.block_write), compactor.block_bitmap_write)
        join(flip(self.column_write), sequencer.column_bitmap_write)
        join(compactor.indices, fetch.indices)
        join(flip(self.weight_write), weights.write)
        m.d.comb += [
            rows.request.valid.eq(fetch.row_request.valid),
            rows.request.payload.eq(fetch.row_request.payload),
            fetch.row_word.eq(rows.word.payload),
            rows.word.ready.eq(1),
            weights.address.eq(fetch.weight_address),
            array.weights.eq(weights.words),
        ]
        join(inputs.rows, array.inputs)
        join(fetch.operands, array.operands)
        join(array.drain, drain.sums)
        join(fetch.drain_jobs, drain.jobs)
        # the output's stall does not reach the drain within a cycle
        m.submodules.dx = dx = RegisterSlice(lanes_layout(c))
        join(drain.dx, dx.source)
        join(dx.sink, output.dx)
        m.d.comb += [
            fetch.inputs_loaded.eq(inputs.loaded),
            inputs.taken.eq(fetch.inputs_taken),
            array.swap.eq(fetch.inputs_taken),
            fetch.drain_ready.eq(drain.ready),
        ]

        # state: written by seeds, drain and gate gradient unit; read by the gate sequencer, then for the host
        for store, seed, write in (
            (state.hidden_write, self.hidden_write, drain.hidden_write),
            (state.cell_write, self.cell_write, gates.cell_write),
        ):
            m.d.sync += [
                store.valid.eq(seed.valid | write.valid),
                # never both; a seed's valid is early in the cycle
                store.payload.eq(Mux(seed.valid, seed.payload.as_value(), write.payload.as_value())),
            ]
        m.submodules.state_request = state_request = RegisterSlice(state.request.payload.shape())
        join(state_request.sink, state.request)
        m.submodules.state_words = state_words = RegisterSlice(state_layout(c))
        join(state.state, state_words.source)
        # of its own, so that no stall of the output reaches the gate sequencer; it takes two cycles a unit anyway
        m.submodules.state_for_host = host_words = RegisterSlice(state_layout(c), full=False)
        join(host_words.sink, output.state)
        for_host, asks, words = Signal(), state_request.source, state_words.sink
        m.d.sync += for_host.eq(output.in_state)
        for reader, state_in, turn in ((gates, gates.state, ~for_host), (output, host_words.source, for_host)):
            with m.If(turn):
                m.d.comb += [
                    asks.valid.eq(reader.state_request.valid),
                    asks.payload.eq(reader.state_request.payload),
                    words.ready.eq(state_in.ready),
                ]
            m.d.comb += [
                reader.state_request.ready.eq(asks.ready & turn),
                state_in.valid.eq(words.valid & turn),
                state_in.payload.eq(words.payload),
            ]

        # weight gradients: a run and the readout never use them at the same time
        reading = Signal()
        m.d.sync += reading.eq(~controller.running)
        join(fetch.gradient_write, gradients.write)
        join(readout.gradient_clear, gradients.clear)
        join(readout.bias_clear, bias.clear)
        m.d.comb += [
            gradients.address.eq(fetch.gradient_address),
            array.old_sums.eq(gradients.words),
            gradients.sums.eq(array.new_sums),
            gradients.reading.eq(reading),
            gradients.read_address.eq(readout.gradient_address),
            readout.gradient_words.eq(gradients.words),
            bias.address.eq(readout.bias_address),
            readout.bias_word.eq(bias.word),
        ]
        join(readout.groups, output.groups)
        join(output.beats, flip(self.out))

        # a run's work is over when every batch tile that the bitmap builder announced has left the array
        all_issued = Signal()
        m.submodules.tiles_left = tiles_left = CreditCounter(2)
        m.d.comb += [tiles_left.acquire.eq(builder.done), tiles_left.release.eq(fetch.step_done)]
        with m.If(controller.start | sequencer.done):
            m.d.sync += all_issued.eq(sequencer.done)
        m.d.sync += settled.eq(all_issued & tiles_left.idle & fetch.idle & drain.idle)

        # counters
        open_read = Signal()  # cycles of readouts: from the command to the packet's end
        # cycles of a run: from the start to the last statistics or dx beat and the last weight gradient stored
        in_result, has_result = Signal(), Signal()
        with m.If(controller.read | output.done):
            m.d.sync += open_read.eq(controller.read)
        with m.If(controller.start | output.result_done):
            m.d.sync += has_result.eq(output.result_done)
        with m.If(controller.start):
            m.d.sync += in_result.eq(1)
        with m.Elif(has_result & settled):
            m.d.sync += in_result.eq(0)

        def counted(valid: Any, value: Any) -> Any:
            # not a choice: Yosys would make a late reset of it
            return value & valid.replicate(len(value))

        adds = {
            "CYCLES": in_result,
            "BUSY_CYCLES": fetch.busy,
            "INDICES": fetch.streamed,
            "MACS": counted(fetch.streamed, fetch.macs),
            "LOAD_CYCLES": self.loading,
            "READOUT_CYCLES": open_read | output.in_state,
            "ROWS_KEPT": counted(builder.done, builder.rows_kept),
            "ELEMENTS_KEPT": counted(builder.done, builder.elements_kept),
            "SATURATED_GATE": counted(unit.saturated.valid, unit.saturated.payload.gate),
            "SATURATED_FACTOR": counted(unit.saturated.valid, unit.saturated.payload.factor),
            "SATURATED_SIEVE": counted(builder.sieve_saturated.valid, builder.sieve_saturated.payload),
            "SATURATED_ERROR": counted(drain.saturated.valid, drain.saturated.payload),
            "SATURATED_READ": counted(readout.saturated.valid, readout.saturated.payload),
            "STALL_GATES": sequencer.waiting & in_result & ~fetch.busy,
            "STALL_TAPE": gates.stall_tape & in_result,
            "STALL_INPUT": fetch.stall_input,
            "STALL_DRAIN": fetch.stall_drain,
            "STALL_OUTPUT": self.stalled & (in_result | open_read | output.in_state),
        }
        m.d.comb += [counters.start.eq(controller.start), counters.read.eq(controller.read)]
        for name, add in adds.items():
            m.d.comb += [
                getattr(counters, f"{name.lower()}_add").eq(add),
                getattr(self, name.lower()).eq(getattr(counters, name.lower())),
            ]
        return m
