"""Gate sequencer: walks the batch tiles and steps, and feeds the gate gradient unit from tape and state."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import EngineConfig
from gradsieve.hw.gates.gate_schedule import gate_period
from gradsieve.hw.layouts import gate_input_layout, lanes_layout, record_layout, run_layout, state_layout
from gradsieve.hw.lib.arithmetic import bits_for
from gradsieve.hw.lib.credit_counter import CreditCounter
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.loop_counter import LoopCounter
from gradsieve.hw.lib.register_slice import RegisterSlice
from gradsieve.hw.lib.stream_memory import write_layout


class GateSequencer(wiring.Component):
    """For t descending and batch tiles ascending: H records to the gate gradient unit, then I lane vectors of x.

    A batch tile starts when its slot is free (at most two are in use, `step_done` frees one), its dh_rec is
    complete (`hidden_done` counts the tiles of the step before) and the row bitmap builder is idle (`tile` is
    taken).  Units flow at the rate of the slowest of tape, state store and gate gradient unit (one in `period`
    cycles).  Lanes without a sample are zeroed here, and the seeds too when the run has none.  `inputs_done` pulses
    when x and h of a batch tile are stored.
    """

    start_delay = CreditCounter.latency
    """Cycles from `step_done` or `hidden_done` to the start that waited for it."""
    tile_gap = 2
    """Cycles from the last x of a batch tile to the start of the next one: the states between."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        input_lanes = data.ArrayLayout(signed(config.formats.input.width), config.C)
        self.input_depth = 2 * (config.max_I + config.max_H)
        self.state_depth = config.batch_tiles * config.max_H
        self.period = gate_period(config)
        super().__init__(
            {
                "run": In(run_layout(config)),
                "start": In(1),
                "done": Out(1),
                "step_done": In(1),
                "hidden_done": In(1),
                "tile": Out(stream.Signature(1)),
                "records": In(stream.Signature(record_layout(config))),
                "x": In(stream.Signature(input_lanes)),
                "state_request": Out(stream.Signature(range(self.state_depth))),
                "state": In(stream.Signature(state_layout(config))),
                "gate_inputs": Out(stream.Signature(gate_input_layout(config))),
                "cells": In(Flow(lanes_layout(config))),
                "cell_write": Out(Flow(write_layout(lanes_layout(config), self.state_depth))),
                "input_write": Out(Flow(write_layout(input_lanes, self.input_depth))),
                "inputs_done": Out(1),
                "stall_tape": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c, run = self.config, self.run
        step = Signal(range(c.max_T))
        batch_tile = LoopCounter(m, run.end.batch_tiles, "batch_tile")
        first_step = Signal()
        slot = Signal()
        last_tile = batch_tile.at_end
        m.submodules.slots = slots = CreditCounter(2)  # halves of the double-buffered stores
        m.submodules.hidden_tiles = tiles = CreditCounter(c.batch_tiles)  # batch tiles whose dh_rec is not complete
        m.submodules.cells_open = cells = CreditCounter(2 * c.max_H)  # units in the gate gradient unit
        requested, unit = LoopCounter(m, run.end.H, "requested"), LoopCounter(m, run.end.H, "unit")
        column = LoopCounter(m, run.end.I, "column")
        requesting = Signal()
        last_step = Signal()
        # the states in which records and x are taken, as registers: their stall reaches far
        in_units = Signal()
        in_x = Signal()
        # the cells of a batch tile leave the unit when the next one's records go in: they have their own counters
        cell_unit, cell_tile = LoopCounter(m, run.end.H, "cell_unit"), LoopCounter(m, run.end.batch_tiles, "cell_tile")
        cell_base = Signal(range(self.state_depth))
        tile_base = Signal(range(self.state_depth))
        input_base = Signal(range(self.input_depth))
        starting = Signal()
        lane_count = Signal(bits_for(c.C))
        m.d.comb += [
            lane_count.eq(Mux(last_tile, run.last_lanes, c.C)),
            input_base.eq(Mux(slot, self.input_depth // 2, 0)),
            self.tile.payload.eq(slot),
            self.state_request.payload.eq(tile_base + requested.value),
            self.cell_write.payload.address.eq(cell_base + cell_unit.value),
            self.cell_write.payload.word.eq(self.cells.payload),
            self.cell_write.valid.eq(self.cells.valid),
        ]
        record, take = self.records.payload, self._take(m, in_units, lane_count, ~first_step | run.seed)
        with m.If(self.cells.valid):
            cell_unit.advance()
            with m.If(cell_unit.at_end):
                cell_tile.advance()
                m.d.sync += cell_base.eq(Mux(cell_tile.at_end, 0, cell_base + c.max_H))
        m.d.comb += [
            slots.acquire.eq(starting),
            slots.release.eq(self.step_done),
            tiles.acquire.eq(starting),
            tiles.release.eq(self.hidden_done),
            tiles.limit.eq(run.batch_tiles),
            cells.acquire.eq(take),
            cells.release.eq(self.cells.valid),
        ]
        m.d.sync += last_step.eq(step == 0)
        m.d.comb += self.x.ready.eq(in_x)
        with m.FSM():
            with m.State("IDLE"):  # no run
                with m.If(self.start):
                    m.d.sync += [step.eq(run.T - 1), first_step.eq(1), tile_base.eq(0), slot.eq(0)]
                    for each in (batch_tile, cell_unit, cell_tile):
                        each.clear()
                    m.next = "WAIT"
            with m.State("WAIT"):  # for a free slot, a complete dh_rec and room in the queue of batch tiles
                m.d.comb += [
                    self.tile.valid.eq(slots.available & tiles.available),
                    starting.eq(slots.available & tiles.available & self.tile.ready),
                ]
                m.d.sync += requesting.eq(1)
                for each in (requested, unit, column):
                    each.clear()
                with m.If(starting):
                    m.d.sync += in_units.eq(1)
                    m.next = "UNITS"
            with m.State("UNITS"):  # records and state into the gate gradient unit, h into the input store
                m.d.comb += [
                    self.state_request.valid.eq(requesting),
                    self.input_write.valid.eq(take),
                    self.input_write.payload.address.eq(input_base + c.max_I + unit.value),
                    self.input_write.payload.word.eq(record.h_prev),
                    self.stall_tape.eq(~self.records.valid),
                ]
                with m.If(self.state_request.valid & self.state_request.ready):
                    requested.advance()
                    with m.If(requested.at_end):
                        m.d.sync += requesting.eq(0)
                with m.If(take):
                    unit.advance()
                    with m.If(unit.at_end):
                        m.d.sync += [in_units.eq(0), in_x.eq(1)]
                        m.next = "X"
            with m.State("X"):  # x into the input store
                m.d.comb += [
                    self.input_write.valid.eq(self.x.valid),
                    self.input_write.payload.address.eq(input_base + column.value),
                    self.input_write.payload.word.eq(self.x.payload),
                ]
                with m.If(self.x.valid):
                    column.advance()
                    with m.If(column.at_end):
                        m.d.comb += self.inputs_done.eq(1)
                        m.d.sync += in_x.eq(0)
                        m.next = "NEXT"
            with m.State("NEXT"):  # on to the next batch tile; after the last one, until all cells are stored
                finishes = last_tile & last_step
                with m.If(~finishes | cells.idle):
                    batch_tile.advance()
                    m.d.sync += [
                        slot.eq(~slot),
                        tile_base.eq(Mux(last_tile, 0, tile_base + c.max_H)),
                    ]
                    m.next = "WAIT"
                    with m.If(last_tile):
                        m.d.sync += [first_step.eq(0), step.eq(step - 1)]
                    with m.If(finishes):
                        m.d.comb += self.done.eq(1)
                        m.next = "IDLE"
        return m

    def _take(self, m: Module, in_units: Signal, lane_count: Signal, has_state: Value) -> Signal:
        """High when a record goes to the gate gradient unit with its state; lanes without a sample are zeroed."""
        c, record = self.config, self.records.payload
        # no stall of the array side reaches the tape's side within a cycle; not full, it takes 3 cycles a unit
        m.submodules.gate_inputs = unit_slice = RegisterSlice(gate_input_layout(c), full=self.period < 3)
        wiring.connect(m, unit_slice.sink, wiring.flipped(self.gate_inputs))
        inputs = unit_slice.source.payload
        lane_valid = Signal(c.C)
        seeded = Signal()
        # steady before the first unit of a batch tile
        m.d.sync += [seeded.eq(has_state), lane_valid.eq(Cat(*[n < lane_count for n in range(c.C)]))]
        for name in ("i", "f", "g", "o", "tanh_c", "c_prev"):
            m.d.comb += inputs[name].eq(record[name])
        m.d.comb += inputs.lane_valid.eq(lane_valid)
        for n in range(c.C):
            m.d.comb += [
                inputs.dy[n].eq(Mux(lane_valid[n], record.dy[n], 0)),
                inputs.dh[n].eq(Mux(lane_valid[n] & seeded, self.state.payload.dh[n], 0)),
                inputs.dc[n].eq(Mux(lane_valid[n] & seeded, self.state.payload.dc[n], 0)),
            ]
        take = Signal()
        may_take = Signal()
        waits_for_record = in_units & self.state.valid & unit_slice.source.ready
        if self.period > 1:
            # a register, as all this comes from far, and what it decides reaches far
            m.d.sync += may_take.eq(waits_for_record & ~take)
        else:
            m.d.comb += may_take.eq(waits_for_record)
        m.d.comb += [
            take.eq(self.records.valid & may_take),
            unit_slice.source.valid.eq(take),
            self.records.ready.eq(may_take),
            self.state.ready.eq(take),
        ]
        return take
