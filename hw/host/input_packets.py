"""Input packet unit: headers, sections and lengths of the packets that come in (docs/streams.md)."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Shape, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import BITMAP_WORD, EngineConfig
from gradsieve.hw.host.input_words import TARGETS, BeatPieces, InputWords, PacketContents, piece_layout
from gradsieve.hw.host.nest import Counter, FixedCounter, InTurn, LateCounter, OneOf, at_ends, turn
from gradsieve.hw.host.packing import input_beat_layout
from gradsieve.hw.host.registers import ErrorCode
from gradsieve.hw.layouts import run_layout
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.loop_counter import LoopCounter
from gradsieve.hw.lib.register_slice import RegisterSlice
from gradsieve.hw.packets import (
    BATCH_TILE,
    COLUMN,
    COLUMNS,
    GATE,
    H_TILE,
    INPUT,
    STEP,
    STEP_DOWN,
    TILE,
    UNIT,
    WORD,
    X_TILE,
    Group,
    Loop,
    PacketKind,
    Run,
    Section,
)

COUNTED = (UNIT, WORD, X_TILE, H_TILE, STEP, BATCH_TILE, COLUMN)
"""Loops whose ends are sizes of the run."""
SECOND = Loop("second")
"""The vectors of a turn, where each is a word of its own: the second, after the first."""
STATES: dict[str, dict[PacketKind, tuple[Group, Section]]] = {}
"""A state for the sections of one name: in which packets they come, and where."""
SECTIONS: dict[str, Section] = {}
"""The section of each state, as the first kind of packet that has it does; the other kinds have it alike."""
for _kind, _packet in INPUT.items():
    for _group in _packet.groups:
        for _section in _group.sections:
            STATES.setdefault(_section.name.upper(), {})[_kind] = _group, _section
            SECTIONS.setdefault(_section.name.upper(), _section)


def loops_of(section: Section) -> tuple[Loop, ...]:
    """The loops of a section, outer to inner, down to what goes on at once: a word, or a bit of column masks."""
    if section is COLUMNS:
        (bitmap,) = section.bitmaps
        return (*section.nest.loops, *bitmap.over)
    if section.bitmaps:
        return (*section.nest.loops, WORD)
    return (*section.nest.loops, *(SECOND,) * (len(TARGETS[section]) - 1))


class _Places:
    """The loops of all sections, and where the word at hand lies in its store.

    That is an offset from a base, which moves when a loop turns; tiles of h have fixed places after those of the
    largest I.
    """

    def __init__(self, m: Module, config: EngineConfig, run: Any, kind: Signal) -> None:
        self._m, self._config, self._run, self._kind = m, config, run, kind
        c = config
        self.loops = {loop: LoopCounter(m, run.end[loop.size], loop.name) for loop in COUNTED}
        self.gate, self.second = FixedCounter(m, Run.gates, "gate"), FixedCounter(m, 2, "second")
        self.in_hidden = Signal(name="in_hidden")
        self.tile = InTurn(m, self.loops[X_TILE], self.loops[H_TILE], self.in_hidden)
        batch_tile = LateCounter(m, self.loops[BATCH_TILE])
        step = LateCounter(m, self.loops[STEP], inside=batch_tile)
        self.counters: dict[Loop, Counter] = {**self.loops, GATE: self.gate, SECOND: self.second, TILE: self.tile}
        self.counters |= {BATCH_TILE: batch_tile, STEP: step, STEP_DOWN: step}
        self.weight_base = Signal(range(c.weight_words + c.gate_rows), name="weight_base")
        self.state_base = Signal(range(c.batch_tiles * c.max_H + c.max_H), name="state_base")
        self.block_base = Signal(range((c.tiles + 1) * c.bitmap_words), name="block_base")
        self.column_base = Signal(range((c.max_T + 1) * c.tiles), name="column_base")

    def clear(self) -> None:
        """To the beginning of a packet; the base of weights, which its kind says, comes by `set_weight_base`."""
        self.clear_loops()
        values = (self.gate.value, self.second.value, self.in_hidden)
        self._m.d.sync += [s.eq(0) for s in (*values, self.state_base, self.block_base, self.column_base)]

    def clear_loops(self) -> None:
        """To the beginning of all loops whose ends are sizes."""
        for each in self.loops.values():
            each.clear()

    @property
    def _first_weight(self) -> Value:
        return Mux(self._kind == PacketKind.WEIGHT_H, self._config.x_tiles * self._config.gate_rows, 0)

    def set_weight_base(self) -> None:
        """To the first weight of a packet's kind."""
        self._m.d.sync += self.weight_base.eq(self._first_weight)

    def address(self, state: str) -> tuple[Any, Signal | None, dict[Loop, Any]]:
        """Where the word at hand of a state lies: its offset, the base, and what the base becomes as loops turn."""
        c, loops, x_tile, h_tile = self._config, self.loops, self.loops[X_TILE], self.loops[H_TILE]
        match state:
            case "WEIGHTS":
                moves = {X_TILE: self.weight_base + c.gate_rows, UNIT: self._first_weight}
                return Cat(self.gate.value, loops[UNIT].value), self.weight_base, moves
            case "BLOCKS":
                to_hidden = ~self.in_hidden & x_tile.at_end
                next_block = Mux(to_hidden, c.x_tiles * c.bitmap_words, self.block_base + c.bitmap_words)
                return loops[WORD].value, self.block_base, {TILE: next_block}
            case "COLUMNS":
                of_tile = Mux(self.in_hidden, h_tile.value + c.x_tiles, x_tile.value)
                return of_tile, self.column_base, {STEP: self.column_base + c.tiles}
            case "SEEDS":
                return loops[UNIT].value, self.state_base, {BATCH_TILE: self.state_base + c.max_H}
            case _:  # goes on to the gate sequencer
                return 0, None, {}

    def nest(self, state: str) -> dict[Loop, Counter]:
        """The counters of a state's loops; where its packets differ in a loop, the kind says which one counts."""
        nest: dict[Loop, Counter] = {}
        places = STATES[state]
        for loop, *others in zip(*(loops_of(section) for _, section in places.values()), strict=True):
            nest[loop] = self.counters[loop]
            for other in others:
                if other != loop:
                    nest[loop] = OneOf(self._kind == next(iter(places)), self.counters[loop], self.counters[other])
        return nest


class InputPackets(wiring.Component):
    """Takes packets, checks kind and length, and hands their contents to the stores or to the gate sequencer.

    One word a cycle or one beat a cycle, whichever is the narrower (column masks: one bit a cycle), and a cycle
    more for a beat that a section leaves unfilled.  A word is complete `latency` cycles after its last piece is
    taken, a bit of column masks InputWords.column_delay later.  `running` tells that a run is active: a tape waits for
    it, other kinds are refused during it; so is every packet while `sizes_bad`.  A bad packet (of the wrong kind or
    length, or with a partial beat) gives `error` for one cycle and is thrown away to its end, as is all that follows
    until `clear` (soft reset), which also forgets what was begun;
    with `resync` the next beat is a header.  `open` is high between the first and the last beat of a packet.
    """

    latency = RegisterSlice.latency + InputWords.latency
    header_latency = len(("its kind is known", "it may come", "it is taken", "its body begins"))
    """Cycles from a header that may come at once to the first piece of what follows it."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "run": In(run_layout(config)),
                "running": In(1),
                "sizes_ready": In(1),
                "sizes_bad": In(1),
                "clear": In(1),
                "resync": In(1),
                "beats": In(stream.Signature(input_beat_layout(config.stream_width))),
                **PacketContents(config).members,
                "open": Out(1),
                "loading": Out(1),
                "error": Out(Flow(Shape.cast(ErrorCode))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c = self.config
        m.submodules.slice = piece_slice = RegisterSlice(piece_layout(c))
        m.submodules.words = words = InputWords(c)
        wiring.connect(m, piece_slice.sink, words.pieces)
        for name in PacketContents(c).members:
            wiring.connect(m, getattr(words, name), wiring.flipped(getattr(self, name)))
        m.d.comb += [piece_slice.clear.eq(self.clear), words.clear.eq(self.clear)]

        kind = Signal(PacketKind)
        pieces = BeatPieces(m, c, self.beats, piece_slice.source)
        places = _Places(m, c, self.run, kind)
        bad_length = Signal()
        packet_done = Signal()
        fault = Signal()
        # a packet's first state waits a cycle for what is said of its header
        header_fault = Signal(Shape.cast(ErrorCode))
        # a cycle later: what is taken meanwhile does no harm, as only a soft reset leads out
        counts = ~fault & ~self.clear
        m.d.sync += [
            bad_length.eq(pieces.wrong_end & counts),
            packet_done.eq(pieces.packet_ends & counts),
            header_fault.eq(ErrorCode.NONE),
            self.error.valid.eq(fault & ~self.clear),  # a soft reset forgets it
            self.error.payload.eq(Mux(bad_length, ErrorCode.PACKET_LENGTH, header_fault)),
        ]
        m.d.comb += fault.eq(bad_length | header_fault.any())
        last_sent = self._track_open(m)

        def leave() -> None:
            """Ends of a state that override its own: packet done, fault, soft reset."""
            with m.If(packet_done):
                m.next = "HEADER"
            with m.If(fault):
                m.next = "DISCARD"
            with m.If(self.clear):
                m.next = "CLEARED"

        is_tape = Signal()
        known = Signal()
        header = Signal()
        with m.FSM() as fsm:
            with m.State("HEADER"):  # between packets
                word = self.beats.payload.data
                m.d.sync += [
                    kind.eq(word[:8]),
                    is_tape.eq(word[:8] == PacketKind.TAPE),
                    known.eq((word[:8] >= min(PacketKind)) & (word[:8] <= max(PacketKind)) & ~word[8:32].any()),
                ]
                pieces.clear()
                places.clear()
                with m.If(self.beats.valid & ~pieces.pop):
                    m.next = "KIND"
                leave()
            with m.State("KIND"):  # takes the header, now that registers know its kind, when that kind may come
                may_come = ~pieces.pop & self.sizes_ready & (self.running | ~is_tape | ~known)
                m.d.comb += header.eq(may_come | pieces.pop)
                m.d.sync += pieces.pop.eq(may_come)
                places.clear_loops()
                places.set_weight_base()
                with m.If(pieces.pop):
                    self._judge_header(m, header_fault, known, is_tape)
                    m.d.sync += pieces.body_begins.eq(1)
                    self._enter_first_section(m, kind)
                leave()
            for state in STATES:
                with m.State(state):
                    self._take_section(m, state, pieces, places)
                    leave()
            with m.State("DISCARD"):  # after a fault, until the soft reset
                m.d.sync += pieces.pop.eq(1)
                leave()
            with m.State("CLEARED"):  # after a soft reset, which may have come within a packet
                m.next = "HEADER"
                with m.If(self.open):
                    m.next = "RESYNC"
                leave()
            with m.State("RESYNC"):  # after a soft reset, to the end of the packet that was open
                m.d.sync += pieces.pop.eq(1)
                with m.If(last_sent):
                    m.d.sync += pieces.pop.eq(0)
                    m.next = "HEADER"
                leave()
        pieces.end(stop=fault, clear=self.clear)
        with m.If(self.clear):
            m.d.sync += header_fault.eq(ErrorCode.NONE)

        stores = [s for s, kinds in STATES.items() if not any(INPUT[k].while_running for k in kinds)]
        loads = reduce(or_, (fsm.ongoing(s) for s in stores))
        # from the cycle on in which the header is taken: no run begins then, and one that began before is seen here
        m.d.sync += self.loading.eq(loads | (header & ~is_tape) | words.storing)
        return m

    def _track_open(self, m: Module) -> Value:
        """Whether a packet is open; the result is high when its last beat is taken."""
        last = self.beats.payload.last
        sent = Signal()
        still_open = Signal()
        m.d.comb += [sent.eq(self.beats.valid & self.beats.ready), still_open.eq(Mux(sent, ~last, self.open))]
        m.d.sync += self.open.eq(still_open & ~(self.clear & self.resync))
        return sent & last

    def _judge_header(self, m: Module, header_fault: Signal, known: Signal, is_tape: Signal) -> None:
        """What is wrong with a header that is taken, the most telling fault last."""
        beat = self.beats.payload
        m.d.sync += header_fault.eq(Mux(beat.last | beat.partial, ErrorCode.PACKET_LENGTH, ErrorCode.NONE))
        with m.If(self.sizes_bad):
            m.d.sync += header_fault.eq(ErrorCode.BAD_SIZE)
        with m.If(~known | (self.running & ~is_tape)):
            m.d.sync += header_fault.eq(ErrorCode.PACKET_KIND)

    def _enter_first_section(self, m: Module, kind: Signal) -> None:
        m.next = "DISCARD"
        with m.Switch(kind):
            for state, kinds in STATES.items():
                if first := [k for k in kinds if INPUT[k].sections[0].name.upper() == state]:
                    with m.Case(*first):
                        m.next = state

    def _take_section(self, m: Module, state: str, pieces: BeatPieces, places: _Places) -> None:
        """The state in which the words of a section are taken."""
        group, section = next(iter(STATES[state].values()))
        nest, around = places.nest(state), {loop: places.counters[loop] for loop in group.loops}
        place = group.sections.index(section)
        is_last = place == len(group.sections) - 1
        ends = at_ends(nest)
        m.d.comb += pieces.section_end.eq(ends)
        if is_last:
            m.d.comb += pieces.packet_end.eq(at_ends(around | nest))
        if section is COLUMNS:  # a word stays where it is until its last bit
            m.d.comb += pieces.word_end.eq(places.tile.at_end | (pieces.bit == BITMAP_WORD - 1))
        offset, base, moves = places.address(state)
        done = pieces.take(section, offset if base is None else base + offset, places.second.value)
        following = group.sections[(place + 1) % len(group.sections)]
        if following != section:
            with m.If(ends):
                m.d.comb += pieces.next_single.eq(pieces.is_single(following))
        with m.If(done):
            turn(m, nest, base, moves)
            if section is COLUMNS:
                m.d.sync += pieces.bit.eq(Mux(places.tile.at_end, 0, pieces.bit + 1))
            if following != section:
                with m.If(ends):
                    if is_last:
                        turn(m, around)
                    m.d.sync += pieces.pop_with_piece.eq(pieces.pops_with_first_piece(following))
                    m.next = following.name.upper()
