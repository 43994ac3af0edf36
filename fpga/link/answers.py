"""Keeps the last answers of the device and gives them to the line."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.fpga.link.framing import word_layout
from gradsieve.fpga.link.protocol import FIFO_BYTES, PAYLOAD_MAX, RESPONSE_HEADER, SLOT_BYTES, WINDOW, Status
from gradsieve.fpga.link.uart import DATA_BITS
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.stream_memory import StreamMemory

PAYLOAD_END = RESPONSE_HEADER + PAYLOAD_MAX


class Answer(IntEnum):
    """Which answer is to be given."""

    NEW = 0
    """To the request that has just been executed."""
    KEPT = 1
    """The one that is kept of that sequence number."""
    REFUSAL = 2
    """A header alone, from no slot: all of them keep answers."""


class AnswerStore(wiring.Component):
    """A slot of memory for each sequence number modulo the window.

    After `begin`, `payload` writes the bytes of a new answer; `position` is where in the slot the next one goes.
    `give` gives an answer to the line, under the header that the other inputs say if it is not a KEPT one.  They must
    stay, and nothing else may come, until `idle` is high again.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "begin": In(1),
                "payload": In(Flow(DATA_BITS)),
                "position": Out(range(SLOT_BYTES)),
                "give": In(Flow(Answer)),
                "idle": Out(1),
                "session": In(DATA_BITS),
                "sequence": In(DATA_BITS),
                "status": In(Status),
                "last": In(1),
                "drained": In(1),
                "dropped": In(DATA_BITS),
                "free": In(range(FIFO_BYTES + 1)),
                "available": In(range(FIFO_BYTES + 1)),
                "words": Out(stream.Signature(word_layout())),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.slots = slots = StreamMemory(word_layout(), WINDOW * SLOT_BYTES)
        words = self.words
        index = Signal(range(SLOT_BYTES), reset_less=True)
        place = Cat(index, self.sequence[: (WINDOW - 1).bit_length()])
        header_byte = Signal(DATA_BITS)
        write = slots.write
        m.d.comb += [
            self.position.eq(index),
            slots.request.payload.eq(place),
            header_byte.eq(Array(self._header(m))[index[: (RESPONSE_HEADER - 1).bit_length()]]),
        ]
        m.d.sync += [
            write.valid.eq(0),
            write.payload.address.eq(place),
            write.payload.word.data.eq(header_byte),
            write.payload.word.end.eq(0),
        ]
        header_bits = RESPONSE_HEADER.bit_length()
        with m.FSM() as fsm:
            with m.State("IDLE"):  # take the payload of a new answer
                m.d.sync += write.payload.word.data.eq(self.payload.payload)
                with m.If(self.payload.valid):
                    m.d.sync += [write.valid.eq(1), index.eq(index + 1)]
                with m.If(self.begin):
                    m.d.sync += index.eq(RESPONSE_HEADER)
                with m.If(self.give.valid):
                    with m.Switch(self.give.payload):
                        with m.Case(Answer.NEW):
                            m.next = "MARK"
                        with m.Case(Answer.KEPT):
                            m.d.sync += index.eq(0)
                            m.next = "FETCH"
                        with m.Default():
                            m.d.sync += index.eq(0)
                            m.next = "REFUSAL"
            with m.State("MARK"):  # write the end of the answer
                m.d.sync += [write.valid.eq(1), write.payload.word.end.eq(1), index.eq(0)]
                m.next = "HEADER"
            with m.State("HEADER"):  # write its header, last: it has the levels of the queues afterwards
                m.d.sync += [write.valid.eq(1), index.eq(index + 1)]
                with m.If(index[:header_bits] == RESPONSE_HEADER - 1):
                    m.d.sync += index.eq(0)
                    m.next = "FETCH"
            with m.State("FETCH"):  # read a word of the answer
                m.d.comb += slots.request.valid.eq(1)
                with m.If(slots.request.ready):
                    m.d.sync += index.eq(index + 1)
                    m.next = "WORD"
            with m.State("WORD"):  # give it to the line
                m.d.comb += [
                    words.valid.eq(slots.word.valid),
                    words.payload.eq(slots.word.payload),
                    slots.word.ready.eq(words.ready),
                ]
                with m.If(slots.word.valid & words.ready):
                    m.next = "FETCH"
                    with m.If(slots.word.payload.end):
                        m.next = "IDLE"
            with m.State("REFUSAL"):  # give a header and an end
                m.d.comb += [
                    words.valid.eq(1),
                    words.payload.data.eq(header_byte),
                    words.payload.end.eq(index[:header_bits] == RESPONSE_HEADER),
                ]
                with m.If(words.ready):
                    m.d.sync += index.eq(index + 1)
                    with m.If(words.payload.end):
                        m.next = "IDLE"
            m.d.comb += self.idle.eq(fsm.ongoing("IDLE"))
        return m

    def _header(self, m: Module) -> list[Any]:
        """The bytes that `protocol.parse_response` reads."""
        flags = Signal(DATA_BITS)
        free = Signal(2 * DATA_BITS)
        available = Signal(2 * DATA_BITS)
        m.d.comb += [
            flags.eq(Cat(self.status, Const(0, 6 - len(self.status)), self.drained, self.last)),
            free.eq(self.free),
            available.eq(self.available),
        ]
        levels = [level.word_select(n, DATA_BITS) for level in (free, available) for n in range(2)]
        return [self.session, self.sequence, flags, self.dropped, *levels]
