"""Weight gradient readout: dW and db as exact or requantized elements, and their clearing."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from hw.arithmetic import bits_for, saturate
from hw.config import EngineConfig
from hw.flow import Flow
from hw.operand_fetch import gradient_word_layout
from hw.register_slice import RegisterSlice
from hw.run import run_layout

EXACT_BITS, SHORT_BITS = 64, 32


class Section(IntEnum):
    """Sections of a readout, in order."""

    BIAS = 0
    INPUT = 1
    HIDDEN = 2


def read_mode_layout() -> data.StructLayout:
    """The fields of READ_MODE."""
    return data.StructLayout({"exact": 1, "keep": 1, "fraction": 6})


def group_elements(config: EngineConfig) -> int:
    """Elements of a column vector that leave together: a beat of requantized ones, at most a whole vector."""
    return min(config.stream_width // SHORT_BITS, config.column_slots)


def group_layout(config: EngineConfig) -> data.StructLayout:
    """A group of elements, packed to 64 or 32 bits each; a bias section has one element a group."""
    return data.StructLayout(
        {"data": group_elements(config) * EXACT_BITS, "exact": 1, "single": 1, "last": 1}  # last of its section
    )


REQUANTIZE_STAGES = 4
"""Registers between a word and its group: value, shift in two steps, rounding; the group saturates."""


class WeightGradientReadout(wiring.Component):
    """Reads (and, unless `keep`, clears) db, dW_ih and dW_hh in the order of docs/streams.md, or clears everything.

    `read` and `clear` start; `done` pulses at the end.  One group of elements a cycle; `latency` = 9 cycles to the
    first.  `clear` takes one cycle an address of the larger store.  `saturated` counts elements that 32 bits could
    not hold.  Only one of the run, `read` and `clear` may be active: the controller sees to it.
    """

    latency = 4 + REQUANTIZE_STAGES + RegisterSlice.latency

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        words = config.weight_words
        super().__init__(
            {
                "run": In(run_layout(config)),
                "mode": In(read_mode_layout()),
                "read": In(1),
                "clear": In(1),
                "done": Out(1),
                "gradient_request": Out(stream.Signature(range(words))),
                "gradient_word": In(stream.Signature(gradient_word_layout(config))),
                "gradient_clear": Out(Flow(range(words))),
                "bias_request": Out(stream.Signature(range(config.gate_rows))),
                "bias_word": In(stream.Signature(signed(config.formats.weight_grad_width))),
                "bias_clear": Out(Flow(range(config.gate_rows))),
                "groups": Out(stream.Signature(group_layout(config))),
                "saturated": Out(Flow(bits_for(group_elements(config)))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c, run = self.config, self.run
        width, elements = c.formats.weight_grad_width, group_elements(c)
        depth = max(c.weight_words, c.gate_rows)
        address, base = Signal(range(depth)), Signal(range(c.weight_words + c.gate_rows))
        tile, unit, gate = Signal(range(c.tiles)), Signal(range(c.max_H)), Signal(2)
        meta_layout = data.StructLayout({"address": range(depth), "section": Section, "last": 1})
        m.submodules.meta = meta_fifo = SyncFIFOBuffered(width=meta_layout.size, depth=4)
        meta_in, meta = Signal(meta_layout), data.View(meta_layout, meta_fifo.r_data)
        issue, finished, row = Signal(), Signal(), Signal(range(c.gate_rows))
        end_unit = unit == run.end.H
        m.d.comb += [
            row.eq(Cat(gate, unit)),
            meta_fifo.w_data.eq(meta_in),
            meta_fifo.w_en.eq(issue),
        ]

        def next_row() -> None:
            m.d.sync += unit.eq(Mux(end_unit, 0, unit + 1))
            with m.If(end_unit):
                m.d.sync += gate.eq(gate + 1)

        def matrix(state: str, section: Section, first_tile: int, end_of_tiles: Any, after: str) -> None:
            with m.State(state):
                end_tile = tile == end_of_tiles
                end = end_tile & end_unit & (gate == 3)
                m.d.comb += [
                    self.gradient_request.valid.eq(meta_fifo.w_rdy),
                    self.gradient_request.payload.eq(base + row),
                    issue.eq(meta_fifo.w_rdy & self.gradient_request.ready),
                    meta_in.address.eq(base + row),
                    meta_in.section.eq(section),
                    meta_in.last.eq(end),
                ]
                with m.If(issue):
                    m.d.sync += [tile.eq(tile + 1), base.eq(base + c.gate_rows)]
                    with m.If(end_tile):
                        m.d.sync += [tile.eq(0), base.eq(first_tile * c.gate_rows)]
                        next_row()
                    with m.If(end):
                        m.d.sync += base.eq(c.x_tiles * c.gate_rows)
                        m.next = after

        clearing, flushed = Signal(), Signal()
        with m.FSM():
            with m.State("IDLE"):  # nothing to do
                m.d.sync += [address.eq(0), base.eq(0), tile.eq(0), unit.eq(0), gate.eq(0)]
                with m.If(self.clear):
                    m.next = "CLEAR"
                with m.Elif(self.read):
                    m.next = "BIAS"
            with m.State("CLEAR"):  # walks both stores
                m.d.comb += clearing.eq(1)
                m.d.sync += address.eq(address + 1)
                with m.If(address == depth - 1):
                    m.d.comb += finished.eq(1)
                    m.next = "IDLE"
            with m.State("BIAS"):  # asks for db
                m.d.comb += [
                    self.bias_request.valid.eq(meta_fifo.w_rdy),
                    self.bias_request.payload.eq(row),
                    issue.eq(meta_fifo.w_rdy & self.bias_request.ready),
                    meta_in.address.eq(row),
                    meta_in.section.eq(Section.BIAS),
                    meta_in.last.eq(end_unit & (gate == 3)),
                ]
                with m.If(issue):
                    next_row()
                    with m.If(meta_in.last):
                        m.next = "INPUT"
            matrix("INPUT", Section.INPUT, 0, run.end.x_tiles, "HIDDEN")  # asks for dW_ih
            matrix("HIDDEN", Section.HIDDEN, c.x_tiles, run.end.h_tiles, "FLUSH")  # asks for dW_hh
            with m.State("FLUSH"):  # until everything asked for has left
                with m.If((meta_fifo.level == 0) & flushed):
                    m.d.comb += finished.eq(1)
                    m.next = "IDLE"
        m.d.sync += self.done.eq(finished)  # with the last word that is cleared

        # answers: a word's elements leave in groups, through a pipeline that moves as a whole; its stall comes from a
        # register, as it reaches all of it
        m.submodules.out = out = RegisterSlice(group_layout(c))
        wiring.connect(m, out.sink, wiring.flipped(self.groups))
        is_bias, word_valid, advance, last_group, pop = Signal(), Signal(), Signal(), Signal(), Signal()
        group_count = c.column_slots // elements
        group = Signal(range(max(group_count, 2)))
        padded = [*[self.gradient_word.payload[n] for n in range(c.R)]]
        padded += [Const(0, signed(width))] * (c.column_slots - c.R)
        m.d.comb += [
            is_bias.eq(meta.section == Section.BIAS),
            word_valid.eq(meta_fifo.r_rdy & Mux(is_bias, self.bias_word.valid, self.gradient_word.valid)),
            advance.eq(out.source.ready),
            last_group.eq(is_bias | (group == group_count - 1)),
            pop.eq(word_valid & advance & last_group),
            meta_fifo.r_en.eq(pop),
            self.bias_word.ready.eq(pop & is_bias),
            self.gradient_word.ready.eq(pop & ~is_bias),
        ]
        m.d.sync += [
            self.gradient_clear.valid.eq(clearing & (address < c.weight_words) | pop & ~is_bias & ~self.mode.keep),
            self.gradient_clear.payload.eq(Mux(clearing, address, meta.address)),
            self.bias_clear.valid.eq(clearing & (address < c.gate_rows) | pop & is_bias & ~self.mode.keep),
            self.bias_clear.payload.eq(Mux(clearing, address, meta.address)),
        ]
        with m.If(word_valid & advance):
            m.d.sync += group.eq(Mux(last_group, 0, group + 1))

        def stage(value: Any, name: str) -> Signal:
            """A register of the pipeline."""
            register = Signal(Value.cast(value).shape(), name=name, reset_less=True)
            with m.If(advance):
                m.d.sync += register.eq(value)
            return register

        valid = [word_valid, *[Signal(name=f"valid_stage{n + 1}") for n in range(REQUANTIZE_STAGES)]]
        mark_layout = data.StructLayout({"single": 1, "last": 1})
        mark: Any = Signal(mark_layout)
        m.d.comb += [mark.single.eq(is_bias), mark.last.eq(meta.last & last_group)]
        for n in range(REQUANTIZE_STAGES):
            mark = stage(mark, f"mark_stage{n + 1}")
        leaving = Signal()
        with m.If(advance):
            m.d.sync += [Cat(*valid[1:]).eq(Cat(*valid[:-1])), leaving.eq(valid[-1])]
        m.d.comb += [out.source.valid.eq(leaving), flushed.eq(~Cat(*valid[1:], leaving, self.groups.valid).any())]

        fraction = c.formats.weight_grad.fraction
        shift = stage(
            (Mux(is_bias, c.formats.bias_grad.fraction, fraction) - self.mode.fraction)[: (width + 16).bit_length()],
            "shift_stage1",
        )
        exact, short, flags = [], [], []
        for n in range(elements):
            choices = [padded[g * elements + n] for g in range(group_count)]
            value = Signal(signed(width), name=f"value_{n}")
            m.d.comb += value.eq(Array(choices)[group] if group_count > 1 else choices[0])
            if n == 0:
                with m.If(is_bias):
                    m.d.comb += value.eq(self.bias_word.payload)
            taken = stage(value, f"value_{n}_stage1")
            requantized, overflow = self._requantize(taken, shift, stage, f"requantize_{n}")
            clipped = Signal(signed(SHORT_BITS), name=f"short_{n}")
            m.d.comb += clipped.eq(requantized)
            for late in range(2, REQUANTIZE_STAGES + 1):
                taken = stage(taken, f"value_{n}_stage{late}")
            exact.append(Cat(taken, taken[-1].replicate(EXACT_BITS - width)))
            short.append(clipped)
            flags.append(overflow & (~mark[0] if n else 1) & ~self.mode.exact)
        marked, group_out = data.View(mark_layout, mark), out.source.payload
        m.d.comb += [
            group_out.data.eq(stage(Mux(self.mode.exact, Cat(*exact), Cat(*short)), "group_data")),
            group_out.exact.eq(self.mode.exact),
            group_out.single.eq(stage(marked.single, "group_single")),
            group_out.last.eq(stage(marked.last, "group_last")),
        ]
        m.d.sync += [
            self.saturated.valid.eq(valid[-1] & advance),
            self.saturated.payload.eq(sum(flags[1:], start=flags[0])),
        ]
        return m

    def _requantize(self, value: Signal, shift: Signal, stage: Any, name: str) -> tuple[Value, Value]:
        """Round half to even at a shift chosen at run time, then saturate to 32 bits: REQUANTIZE_STAGES - 1 stages."""
        width = len(value)
        doubled, coarse = value << 1, shift >> 3 << 3
        below = Cat(*[doubled[n] & (n < shift) for n in range(width + 1)])
        shifted_coarse, shift_fine = stage(doubled >> coarse, f"{name}_coarse"), stage(shift[:3], f"{name}_shift_fine")
        below = stage(below, f"{name}_below")
        shifted = stage(shifted_coarse >> shift_fine, f"{name}_shifted")
        sticky = stage(below.any(), f"{name}_sticky")
        rounded = stage((shifted >> 1) + (shifted[0] & (sticky | shifted[1])), f"{name}_rounded")
        return saturate(rounded, SHORT_BITS)
