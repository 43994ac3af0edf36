"""The gate path: from tape and seeds to sieved rows, bitmaps, db and statistics."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, connect, flipped

from gradsieve.hw.config import BITMAP_WORD, RANDOM_WIDTH, EngineConfig
from gradsieve.hw.gates.bias_gradient import BiasGradientAccumulator
from gradsieve.hw.gates.gate_gradient import GateGradientUnit
from gradsieve.hw.gates.gate_sequencer import GateSequencer
from gradsieve.hw.gates.row_bitmap import RowBitmapBuilder
from gradsieve.hw.gates.sieve import Sieve
from gradsieve.hw.gates.state_store import StateStore
from gradsieve.hw.interfaces import Commands, SievedRows, StateRead, bias_gradient_read
from gradsieve.hw.layouts import state_layout
from gradsieve.hw.lib.idioms import gated
from gradsieve.hw.lib.register_slice import RegisterSlice
from gradsieve.hw.packets import STATISTICS_WORDS


class GatePath(wiring.Component):
    """Tape -> gate sequencer -> gate gradient unit -> sieve -> row bitmap builder, with the state between steps.

    `records` and `x` bring the tape, `hidden_seed` and `cell_seed` the state before the first step.  `sieved` fills the
    array's slots, `statistics` goes to the host, `random` is the state of the sieve's random numbers.  `events` are
    what the counters count, each zero in cycles without one.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.sequencer, self.state = GateSequencer(config), StateStore(config)
        self.unit, self.sieve = GateGradientUnit(config), Sieve(config)
        self.builder = RowBitmapBuilder(config)
        saturated = self.unit.saturated.payload
        events = {
            "rows_kept": Out(self.builder.rows_kept.shape()),
            "elements_kept": Out(self.builder.elements_kept.shape()),
            "saturated_gate": Out(saturated.gate.shape()),
            "saturated_factor": Out(saturated.factor.shape()),
            "saturated_sieve": Out(self.builder.sieve_saturated.payload.shape()),
            "stall_tape": Out(1),
        }
        super().__init__(
            {
                "commands": In(Commands(config)),
                "random": Out(RANDOM_WIDTH),
                "records": self.sequencer.signature.members["records"],
                "x": self.sequencer.signature.members["x"],
                "hidden_seed": self.state.signature.members["hidden_write"],
                "cell_seed": self.state.signature.members["cell_write"],
                "sieved": Out(SievedRows(config)),
                "statistics": Out(stream.Signature(BITMAP_WORD)),
                "state_read": In(StateRead(config)),
                "bias_read": In(bias_gradient_read(config)),
                "events": Out(wiring.Signature(events)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c = self.config
        m.submodules.sequencer = sequencer = self.sequencer
        m.submodules.gate_gradient_unit = unit = self.unit
        m.submodules.sieve = sieve = self.sieve
        m.submodules.row_bitmap_builder = builder = self.builder
        m.submodules.bias_gradient_accumulator = bias = BiasGradientAccumulator(c)
        run = self.commands.run
        m.d.comb += [sequencer.run.eq(run), builder.run.eq(run), sequencer.start.eq(self.commands.start)]

        connect(m, flipped(self.records), sequencer.records)
        connect(m, flipped(self.x), sequencer.x)
        connect(m, sequencer.gate_inputs, unit.inputs)
        connect(m, unit.cells, sequencer.cells)
        connect(m, unit.rows, sieve.rows)
        connect(m, sieve.sieved, builder.sieved)
        # the bitmap builder may still be at the batch tile before
        m.submodules.tiles = tiles = RegisterSlice(1)
        connect(m, sequencer.tile, tiles.source)
        connect(m, tiles.sink, builder.tile)
        m.d.comb += [
            sieve.mode.eq(run.sieve),
            sieve.tau.eq(run.tau),
            self.random.eq(sieve.random),
        ]
        connect(m, flipped(self.commands.random_load), sieve.random_load)

        # to the array
        sieved = self.sieved
        connect(m, builder.row_write, flipped(sieved.row_write))
        connect(m, builder.bitmap_write, flipped(sieved.bitmap_write))
        connect(m, sequencer.input_write, flipped(sieved.input_write))
        m.submodules.batch_tiles = batch_tiles = RegisterSlice(1)  # as many as there may be
        connect(m, batch_tiles.sink, flipped(sieved.batch_tiles))
        m.d.comb += [
            batch_tiles.source.valid.eq(builder.done),
            batch_tiles.source.payload.eq(builder.rows_kept != 0),
            sieved.inputs_done.eq(sequencer.inputs_done),
            sequencer.step_done.eq(sieved.step_done),
            sequencer.hidden_done.eq(sieved.hidden_done),
        ]

        # to the host; a batch tile's statistics wait here while dx of the one before leaves
        depth = 2 * (c.bitmap_words + STATISTICS_WORDS)
        m.submodules.statistics = statistics = SyncFIFOBuffered(width=BITMAP_WORD, depth=depth)
        m.submodules.statistics_slice = statistics_slice = RegisterSlice(BITMAP_WORD)
        connect(m, builder.statistics, statistics_slice.source)
        connect(m, statistics_slice.sink, statistics.w_stream)
        connect(m, statistics.r_stream, flipped(self.statistics))
        connect(m, builder.bias_rows, bias.rows)
        connect(m, flipped(self.bias_read.clear), bias.clear)
        m.d.comb += [bias.address.eq(self.bias_read.address), self.bias_read.word.eq(bias.word)]
        self._keep_state(m)

        done, saturated, of_sieve = builder.done, unit.saturated, builder.sieve_saturated
        m.d.comb += [
            self.events.rows_kept.eq(gated(builder.rows_kept, done)),
            self.events.elements_kept.eq(gated(builder.elements_kept, done)),
            self.events.saturated_gate.eq(gated(saturated.payload.gate, saturated.valid)),
            self.events.saturated_factor.eq(gated(saturated.payload.factor, saturated.valid)),
            self.events.saturated_sieve.eq(gated(of_sieve.payload, of_sieve.valid)),
            self.events.stall_tape.eq(sequencer.stall_tape),
        ]
        return m

    def _keep_state(self, m: Module) -> None:
        """dh and dc: written by seeds, drain and gate gradient unit; read by the gate sequencer, then for the host."""
        c, sequencer, host = self.config, self.sequencer, self.state_read
        m.submodules.state_store = state = self.state
        for store, seed, write in (
            (state.hidden_write, self.hidden_seed, self.sieved.hidden_write),
            (state.cell_write, self.cell_seed, sequencer.cell_write),
        ):
            m.d.sync += [
                store.valid.eq(seed.valid | write.valid),
                # never both; a seed's valid is early in the cycle
                store.payload.eq(Mux(seed.valid, seed.payload.as_value(), write.payload.as_value())),
            ]
        m.submodules.state_request = state_request = RegisterSlice(state.request.payload.shape())
        connect(m, state_request.sink, state.request)
        m.submodules.state_words = state_words = RegisterSlice(state_layout(c))
        connect(m, state.state, state_words.source)
        # of its own, so that no stall of the output reaches the gate sequencer; it takes two cycles a unit anyway
        m.submodules.state_for_host = host_words = RegisterSlice(state_layout(c), full=False)
        connect(m, host_words.sink, flipped(host.state))
        for_host = Signal()
        asks = state_request.source
        words = state_words.sink
        m.d.sync += for_host.eq(host.active)
        for request, state_in, turn in (
            (sequencer.state_request, sequencer.state, ~for_host),
            (host.request, host_words.source, for_host),
        ):
            with m.If(turn):
                m.d.comb += [
                    asks.valid.eq(request.valid),
                    asks.payload.eq(request.payload),
                    words.ready.eq(state_in.ready),
                ]
            m.d.comb += [
                request.ready.eq(asks.ready & turn),
                state_in.valid.eq(words.valid & turn),
                state_in.payload.eq(words.payload),
            ]
