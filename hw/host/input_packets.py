"""Input packet unit: headers, sections and lengths of the packets that come in (docs/streams.md)."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Shape, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import BITMAP_WORD, EngineConfig
from gradsieve.hw.host.input_words import TARGETS, InputWords, PacketContents, piece_layout, word_widths
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
for _kind, _packet in INPUT.items():
    for _group in _packet.groups:
        for _section in _group.sections:
            STATES.setdefault(_section.name.upper(), {})[_kind] = _group, _section


def loops_of(section: Section) -> tuple[Loop, ...]:
    """The loops of a section, outer to inner, down to what goes on at once: a word, or a bit of column masks."""
    if section is COLUMNS:
        (bitmap,) = section.bitmaps
        return (*section.nest.loops, *bitmap.over)
    if section.bitmaps:
        return (*section.nest.loops, WORD)
    return (*section.nest.loops, *(SECOND,) * (len(TARGETS[section]) - 1))


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
        c, run = self.config, self.run
        beat_width, state_depth = c.stream_width, c.batch_tiles * c.max_H
        of_target = word_widths(c)
        sections = {state: next(iter(places.values()))[1] for state, places in STATES.items()}
        widths = {state: of_target[TARGETS[section][0]] for state, section in sections.items()}
        beats_of_word = {state: -(-width // beat_width) for state, width in widths.items()}
        words_of_beat = {state: -(-beat_width // width) for state, width in widths.items()}

        m.submodules.pieces = pieces = RegisterSlice(piece_layout(c))
        m.submodules.words = words = InputWords(c)
        wiring.connect(m, pieces.sink, words.pieces)
        for name in PacketContents(c).members:
            wiring.connect(m, getattr(words, name), wiring.flipped(getattr(self, name)))
        piece = pieces.source.payload
        m.d.comb += [pieces.clear.eq(self.clear), words.clear.eq(self.clear)]

        # the packet at hand
        # contents are taken: a register, so that no state has to be decoded for that
        in_body, offered, accepted = Signal(), Signal(), Signal()
        # what lets a beat go comes from registers: it goes with its last piece, or, if that was not known ahead, then
        goes, leaves = Signal(), Signal()
        complete, part_end, word_end = Signal(), Signal(), Signal(init=1)
        last_index, next_single = Signal.like(piece.index), Signal()  # next_single: the next word is one beat or less
        section_end, packet_end, wrong_end, bad_length = Signal(), Signal(), Signal(), Signal()
        bad = Signal()
        ended, over = Signal(), Signal()  # the packet's last piece is taken; a cycle later, the state follows
        beat = self.beats.payload
        m.d.comb += [
            self.beats.ready.eq(leaves | (goes & pieces.source.ready)),
            offered.eq(self.beats.valid & in_body & ~leaves),
            accepted.eq(offered & pieces.source.ready),
            pieces.source.valid.eq(offered),
            piece.complete.eq(complete),
            ended.eq(accepted & complete & packet_end),
            # a section's last word ends its beat: the next section begins on a beat boundary
            wrong_end.eq(
                accepted
                & (
                    beat.partial
                    | Mux(
                        complete & packet_end,
                        ~beat.last,
                        beat.last & (~complete | section_end | (part_end & word_end)),
                    )
                )
            ),
        ]
        # a cycle later: what is taken meanwhile does no harm, as only a soft reset leads out
        counts = ~bad & ~self.clear
        m.d.sync += [bad_length.eq(wrong_end & counts), over.eq(ended & counts), leaves.eq(0)]
        # a packet's first state waits a cycle for what is said of its header
        begins, header_fault = Signal(), Signal(Shape.cast(ErrorCode))
        m.d.sync += [begins.eq(0), header_fault.eq(ErrorCode.NONE)]
        m.d.comb += bad.eq(bad_length | header_fault.any())
        m.d.sync += [
            self.error.valid.eq(bad),
            self.error.payload.eq(Mux(bad_length, ErrorCode.PACKET_LENGTH, header_fault)),
        ]

        kind, open_ = Signal(PacketKind), Signal()
        sent, still_open, header = Signal(), Signal(), Signal()
        is_tape, known = Signal(), Signal()
        m.d.comb += [
            sent.eq(self.beats.valid & self.beats.ready),
            self.open.eq(open_),
            still_open.eq(Mux(sent, ~beat.last, open_)),
        ]
        m.d.sync += open_.eq(still_open & ~(self.clear & self.resync))

        loops = {loop: LoopCounter(m, run.end[loop.size], loop.name) for loop in COUNTED}
        unit, word_index, x_tile, h_tile = (loops[loop] for loop in (UNIT, WORD, X_TILE, H_TILE))
        index, part, bit = Signal.like(piece.index), Signal(range(max(words_of_beat.values()))), Signal.like(piece.bit)
        gate, second, in_hidden = FixedCounter(m, Run.gates, "gate"), FixedCounter(m, 2, "second"), Signal()
        # h tiles have fixed places behind those of the largest I
        weight_base, state_base = Signal(range(c.weight_words + c.gate_rows)), Signal(range(state_depth + c.max_H))
        block_base = Signal(range((c.tiles + 1) * c.bitmap_words))
        column_base = Signal(range((c.max_T + 1) * c.tiles))
        m.d.comb += [piece.index.eq(index), piece.bit.eq(bit)]
        with m.If(accepted):
            with m.If(~complete):
                m.d.sync += [index.eq(index + 1), complete.eq(index + 1 == last_index)]
            with m.Elif(word_end):
                m.d.sync += [index.eq(0), part.eq(Mux(part_end | section_end, 0, part + 1)), complete.eq(next_single)]

        tile, batch_tile = InTurn(m, x_tile, h_tile, in_hidden), LateCounter(m, loops[BATCH_TILE])
        step = LateCounter(m, loops[STEP], inside=batch_tile)
        counters: dict[Loop, Counter] = {**loops, GATE: gate, SECOND: second, TILE: tile}
        counters |= {BATCH_TILE: batch_tile, STEP: step, STEP_DOWN: step}

        def goes_first(state: str) -> bool:
            """Whether a beat goes with its first piece; the last of a word of column masks stays for all its bits."""
            return beats_of_word[state] > 1 or (words_of_beat[state] == 1 and state != "COLUMNS")

        def body(state: str, address: Any) -> Value:
            """What lets a beat's parts go; the result is high when a word is complete."""
            first, *others = TARGETS[sections[state]]
            parts = [beat.data[n * widths[state] : (n + 1) * widths[state]] for n in range(words_of_beat[state])]
            m.d.comb += [
                piece.data.eq(Array(parts)[part] if len(parts) > 1 else beat.data),
                piece.target.eq(Mux(second.value, others[0], first) if others else first),
                piece.address.eq(address),
                last_index.eq(beats_of_word[state] - 1),
                next_single.eq(beats_of_word[state] == 1),
                part_end.eq(part == words_of_beat[state] - 1),
            ]
            with m.If(begins):
                m.d.sync += [goes.eq(goes_first(state)), complete.eq(beats_of_word[state] == 1)]
            if state == "COLUMNS":
                with m.If(accepted & complete & word_end):
                    m.d.sync += [leaves.eq(part_end | section_end), goes.eq(goes_first(state))]
                with m.Elif(accepted & ~complete):
                    m.d.sync += goes.eq(index + 1 != last_index)
            elif not goes_first(state):
                with m.If(accepted):
                    m.d.sync += [leaves.eq(section_end & ~goes), goes.eq(part == words_of_beat[state] - 2)]
            return accepted & complete

        def leave() -> None:
            """Ends of a state that override its own: packet over, packet bad, soft reset."""
            with m.If(over):
                m.next = "HEADER"
            with m.If(bad):
                m.next = "DISCARD"
            with m.If(self.clear):
                m.next = "CLEARED"

        # where a word lies in its store: an offset from a base, which moves when a loop turns
        first_weight = Mux(kind == PacketKind.WEIGHT_H, c.x_tiles * c.gate_rows, 0)
        next_block = Mux(~in_hidden & x_tile.at_end, c.x_tiles * c.bitmap_words, block_base + c.bitmap_words)
        of_tile = Mux(in_hidden, h_tile.value + c.x_tiles, x_tile.value)
        addresses: dict[str, tuple[Any, Signal, dict[Loop, Any]]] = {
            "WEIGHTS": (
                Cat(gate.value, unit.value),
                weight_base,
                {X_TILE: weight_base + c.gate_rows, UNIT: first_weight},
            ),
            "BLOCKS": (word_index.value, block_base, {TILE: next_block}),
            "COLUMNS": (of_tile, column_base, {STEP: column_base + c.tiles}),
            "SEEDS": (unit.value, state_base, {BATCH_TILE: state_base + c.max_H}),
        }

        def nest_of(state: str) -> dict[Loop, Counter]:
            """The counters of a state's loops; where its packets differ in a loop, the kind says which one counts."""
            nest: dict[Loop, Counter] = {}
            places = STATES[state]
            for loop, *others in zip(*(loops_of(section) for _, section in places.values()), strict=True):
                nest[loop] = counters[loop]
                for other in others:
                    if other != loop:
                        nest[loop] = OneOf(kind == next(iter(places)), counters[loop], counters[other])
            return nest

        def takes(state: str) -> None:
            """The state in which the words of a section are taken."""
            nest, (group, section) = nest_of(state), next(iter(STATES[state].values()))
            around = {loop: counters[loop] for loop in group.loops}
            place = group.sections.index(section)
            last = place == len(group.sections) - 1
            ends = at_ends(nest)
            m.d.comb += section_end.eq(ends)
            if last:
                m.d.comb += packet_end.eq(at_ends(around | nest))
            if section is COLUMNS:  # a word stays where it is until its last bit
                m.d.comb += word_end.eq(tile.at_end | (bit == BITMAP_WORD - 1))
            offset, base, moves = addresses.get(state, (0, None, {}))
            done = body(state, offset if base is None else base + offset)
            following = group.sections[(place + 1) % len(group.sections)].name.upper()
            if following != state:
                with m.If(ends):
                    m.d.comb += next_single.eq(beats_of_word[following] == 1)
            with m.If(done):
                turn(m, nest, base, moves)
                if section is COLUMNS:
                    m.d.sync += bit.eq(Mux(tile.at_end, 0, bit + 1))
                if following != state:
                    with m.If(ends):
                        if last:
                            turn(m, around)
                        m.d.sync += goes.eq(goes_first(following))
                        m.next = following

        with m.FSM() as fsm:
            with m.State("HEADER"):  # between packets
                word = beat.data
                m.d.sync += [
                    kind.eq(word[:8]),
                    is_tape.eq(word[:8] == PacketKind.TAPE),
                    known.eq((word[:8] >= min(PacketKind)) & (word[:8] <= max(PacketKind)) & ~word[8:32].any()),
                    *[s.eq(0) for s in (index, part, bit, gate.value, second.value, in_hidden)],
                    *[s.eq(0) for s in (state_base, block_base, column_base)],
                ]
                for each in loops.values():
                    each.clear()
                with m.If(self.beats.valid & ~leaves):
                    m.next = "KIND"
                leave()
            with m.State("KIND"):  # takes the header, now that registers know its kind, when that kind may come
                lets = ~leaves & self.sizes_ready & (self.running | ~is_tape | ~known)
                m.d.comb += header.eq(lets | leaves)
                for each in loops.values():
                    each.clear()
                m.d.sync += [weight_base.eq(first_weight), leaves.eq(lets)]
                with m.If(leaves):
                    wrong = beat.last | beat.partial
                    m.d.sync += [begins.eq(1), header_fault.eq(Mux(wrong, ErrorCode.PACKET_LENGTH, ErrorCode.NONE))]
                    with m.If(self.sizes_bad):
                        m.d.sync += header_fault.eq(ErrorCode.BAD_SIZE)
                    with m.If(~known | (self.running & ~is_tape)):
                        m.d.sync += header_fault.eq(ErrorCode.PACKET_KIND)
                    m.next = "DISCARD"
                    with m.Switch(kind):
                        for state, places in STATES.items():
                            if first := [k for k in places if INPUT[k].sections[0].name.upper() == state]:
                                with m.Case(*first):
                                    m.next = state
                leave()
            for state in STATES:
                with m.State(state):
                    takes(state)
                    leave()
            with m.State("DISCARD"):  # after a fault, until the soft reset
                m.d.sync += leaves.eq(1)
                leave()
            with m.State("CLEARED"):  # after a soft reset, which may have come within a packet
                m.next = "HEADER"
                with m.If(open_):
                    m.next = "RESYNC"
                leave()
            with m.State("RESYNC"):  # after a soft reset, to the end of the packet that was open
                m.d.sync += leaves.eq(1)
                with m.If(sent & beat.last):
                    m.d.sync += leaves.eq(0)
                    m.next = "HEADER"
                leave()
        with m.If(begins):
            m.d.sync += in_body.eq(1)
        with m.If(ended | bad | self.clear):
            m.d.sync += [goes.eq(0), in_body.eq(0)]
        with m.If(self.clear):
            m.d.sync += [leaves.eq(0), begins.eq(0), header_fault.eq(ErrorCode.NONE)]

        stores = [s for s, places in STATES.items() if not any(INPUT[k].while_running for k in places)]
        loads = reduce(or_, (fsm.ongoing(s) for s in stores))
        # from the cycle on in which the header is taken: no run begins then, and one that began before is seen here
        m.d.sync += self.loading.eq(loads | (header & ~is_tape) | words.storing)
        return m
