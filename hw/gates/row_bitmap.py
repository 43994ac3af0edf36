"""Row bitmap builder: the sieve's decisions as bitmap words for the compactor, and as statistics for the host."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import BITMAP_WORD, EngineConfig
from gradsieve.hw.layouts import gate_rows_layout, run_layout, sieved_rows_layout
from gradsieve.hw.lib.arithmetic import bits_for
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.loop_counter import LoopCounter
from gradsieve.hw.lib.stream_memory import write_layout
from gradsieve.hw.packets import STATISTICS_WORDS


class RowBitmapBuilder(wiring.Component):
    """Writes sieved rows to the gate gradient store and their bitmap to the row bitmaps, one group a cycle.

    For each batch tile's 4H rows (`tile` names the slot), in order q = 4 * unit + gate: `row_write` gets the rows,
    `bitmap_write` a word of BITMAP_WORD bits when it is full or the last (unused bits zero), `statistics` the same
    words and then four of 32 + 32 bits: rows kept and elements kept of gate i, f, g, o.  `done` pulses when the last
    statistics word has been taken, `latency` cycles after the last group of rows at the earliest; `rows_kept` then
    counts the batch tile's rows.
    """

    latency = 1 + STATISTICS_WORDS  # the last rows are counted before the counts leave, a word a cycle

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        rate = config.gate_rows_per_cycle
        super().__init__(
            {
                "run": In(run_layout(config)),
                "tile": In(stream.Signature(1)),
                "sieved": In(stream.Signature(sieved_rows_layout(config))),
                "row_write": Out(Flow(write_layout(gate_rows_layout(config), 2 * config.gate_rows // rate))),
                "bias_rows": Out(Flow(write_layout(gate_rows_layout(config), config.gate_rows // rate))),
                "bitmap_write": Out(Flow(write_layout(BITMAP_WORD, 2 * config.bitmap_words))),
                "statistics": Out(stream.Signature(BITMAP_WORD)),
                "done": Out(1),
                "rows_kept": Out(bits_for(config.gate_rows)),
                "elements_kept": Out(bits_for(config.gate_rows * config.C)),
                "sieve_saturated": Out(Flow(bits_for(rate * config.C))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c, rate = self.config, self.config.gate_rows_per_cycle
        groups, word_groups = c.gate_rows // rate, BITMAP_WORD // rate
        slot = Signal()
        end_group = Signal(range(groups))
        m.d.sync += end_group.eq(((self.run.H << 2) // rate) - 1)
        group = LoopCounter(m, end_group, "group")
        here = Signal(word_groups, init=1)  # where in its word a group goes, one-hot
        word_index = Signal(range(c.bitmap_words + 1))
        word = Signal(BITMAP_WORD)
        next_word = Signal(BITMAP_WORD)
        rows = [Signal(bits_for(c.max_H), name=f"rows_{g}") for g in "ifgo"]
        elements = [Signal(bits_for(c.max_H * c.C), name=f"elements_{g}") for g in "ifgo"]
        gate = Signal(2)
        payload = self.sieved.payload
        # counted a cycle later
        taken = Signal()
        taken_gate = Signal.like(gate)
        kept = Signal.like(payload.kept)
        non_zero = Signal.like(payload.elements)
        m.d.sync += [taken.eq(0), taken_gate.eq(gate), kept.eq(payload.kept), non_zero.eq(payload.elements)]
        for r in range(rate):
            for g in range(r, 4, rate):
                with m.If(taken & (taken_gate == g - r)):
                    m.d.sync += [rows[g].eq(rows[g] + kept[r]), elements[g].eq(elements[g] + non_zero[r])]

        m.d.comb += [
            self.sieve_saturated.payload.eq(payload.saturated),
            next_word.eq(word | Cat(*[payload.kept & h.replicate(rate) for h in here])),
        ]
        # settled before `done`, which comes after four words of counts
        m.d.sync += [
            self.rows_kept.eq(sum(rows[1:], start=rows[0])),
            self.elements_kept.eq(sum(elements[1:], start=elements[0])),
        ]
        # takes rows, as the state says: a register, as it reaches all of a row's registers; also a row that ends no
        # word waits for the statistics, so that fewer signals decide
        collecting = Signal()
        take = Signal()
        m.d.comb += [
            self.sieved.ready.eq(collecting & self.statistics.ready),
            take.eq(self.sieved.valid & self.sieved.ready),
            self.sieve_saturated.valid.eq(take),
        ]
        send = here[-1] | group.at_end
        m.d.sync += taken.eq(take)
        counts = [Signal(BITMAP_WORD, name=f"counts_{g}") for g in "ifgo"]
        half = BITMAP_WORD // 2
        for words, row_count, element_count in zip(counts, rows, elements, strict=True):
            m.d.comb += [words[:half].eq(row_count), words[half:].eq(element_count)]
        m.d.comb += self.statistics.payload.eq(Mux(collecting, next_word, Array(counts)[gate]))
        # a cycle later: nobody reads before `done`
        m.d.sync += [
            self.row_write.valid.eq(take),
            self.row_write.payload.address.eq(Mux(slot, groups, 0) + group.value),
            self.row_write.payload.word.eq(payload.rows),
            self.bias_rows.valid.eq(take),
            self.bias_rows.payload.address.eq(group.value),
            self.bias_rows.payload.word.eq(payload.rows),
            self.bitmap_write.valid.eq(take & send),
            self.bitmap_write.payload.address.eq(Mux(slot, c.bitmap_words, 0) + word_index),
            self.bitmap_write.payload.word.eq(next_word),
        ]
        with m.If(take):
            m.d.sync += [word.eq(next_word), gate.eq(gate + rate)]
            group.advance()
            m.d.sync += here.eq(here.rotate_left(1))
            with m.If(send):
                m.d.sync += [word_index.eq(word_index + 1), word.eq(0)]
            with m.If(group.at_end):
                m.d.sync += [gate.eq(0), collecting.eq(0)]
        with m.FSM():
            with m.State("IDLE"):  # waits for the next batch tile
                m.d.comb += self.tile.ready.eq(1)
                with m.If(self.tile.valid):
                    m.d.sync += [
                        slot.eq(self.tile.payload),
                        word_index.eq(0),
                        word.eq(0),
                        gate.eq(0),
                    ]
                    m.d.sync += [s.eq(0) for s in (*rows, *elements)]
                    m.d.sync += collecting.eq(1)
                    group.clear()
                    m.d.sync += here.eq(1)
                    m.next = "COLLECT"
            with m.State("COLLECT"):  # takes groups of rows, hands on full words
                m.d.comb += self.statistics.valid.eq(self.sieved.valid & send)
                with m.If(take & group.at_end):
                    m.next = "SETTLE"
            with m.State("SETTLE"):  # the last rows are counted
                m.next = "COUNT"
            with m.State("COUNT"):  # hands on the counts, a gate a word
                m.d.comb += self.statistics.valid.eq(1)
                with m.If(self.statistics.ready):
                    m.d.sync += gate.eq(gate + 1)
                    with m.If(gate == STATISTICS_WORDS - 1):
                        m.d.comb += self.done.eq(1)
                        m.next = "IDLE"
        return m
