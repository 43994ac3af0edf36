"""Output packet unit: the result of a run and the weight gradients, as packets (docs/streams.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import BITMAP_WORD, EngineConfig
from gradsieve.hw.host.nest import Counter, FixedCounter, at_ends, turn
from gradsieve.hw.host.packing import SectionPacker, beat_layout
from gradsieve.hw.layouts import group_elements, group_layout, lanes_layout, run_layout, state_layout
from gradsieve.hw.lib.idioms import one_hot_choice
from gradsieve.hw.lib.loop_counter import LoopCounter
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

_SECOND = Loop("second")
"""The vectors of a unit's state: dh, then dc."""


class OutputPackets(wiring.Component):
    """One packet a run (`start_run`) or a read command (`start_read`); sections follow each other in order.

    A run: for each step and batch tile its `statistics` words and its I `dx` vectors, then, if the run says so, the
    state (asked for on `state_request`).  A read: the three sections of `groups`.  `result_done` pulses in the cycle
    after the last statistics or dx beat is taken, `done` in that after the packet's last.  `in_state` is high during a
    state section.
    """

    section_gap = SectionPacker.gap
    """Cycles from a section's last word, if that is one beat, to the next one's first."""

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
        c, run = self.config, self.run
        # a statistics section's words are counted through, whatever they hold
        statistics_end = Signal(range(c.bitmap_words + STATISTICS_WORDS))
        m.d.sync += statistics_end.eq(run.end.bitmap_words + STATISTICS_WORDS)
        statistics_word = LoopCounter(m, statistics_end, "statistics_word")
        loops = {loop: LoopCounter(m, run.end[loop.size], loop.name) for loop in (COLUMN, UNIT, STEP_DOWN, BATCH_TILE)}
        second = FixedCounter(m, len(STATE.vectors), _SECOND.name)
        counters: dict[Loop, Counter] = {**loops, _SECOND: second}
        steps, _ = RESULT.groups
        dx_nest = {loop: counters[loop] for loop in DX.nest.loops}
        state_nest = {loop: counters[loop] for loop in (*STATE.nest.loops, _SECOND)}
        around = {loop: counters[loop] for loop in steps.loops}

        packer = self._packer(m)
        ends = {"statistics": statistics_word.at_end, "dx": at_ends(dx_nest), "state": at_ends(state_nest)}
        chosen, taken = self._choose(m, packer, second, ends)
        # not in the states: their choice implies them
        with m.If(taken["statistics"]):
            statistics_word.advance()
        with m.If(taken["dx"]):
            turn(m, dx_nest)
        with m.If(taken["state"]):
            turn(m, state_nest)

        idle = Signal()
        section = Signal(range(len(GRADIENTS.sections)))
        # settled long before a section ends: it is the run's last one of dx; it is the packet's last one
        last_section = Signal()
        final = Signal()
        is_final = Signal()
        m.d.sync += [last_section.eq(at_ends(around)), is_final.eq(final)]
        self._request_states(m, idle)

        def enter(state: str, source: str | None = None) -> None:
            """Go on to a state, whose words come from `source`."""
            m.next = state
            m.d.sync += [choice.eq(name == source) for name, choice in chosen.items()]

        def enter_section(of: Section) -> None:
            enter(of.name.upper(), of.name)

        with m.FSM():
            with m.State("IDLE"):  # no packet
                m.d.comb += idle.eq(1)
                m.d.sync += [second.value.eq(0), section.eq(0)]
                for loop in (statistics_word, *loops.values()):
                    loop.clear()
                with m.If(self.start_run):
                    enter_section(steps.sections[0])
                with m.Elif(self.start_read):
                    enter("GRADIENTS", "groups")
            for place, each in enumerate(steps.sections):  # of a batch tile
                with m.State(each.name.upper()):
                    following = steps.sections[(place + 1) % len(steps.sections)]
                    last_of_tile = following is steps.sections[0]
                    if last_of_tile:
                        m.d.comb += final.eq(last_section & ~run.state_out)
                    with m.If(packer.sent):
                        enter_section(following)
                        if last_of_tile:
                            turn(m, around)
                            with m.If(last_section):
                                m.d.comb += self.result_done.eq(1)
                                enter_section(STATE)
                                with m.If(is_final):
                                    enter("IDLE")
            with m.State(STATE.name.upper()):  # dh0 and dc0 of every batch tile
                m.d.comb += [self.in_state.eq(1), final.eq(1)]
                with m.If(packer.sent):
                    enter("IDLE")
            with m.State("GRADIENTS"):  # db, dW_ih, dW_hh
                m.d.comb += final.eq(section == len(GRADIENTS.sections) - 1)
                with m.If(packer.sent):
                    m.d.sync += section.eq(section + 1)
                    with m.If(is_final):
                        enter("IDLE")

        m.d.comb += [
            self.beats.payload.last.eq(packer.beats.payload.last & is_final),
            self.done.eq(packer.sent & is_final),
        ]
        return m

    def _packer(self, m: Module) -> SectionPacker:
        """What makes beats of words; which of them end the packet is said elsewhere."""
        c = self.config
        widths = {BITMAP_WORD, self._vector_width(DX), self._vector_width(STATE), *self._group_widths.values()}
        m.submodules.packer = packer = SectionPacker(widths, c.stream_width)
        m.d.comb += [
            self.beats.valid.eq(packer.beats.valid),
            packer.beats.ready.eq(self.beats.ready),
            self.beats.payload.data.eq(packer.beats.payload.data),
        ]
        return packer

    def _choose(
        self, m: Module, packer: SectionPacker, second: FixedCounter, ends: Mapping[str, Value]
    ) -> tuple[dict[str, Signal], dict[str, Signal]]:
        """By source of words, the register that chooses it, and whether one of its words is taken.

        `ends` tells of each source but `groups`, whose words say so, whether its word at hand is its section's last.
        """
        group, state = self.groups.payload, self.state.payload
        widths = {name: packer.number[width] for name, width in self._group_widths.items()}
        sources: dict[str, tuple[Value, Any, Value, Any]] = {  # valid, word, whether it ends its section, its width
            "statistics": (
                self.statistics.valid,
                self.statistics.payload,
                ends["statistics"],
                packer.number[BITMAP_WORD],
            ),
            "dx": (self.dx.valid, self._bits(self.dx.payload), ends["dx"], packer.number[self._vector_width(DX)]),
            "state": (
                self.state.valid,
                Mux(second.value, self._bits(state.dc), self._bits(state.dh)),
                ends["state"],
                packer.number[self._vector_width(STATE)],
            ),
            "groups": (
                self.groups.valid,
                group.data,
                group.last,
                Mux(
                    group.single,
                    Mux(group.exact, widths["exact element"], widths["short element"]),
                    Mux(group.exact, widths["exact group"], widths["short group"]),
                ),
            ),
        }
        chosen = {name: Signal(name=f"from_{name}") for name in sources}
        words, word = packer.words, packer.words.payload
        for n, target in enumerate((words.valid, word.data, word.last, word.width)):
            m.d.comb += target.eq(
                one_hot_choice((chosen[name], Value.cast(source[n])) for name, source in sources.items())
            )
        ready = {name: words.ready & choice for name, choice in chosen.items()}
        m.d.comb += [
            self.statistics.ready.eq(ready["statistics"]),
            self.dx.ready.eq(ready["dx"]),
            self.state.ready.eq(ready["state"] & second.at_end),
            self.groups.ready.eq(ready["groups"]),
        ]
        taken = {name: Signal(name=f"takes_{name}") for name in sources}
        m.d.comb += [taken[name].eq(ready[name] & valid) for name, (valid, *_) in sources.items()]
        return chosen, taken

    def _request_states(self, m: Module, idle: Signal) -> None:
        """Asks for dh0 and dc0 of each unit of each batch tile, once, while the state section is sent."""
        requested, request_tile = (
            LoopCounter(m, self.run.end[loop.size], name)
            for loop, name in ((UNIT, "requested"), (BATCH_TILE, "request_tile"))
        )
        base = Signal(range(self.state_depth), name="request_base")
        requesting = Signal()
        m.d.comb += [
            self.state_request.valid.eq(self.in_state & requesting),
            self.state_request.payload.eq(base + requested.value),
        ]
        with m.If(idle):
            requested.clear()
            request_tile.clear()
            m.d.sync += [base.eq(0), requesting.eq(1)]
        with m.If(self.state_request.valid & self.state_request.ready):
            requested.advance()
            with m.If(requested.at_end):
                request_tile.advance()
                m.d.sync += [base.eq(base + self.config.max_H), requesting.eq(~request_tile.at_end)]

    def _vector_width(self, section: Section) -> int:
        return section.vectors[0].vector_bits(self.config)

    @property
    def _group_widths(self) -> dict[str, int]:
        count = group_elements(self.config)
        return {
            "exact element": EXACT_BITS,
            "short element": SHORT_BITS,
            "exact group": count * EXACT_BITS,
            "short group": count * SHORT_BITS,
        }

    def _bits(self, lanes: Any) -> Value:
        """A lane vector as it is on the stream: every lane sign-extended to an element."""
        bits = self.config.formats.element_bits
        every = [lanes[n] for n in range(self.config.C)]
        return Cat(*[Cat(lane, lane[-1].replicate(bits - len(lane))) for lane in every])
