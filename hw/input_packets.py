"""Input packet unit: headers, sections and lengths of the packets that come in (docs/streams.md)."""

from __future__ import annotations

from enum import IntEnum
from functools import reduce
from operator import or_
from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Shape, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.config import BITMAP_WORD, EngineConfig
from hw.flow import Flow
from hw.gate_sequencer import record_layout
from hw.loop_counter import LoopCounter
from hw.memory import write_layout
from hw.packets import RECORD_VECTORS, PacketKind
from hw.packing import beat_layout
from hw.register_slice import RegisterSlice
from hw.registers import ErrorCode
from hw.run import run_layout
from hw.state_store import lanes_layout
from hw.weight_store import weight_word_layout


class Target(IntEnum):
    """Where a word goes."""

    WEIGHTS = 0
    BLOCKS = 1
    COLUMNS = 2
    HIDDEN = 3
    CELL = 4
    RECORDS = 5
    X = 6


class InputPackets(wiring.Component):
    """Takes packets, checks kind and length, and hands their contents to the stores or to the gate sequencer.

    One word a cycle or one beat a cycle, whichever is the narrower (column masks: one bit a cycle), and a cycle more
    for a beat that a section leaves unfilled.  A word is complete `latency` = 2 cycles after its last piece is taken,
    a bit of column masks two cycles later.
    `running` tells
    that a run is active: a tape waits for it, other kinds are refused during it; so is every packet while
    `sizes_bad`.  A bad packet gives `error` for one cycle and is thrown away to its end, as is all that follows until
    `clear` (soft reset), which also forgets what was begun; with `resync` the next beat is a header.  `open` is high
    between the first and the last beat of a packet.
    """

    latency = 2

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        f, state_depth = config.formats, config.batch_tiles * config.max_H
        self.record_layout = record_layout(config)
        state_write = write_layout(lanes_layout(config), state_depth)
        super().__init__(
            {
                "run": In(run_layout(config)),
                "running": In(1),
                "sizes_ready": In(1),
                "sizes_bad": In(1),
                "clear": In(1),
                "resync": In(1),
                "beats": In(stream.Signature(beat_layout(config.stream_width))),
                "weight_write": Out(Flow(write_layout(weight_word_layout(config), config.weight_words))),
                "block_write": Out(Flow(write_layout(BITMAP_WORD, config.tiles * config.bitmap_words))),
                "column_write": Out(Flow(write_layout(1, config.max_T * config.tiles))),
                "hidden_write": Out(Flow(state_write)),
                "cell_write": Out(Flow(state_write)),
                "records": Out(stream.Signature(self.record_layout)),
                "x": Out(stream.Signature(data.ArrayLayout(signed(f.input.width), config.C))),
                "open": Out(1),
                "loading": Out(1),
                "error": Out(Flow(Shape.cast(ErrorCode))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c, run, e = self.config, self.run, self.config.formats.element_bits
        beat_width, state_depth = c.stream_width, c.batch_tiles * c.max_H
        lanes_width = c.lane_slots * e
        widths = {
            "WEIGHTS": c.column_slots * e,
            "BLOCKS": BITMAP_WORD,
            "COLUMNS": BITMAP_WORD,
            "SEEDS": lanes_width,
            "GATES": RECORD_VECTORS * lanes_width,
            "X": lanes_width,
        }
        beats_of_word = {state: -(-width // beat_width) for state, width in widths.items()}
        words_of_beat = {state: -(-beat_width // width) for state, width in widths.items()}

        # pieces: a beat, or the part of it that is one word, and where it belongs
        addresses = (c.weight_words, c.tiles * c.bitmap_words, c.max_T * c.tiles, state_depth)
        piece_layout = data.StructLayout(
            {
                "data": beat_width,
                "index": range(max(beats_of_word.values())),
                "complete": 1,  # the last of its word
                "target": Target,
                "address": range(max(addresses)),
                "bit": range(BITMAP_WORD),  # of a word of column masks
            }
        )
        m.submodules.pieces = pieces = RegisterSlice(piece_layout)
        piece = pieces.source.payload
        m.d.comb += pieces.clear.eq(self.clear)

        # the packet at hand
        in_body, offered, accepted = Signal(), Signal(), Signal()
        # what lets a beat go comes from registers: it goes with its last piece, or, if that was not known ahead, then
        goes, leaves = Signal(), Signal()
        complete, part_end, word_end = Signal(), Signal(), Signal(init=1)
        last_index, next_single = Signal.like(piece.index), Signal()  # next_single: the next word is one beat or less
        section_end, packet_end, wrong_end, bad_length = Signal(), Signal(), Signal(), Signal()
        beat = self.beats.payload
        m.d.comb += [
            self.beats.ready.eq(leaves | (goes & pieces.source.ready)),
            offered.eq(self.beats.valid & in_body & ~leaves),
            accepted.eq(offered & pieces.source.ready),
            pieces.source.valid.eq(offered),
            piece.complete.eq(complete),
            # a section's last word ends its beat: the next section begins on a beat boundary
            wrong_end.eq(
                accepted
                & Mux(complete & packet_end, ~beat.last, beat.last & (~complete | section_end | (part_end & word_end)))
            ),
        ]
        # a cycle later: what is taken meanwhile does no harm, as only a soft reset leads out
        m.d.sync += [bad_length.eq(wrong_end & ~self.clear), leaves.eq(0)]
        fault = Signal(Shape.cast(ErrorCode))
        m.d.sync += [self.error.valid.eq(fault != ErrorCode.NONE), self.error.payload.eq(fault)]

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
                in_body.eq(1),
                piece.data.eq(Array(parts)[part] if len(parts) > 1 else beat.data),
                piece.target.eq(target),
                piece.address.eq(address),
                last_index.eq(beats_of_word[state] - 1),
                next_single.eq(beats_of_word[state] == 1),
                part_end.eq(part == words_of_beat[state] - 1),
            ]
            taken = self.beats.valid & ~leaves & pieces.source.ready
            if state == "COLUMNS":
                with m.If(taken & complete & word_end):
                    m.d.sync += [leaves.eq(part_end | section_end), goes.eq(goes_first(state))]
                with m.Elif(taken & ~complete):
                    m.d.sync += goes.eq(index + 1 != last_index)
            elif not goes_first(state):
                with m.If(taken):
                    m.d.sync += [leaves.eq(section_end & ~goes), goes.eq(part == words_of_beat[state] - 2)]
            return taken & complete

        def leave(over: Any = 0) -> None:
            """Ends of a state that override its own: packet over, packet bad, soft reset."""
            with m.If(over):
                m.d.sync += goes.eq(0)
                m.next = "HEADER"
            with m.If(bad_length):
                m.d.sync += goes.eq(0)
                m.next = "DISCARD"
            with m.If(self.clear):
                m.d.sync += [goes.eq(0), leaves.eq(0)]
                m.next = "HEADER"
                with m.If(still_open & ~self.resync):
                    m.next = "RESYNC"

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
                m.d.comb += header.eq(leaves)
                m.d.sync += weight_base.eq(first_weight)
                m.d.sync += leaves.eq(~leaves & self.sizes_ready & (self.running | ~is_tape | ~known))
                with m.If(leaves):
                    with m.If(~known | (self.running & ~is_tape)):
                        m.d.comb += fault.eq(ErrorCode.PACKET_KIND)
                        m.next = "DISCARD"
                    with m.Elif(self.sizes_bad):
                        m.d.comb += fault.eq(ErrorCode.BAD_SIZE)
                        m.next = "DISCARD"
                    with m.Elif(beat.last):
                        m.d.comb += fault.eq(ErrorCode.PACKET_LENGTH)
                        m.next = "DISCARD"
                    with m.Else():
                        with m.Switch(kind):
                            for state, *kinds in (
                                ("WEIGHTS", PacketKind.WEIGHT_X, PacketKind.WEIGHT_H),
                                ("BLOCKS", PacketKind.BLOCK_MASK),
                                ("COLUMNS", PacketKind.COLUMN_MASK),
                                ("SEEDS", PacketKind.SEED),
                                ("GATES", PacketKind.TAPE),
                            ):
                                with m.Case(*kinds):
                                    m.d.sync += complete.eq(beats_of_word[state] == 1)
                                    m.d.sync += goes.eq(goes_first(state))
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
                leave(done & ends)
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
                leave(done & ends)
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
                leave(done & ends)
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
                leave(done & ends)
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
                leave(done & ends)
            with m.State("DISCARD"):  # after a fault, until the soft reset
                m.d.sync += leaves.eq(1)
                leave()
            with m.State("RESYNC"):  # after a soft reset, to the end of the packet that was open
                m.d.sync += leaves.eq(1)
                with m.If(sent & beat.last):
                    m.d.sync += leaves.eq(0)
                    m.next = "HEADER"
                leave()
        with m.If(bad_length):
            m.d.comb += fault.eq(ErrorCode.PACKET_LENGTH)

        loads = reduce(or_, (fsm.ongoing(s) for s in ("WEIGHTS", "BLOCKS", "COLUMNS", "SEEDS")))
        # also as it begins, so that no run does in that cycle
        m.d.comb += self.loading.eq(loads | (header & ~is_tape) | self._words(m, pieces, max(widths.values())))
        return m

    def _words(self, m: Module, pieces: RegisterSlice, width: int) -> Value:
        """Words from their pieces, to where they belong; the result is high while one for a store is on its way."""
        c, e = self.config, self.config.formats.element_bits
        piece, word = pieces.sink.payload, Signal(max(width, c.stream_width), reset_less=True)
        layout = data.StructLayout({n: piece.shape().members[n] for n in ("address", "bit")})
        tag = Signal(layout, reset_less=True)
        # a word for each target at most, and one for all of them
        valid = {target: Signal(name=f"valid_{target.name.lower()}") for target in Target}
        tape = {Target.RECORDS: self.records, Target.X: self.x}
        m.d.comb += pieces.sink.ready.eq(~reduce(or_, (valid[t] & ~port.ready for t, port in tape.items())))
        with m.If(pieces.sink.ready):
            m.d.sync += [tag[n].eq(piece[n]) for n in layout.members]
            for target, of_target in valid.items():
                m.d.sync += of_target.eq(pieces.sink.valid & piece.complete & (piece.target == target))
        for n in range(len(word) // c.stream_width):
            # only a word's first piece may have to wait for the word before
            with m.If((piece.index == n) & (pieces.sink.ready if n == 0 else 1)):
                m.d.sync += word[n * c.stream_width : (n + 1) * c.stream_width].eq(piece.data)
        with m.If(self.clear):
            m.d.sync += [v.eq(0) for v in valid.values()]

        def elements(count: int, width: int, start: int = 0) -> list[Value]:
            return [word[n * e : n * e + width].as_signed() for n in range(start, start + count)]

        ports = {
            Target.WEIGHTS: (self.weight_write, elements(c.R, c.formats.weight.width)),
            Target.BLOCKS: (self.block_write, word[:BITMAP_WORD]),
            Target.HIDDEN: (self.hidden_write, elements(c.C, c.formats.gradient.width)),
            Target.CELL: (self.cell_write, elements(c.C, c.formats.gradient.width)),
        }
        for target, (port, contents) in ports.items():
            m.d.comb += [port.valid.eq(valid[target]), port.payload.address.eq(tag.address)]
            if isinstance(contents, list):
                m.d.comb += [port.payload.word[n].eq(v) for n, v in enumerate(contents)]
            else:
                m.d.comb += port.payload.word.eq(contents)
        # the choice among all bits of a word takes two cycles: a byte, then a bit
        byte, byte_valid, byte_tag = Signal(8), Signal(), Signal(layout, reset_less=True)
        m.d.sync += [
            byte_valid.eq(valid[Target.COLUMNS]),
            byte_tag.eq(tag),
            byte.eq(word[:BITMAP_WORD].word_select(tag.bit[3:], 8)),
            self.column_write.valid.eq(byte_valid),
            self.column_write.payload.address.eq(byte_tag.address),
            self.column_write.payload.word.eq(byte.bit_select(byte_tag.bit[:3], 1)),
        ]
        m.d.comb += [
            *[port.valid.eq(valid[target]) for target, port in tape.items()],
            *[self.x.payload[n].eq(v) for n, v in enumerate(elements(c.C, c.formats.input.width))],
        ]
        for v, name in enumerate(self.record_layout.members):
            lanes = self.records.payload[name]
            for n, value in enumerate(elements(c.C, len(lanes[0]), v * c.lane_slots)):
                m.d.comb += lanes[n].eq(value)
        of_tape = reduce(or_, (piece.target == target for target in tape))
        stored = (*ports, Target.COLUMNS)
        late = byte_valid | self.column_write.valid
        return (pieces.sink.valid & ~of_tape) | reduce(or_, (valid[t] for t in stored)) | late
