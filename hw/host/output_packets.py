"""Output packet unit: the result of a run and the weight gradients, as packets (docs/streams.md)."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import BITMAP_WORD, EngineConfig
from gradsieve.hw.host.nest import Counter, FixedCounter, at_ends, turn
from gradsieve.hw.host.packing import Packer, beat_layout
from gradsieve.hw.layouts import group_elements, group_layout, lanes_layout, run_layout, state_layout
from gradsieve.hw.lib.loop_counter import LoopCounter
from gradsieve.hw.lib.register_slice import RegisterSlice
from gradsieve.hw.packets import (
    BATCH_TILE,
    COLUMN,
    DX,
    EXACT_BITS,
    GRADIENTS,
    RESULT,
    SHORT_BITS,
    STATE,
    STATISTICS_WORDS,
    STEP_DOWN,
    UNIT,
    Loop,
    Section,
)


class OutputPackets(wiring.Component):
    """One packet a run (`start_run`) or a read command (`start_read`); sections follow each other in order.

    A run: for each step and batch tile its `statistics` words and its I `dx` vectors, then, if the run says so, the
    state (asked for on `state_request`).  A read: the three sections of `groups`.  `result_done` pulses in the cycle
    after the last statistics or dx beat is taken, `done` in that after the packet's last.  `in_state` is high during a
    state section.
    """

    section_gap = RegisterSlice.latency + Packer.latency + 2
    """Cycles from a section's last word, if that is one beat, to the next one's first: until its beat is sent."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.state_depth = config.batch_tiles * config.max_H
        super().__init__(
            {
                "run": In(run_layout(config)),
                "start_run": In(1),
                "start_read": In(1),
                "statistics": In(stream.Signature(BITMAP_WORD)),
                "dx": In(stream.Signature(lanes_layout(config))),
                "state_request": Out(stream.Signature(range(self.state_depth))),
                "state": In(stream.Signature(state_layout(config))),
                "groups": In(stream.Signature(group_layout(config))),
                "beats": Out(stream.Signature(beat_layout(config.stream_width))),
                "in_state": Out(1),
                "result_done": Out(1),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c, run, e = self.config, self.run, self.config.formats.element_bits
        elements = group_elements(c)
        dx_width, state_width = (section.vectors[0].vector_bits(c) for section in (DX, STATE))
        widths = sorted(
            {BITMAP_WORD, dx_width, state_width, SHORT_BITS, EXACT_BITS, elements * SHORT_BITS, elements * EXACT_BITS}
        )
        packers = {w: Packer(w, c.stream_width) for w in widths}
        for w, packer in packers.items():
            m.submodules[f"pack_{w}"] = packer

        # fill: one section at a time goes into the packer of its width, behind a slice that keeps both sides apart
        number = {w: n for n, w in enumerate(widths)}
        selected, word_valid, word_ready = Signal(range(len(widths))), Signal(), Signal()
        word, word_last, filled = Signal(widths[-1]), Signal(), Signal()
        beat = Signal(beat_layout(c.stream_width))
        beat_valid, beat_ready, section_sent = Signal(), Signal(), Signal()
        word_layout = data.StructLayout({"data": len(word), "last": 1, "packer": selected.shape()})
        m.submodules.words = words = RegisterSlice(word_layout)
        chosen_word, packing = words.source.payload, words.sink.payload
        m.d.comb += [
            words.source.valid.eq(word_valid & ~filled),
            word_ready.eq(words.source.ready & ~filled),
            chosen_word.data.eq(word),
            chosen_word.last.eq(word_last),
            chosen_word.packer.eq(selected),
        ]
        # one packer at a time has beats: the next section's words wait until they are gone
        beats = [packer.beats for packer in packers.values()]
        m.d.comb += [
            beat.eq(reduce(or_, (b.payload.as_value() & b.valid.replicate(c.stream_width + 1) for b in beats))),
            beat_valid.eq(reduce(or_, (b.valid for b in beats))),
            *[b.ready.eq(beat_ready) for b in beats],
        ]
        for w, packer in packers.items():
            m.d.comb += [packer.words.payload.data.eq(packing.data), packer.words.payload.last.eq(packing.last)]
            with m.If(words.sink.valid & (packing.packer == number[w])):
                m.d.comb += [packer.words.valid.eq(1), words.sink.ready.eq(packer.words.ready)]
        fills = Signal()
        # a cycle later: until then no word of the next section goes in
        m.d.sync += section_sent.eq(beat_valid & beat_ready & beat.last)
        m.d.sync += filled.eq(fills | (filled & ~section_sent))

        def lane_bits(lanes: Any) -> Any:
            return Cat(*[Cat(lanes[n], lanes[n][-1].replicate(e - len(lanes[n]))) for n in range(c.C)])

        # a statistics section's words are counted through, whatever they hold
        statistics_end = Signal(range(c.bitmap_words + STATISTICS_WORDS))
        m.d.sync += statistics_end.eq(run.end.bitmap_words + STATISTICS_WORDS)
        statistics_word = LoopCounter(m, statistics_end, "statistics_word")
        column, unit, step, batch_tile = (
            LoopCounter(m, run.end[loop.size], loop.name) for loop in (COLUMN, UNIT, STEP_DOWN, BATCH_TILE)
        )
        requested, request_tile = (
            LoopCounter(m, run.end[loop.size], name)
            for loop, name in ((UNIT, "requested"), (BATCH_TILE, "request_tile"))
        )
        loops = (statistics_word, column, unit, step, batch_tile, requested, request_tile)
        second = FixedCounter(m, len(STATE.vectors), "second")  # of a unit's words: dh, then dc
        counters: dict[Loop, Counter] = {COLUMN: column, UNIT: unit, STEP_DOWN: step, BATCH_TILE: batch_tile}
        dx_nest = {loop: counters[loop] for loop in DX.nest.loops}
        state_nest = {**{loop: counters[loop] for loop in STATE.nest.loops}, Loop("second"): second}
        steps, _ = RESULT.groups
        around = {loop: counters[loop] for loop in steps.loops}
        request_base, requesting = Signal(range(self.state_depth)), Signal()
        section = Signal(range(len(GRADIENTS.sections)))
        # settled long before a section ends: it is the run's last one of dx; it is the packet's last one
        last_section, final, is_final = Signal(), Signal(), Signal()
        m.d.sync += [last_section.eq(at_ends(around)), is_final.eq(final)]

        # where words come from: registers say so, as they choose many bits
        group = self.groups.payload
        many = Mux(group.exact, number[elements * EXACT_BITS], number[elements * SHORT_BITS])
        one = Mux(group.exact, number[EXACT_BITS], number[SHORT_BITS])
        state = self.state.payload
        sources: dict[str, tuple[Any, Any, Any, Any]] = {  # valid, word, whether it ends its section, packer
            "statistics": (
                self.statistics.valid,
                self.statistics.payload,
                statistics_word.at_end,
                number[BITMAP_WORD],
            ),
            "dx": (self.dx.valid, lane_bits(self.dx.payload), at_ends(dx_nest), number[dx_width]),
            "state": (
                self.state.valid,
                Mux(second.value, lane_bits(state.dc), lane_bits(state.dh)),
                at_ends(state_nest),
                number[state_width],
            ),
            "groups": (self.groups.valid, group.data, group.last, Mux(group.single, one, many)),
        }
        chosen = {name: Signal(name=f"from_{name}") for name in sources}
        for n, target in enumerate((word_valid, word, word_last, selected)):
            masked = [Value.cast(v[n]) & chosen[name].replicate(len(target)) for name, v in sources.items()]
            m.d.comb += target.eq(reduce(or_, masked))
        takes = {name: Signal(name=f"takes_{name}") for name in sources}
        m.d.comb += [takes[name].eq(chosen[name] & v[0] & word_ready) for name, v in sources.items()]
        m.d.comb += fills.eq(reduce(or_, (takes[name] & last for name, (_, _, last, _) in sources.items())))
        m.d.comb += [
            self.statistics.ready.eq(word_ready & chosen["statistics"]),
            self.dx.ready.eq(word_ready & chosen["dx"]),
            self.state.ready.eq(word_ready & chosen["state"] & second.at_end),
            self.groups.ready.eq(word_ready & chosen["groups"]),
        ]
        # not in the states: their choice implies them
        with m.If(takes["statistics"]):
            statistics_word.advance()
        with m.If(takes["dx"]):
            turn(m, dx_nest)
        with m.If(takes["state"]):
            turn(m, state_nest)

        def enter(state: str, source: str | None = None) -> None:
            """Go on to a state, whose words come from `source`."""
            m.next = state
            m.d.sync += [choice.eq(name == source) for name, choice in chosen.items()]

        def enter_section(of: Section) -> None:
            enter(of.name.upper(), of.name)

        with m.FSM():
            with m.State("IDLE"):  # no packet
                m.d.sync += [second.value.eq(0), request_base.eq(0), requesting.eq(1), section.eq(0)]
                for loop in loops:
                    loop.clear()
                with m.If(self.start_run):
                    enter_section(steps.sections[0])
                with m.Elif(self.start_read):
                    enter("GRADIENTS", "groups")
            for place, each in enumerate(steps.sections):  # of a batch tile
                with m.State(each.name.upper()):
                    following = steps.sections[(place + 1) % len(steps.sections)]
                    ends = following is steps.sections[0]
                    if ends:
                        m.d.comb += final.eq(last_section & ~run.state_out)
                    with m.If(section_sent):
                        enter_section(following)
                        if ends:
                            turn(m, around)
                            with m.If(last_section):
                                m.d.comb += self.result_done.eq(1)
                                enter_section(STATE)
                                with m.If(is_final):
                                    enter("IDLE")
            with m.State(STATE.name.upper()):  # dh0 and dc0 of every batch tile
                m.d.comb += [
                    self.in_state.eq(1),
                    final.eq(1),
                    self.state_request.valid.eq(requesting),
                    self.state_request.payload.eq(request_base + requested.value),
                ]
                with m.If(self.state_request.valid & self.state_request.ready):
                    requested.advance()
                    with m.If(requested.at_end):
                        request_tile.advance()
                        m.d.sync += [request_base.eq(request_base + c.max_H), requesting.eq(~request_tile.at_end)]
                with m.If(section_sent):
                    enter("IDLE")
            with m.State("GRADIENTS"):  # db, dW_ih, dW_hh
                m.d.comb += final.eq(section == len(GRADIENTS.sections) - 1)
                with m.If(section_sent):
                    m.d.sync += section.eq(section + 1)
                    with m.If(is_final):
                        enter("IDLE")

        m.d.comb += [
            self.beats.valid.eq(beat_valid),
            beat_ready.eq(self.beats.ready),
            self.beats.payload.data.eq(beat.data),
            self.beats.payload.last.eq(beat.last & is_final),
            self.done.eq(section_sent & is_final),
        ]
        return m
