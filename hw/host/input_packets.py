"""Input packet unit: headers, sections and lengths of the packets that come in (docs/streams.md)."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Shape, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import BITMAP_WORD, EngineConfig
from gradsieve.hw.host.input_words import InputWords, PacketContents, Target, piece_layout, word_widths
from gradsieve.hw.host.packing import input_beat_layout
from gradsieve.hw.host.registers import ErrorCode
from gradsieve.hw.layouts import run_layout
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.loop_counter import LoopCounter
from gradsieve.hw.lib.register_slice import RegisterSlice
from gradsieve.hw.packets import PacketKind


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
        widths = {name: of_target[Target[name]] for name in ("WEIGHTS", "BLOCKS", "COLUMNS", "X")}
        widths |= {"SEEDS": of_target[Target.HIDDEN], "GATES": of_target[Target.RECORDS]}
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

        def loop(end: Any, name: str) -> LoopCounter:
            return LoopCounter(m, end, name)

        unit, word_index = loop(run.end.H, "unit"), loop(run.end.bitmap_words, "word_index")
        x_tile, h_tile = loop(run.end.x_tiles, "x_tile"), loop(run.end.h_tiles, "h_tile")
        step, batch_tile = loop(run.end.T, "step"), loop(run.end.batch_tiles, "batch_tile")
        column = loop(run.end.I, "column")
        loops = (unit, word_index, x_tile, h_tile, step, batch_tile, column)
        index, part, bit = Signal.like(piece.index), Signal(range(max(words_of_beat.values()))), Signal.like(piece.bit)
        gate, second, in_hidden = Signal(2), Signal(), Signal()
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

        def next_tile() -> None:
            """The tiles of x, then those of h."""
            with m.If(in_hidden):
                h_tile.advance()
                with m.If(h_tile.at_end):
                    m.d.sync += in_hidden.eq(0)
            with m.Else():
                x_tile.advance()
                with m.If(x_tile.at_end):
                    m.d.sync += in_hidden.eq(1)

        last_tile = in_hidden & h_tile.at_end
        # outer loops turn a cycle later: nothing asks for them before
        step_ended, batch_tile_ended = Signal(), Signal()
        m.d.sync += [step_ended.eq(0), batch_tile_ended.eq(0)]
        with m.If(batch_tile_ended):
            batch_tile.advance()
        with m.If(step_ended | (batch_tile_ended & batch_tile.at_end)):
            step.advance()

        def goes_first(state: str) -> bool:
            """Whether a beat goes with its first piece; the last of a word of column masks stays for all its bits."""
            return beats_of_word[state] > 1 or (words_of_beat[state] == 1 and state != "COLUMNS")

        def body(state: str, target: Any, address: Any) -> Value:
            """What all states with contents have in common; the result is high when a word is complete."""
            parts = [beat.data[n * widths[state] : (n + 1) * widths[state]] for n in range(words_of_beat[state])]
            m.d.comb += [
                piece.data.eq(Array(parts)[part] if len(parts) > 1 else beat.data),
                piece.target.eq(target),
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

        first_weight = Mux(kind == PacketKind.WEIGHT_H, c.x_tiles * c.gate_rows, 0)
        with m.FSM() as fsm:
            with m.State("HEADER"):  # between packets
                word = beat.data
                m.d.sync += [
                    kind.eq(word[:8]),
                    is_tape.eq(word[:8] == PacketKind.TAPE),
                    known.eq((word[:8] >= min(PacketKind)) & (word[:8] <= max(PacketKind)) & ~word[8:32].any()),
                    *[s.eq(0) for s in (index, part, bit, gate, second, in_hidden)],
                    *[s.eq(0) for s in (state_base, block_base, column_base)],
                ]
                for each in loops:
                    each.clear()
                with m.If(self.beats.valid & ~leaves):
                    m.next = "KIND"
                leave()
            with m.State("KIND"):  # takes the header, now that registers know its kind, when that kind may come
                lets = ~leaves & self.sizes_ready & (self.running | ~is_tape | ~known)
                m.d.comb += header.eq(lets | leaves)
                for each in loops:
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
                        for state, *kinds in (
                            ("WEIGHTS", PacketKind.WEIGHT_X, PacketKind.WEIGHT_H),
                            ("BLOCKS", PacketKind.BLOCK_MASK),
                            ("COLUMNS", PacketKind.COLUMN_MASK),
                            ("SEEDS", PacketKind.SEED),
                            ("GATES", PacketKind.TAPE),
                        ):
                            with m.Case(*kinds):
                                m.next = state
                leave()
            with m.State("WEIGHTS"):  # 4H rows of column vectors
                end_tile = Mux(kind == PacketKind.WEIGHT_X, x_tile.at_end, h_tile.at_end)
                ends = end_tile & unit.at_end & (gate == 3)
                done = body("WEIGHTS", Target.WEIGHTS, weight_base + Cat(gate, unit.value))
                m.d.comb += [section_end.eq(ends), packet_end.eq(ends)]
                with m.If(done):
                    m.d.sync += weight_base.eq(weight_base + c.gate_rows)
                    x_tile.advance()
                    h_tile.advance()
                    with m.If(end_tile):
                        m.d.sync += weight_base.eq(first_weight)
                        unit.advance()
                        with m.If(unit.at_end):
                            m.d.sync += gate.eq(gate + 1)
                leave()
            with m.State("BLOCKS"):  # a bitmap of the gate rows a tile
                ends = word_index.at_end & last_tile
                m.d.comb += [section_end.eq(ends), packet_end.eq(ends)]
                done = body("BLOCKS", Target.BLOCKS, block_base + word_index.value)
                with m.If(done):
                    word_index.advance()
                    with m.If(word_index.at_end):
                        m.d.sync += block_base.eq(block_base + c.bitmap_words)
                        with m.If(~in_hidden & x_tile.at_end):
                            m.d.sync += block_base.eq(c.x_tiles * c.bitmap_words)
                        next_tile()
                leave()
            with m.State("COLUMNS"):  # a bitmap of the tiles a step, handed on bit by bit
                tile = Mux(in_hidden, h_tile.value + c.x_tiles, x_tile.value)
                ends = last_tile & step.at_end
                m.d.comb += [
                    # a word stays where it is until its last bit
                    word_end.eq(last_tile | (bit == BITMAP_WORD - 1)),
                    section_end.eq(ends),
                    packet_end.eq(ends),
                ]
                done = body("COLUMNS", Target.COLUMNS, column_base + tile)
                with m.If(done):
                    m.d.sync += bit.eq(Mux(last_tile, 0, bit + 1))
                    next_tile()
                    with m.If(last_tile):
                        m.d.sync += [column_base.eq(column_base + c.tiles), step_ended.eq(1)]
                leave()
            with m.State("SEEDS"):  # dh, dc of each hidden unit of each batch tile
                ends = second & unit.at_end & batch_tile.at_end
                done = body("SEEDS", Mux(second, Target.CELL, Target.HIDDEN), state_base + unit.value)
                m.d.comb += [section_end.eq(ends), packet_end.eq(ends)]
                with m.If(done):
                    m.d.sync += second.eq(~second)
                    with m.If(second):
                        unit.advance()
                        with m.If(unit.at_end):
                            m.d.sync += [state_base.eq(state_base + c.max_H), batch_tile_ended.eq(1)]
                leave()
            with m.State("GATES"):  # records of a batch tile
                done = body("GATES", Target.RECORDS, 0)
                m.d.comb += section_end.eq(unit.at_end)
                with m.If(unit.at_end):
                    m.d.comb += next_single.eq(beats_of_word["X"] == 1)
                with m.If(done):
                    unit.advance()
                    with m.If(unit.at_end):
                        m.d.sync += goes.eq(goes_first("X"))
                        m.next = "X"
                leave()
            with m.State("X"):  # inputs of a batch tile
                ends = column.at_end & batch_tile.at_end & step.at_end
                done = body("X", Target.X, 0)
                m.d.comb += [section_end.eq(column.at_end), packet_end.eq(ends)]
                with m.If(column.at_end):
                    m.d.comb += next_single.eq(beats_of_word["GATES"] == 1)
                with m.If(done):
                    column.advance()
                    with m.If(column.at_end):
                        m.d.sync += [batch_tile_ended.eq(1), goes.eq(goes_first("GATES"))]
                        m.next = "GATES"
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

        loads = reduce(or_, (fsm.ongoing(s) for s in ("WEIGHTS", "BLOCKS", "COLUMNS", "SEEDS")))
        # from the cycle on in which the header is taken: no run begins then, and one that began before is seen here
        m.d.sync += self.loading.eq(loads | (header & ~is_tape) | words.storing)
        return m
