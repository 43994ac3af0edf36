"""Executes the requests of the serial link, one after the other, each once, and keeps the last answers."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from fpga.link.answers import PAYLOAD_END, Answer, AnswerStore
from fpga.link.framing import word_layout
from fpga.link.protocol import (
    FIFO_BYTES,
    HELLO_ANSWER,
    LAST,
    PAYLOAD_MAX,
    READ_ANSWER,
    SLOT_BYTES,
    VERSION,
    WINDOW,
    WRITE,
    Kind,
    Status,
)
from fpga.link.register_master import RegisterMaster
from fpga.link.uart import DATA_BITS
from hw.register_file import DATA_WIDTH, axi_lite_signature
from hw.registers import ADDRESS_WIDTH

WORD_BYTES = DATA_WIDTH // DATA_BITS


class _Outcome(IntEnum):
    """What follows when the rest of a request has been skipped: an answer as in `Answer`, or none."""

    NEW = Answer.NEW
    KEPT = Answer.KEPT
    REFUSAL = Answer.REFUSAL
    NOTHING = 3


class RequestProcessor(wiring.Component):
    """Bodies of requests in, words of answers out: docs/link.md says what each request does.

    Every request ends in bounded time, whatever bus and streams do.  `clear` pulses when a session begins: both stream
    queues must forget what they hold.  The input queue takes bytes provisionally until `input_commit`.
    """

    def __init__(self, beat_bytes: int) -> None:
        self.beat_bytes = beat_bytes
        super().__init__(
            {
                "requests": In(stream.Signature(word_layout())),
                "answers": Out(stream.Signature(word_layout())),
                "bus": Out(axi_lite_signature()),
                "input": Out(stream.Signature(word_layout())),
                "input_commit": Out(1),
                "input_rollback": Out(1),
                "input_free": In(range(FIFO_BYTES + 1)),
                "drained": In(1),
                "output": In(stream.Signature(word_layout())),
                "output_available": In(range(FIFO_BYTES + 1)),
                "dropped": In(DATA_BITS),
                "clear": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        self.m = m = Module()
        # the session, and in it the number of the next request and how many answers are kept
        self.session, self.in_session = Signal(DATA_BITS), Signal()
        self.expected, self.kept = Signal(DATA_BITS), Signal(range(WINDOW + 1))
        self.rejected = Signal()
        # the request
        self.word, self.taken = self.requests.payload, Signal()
        self.asked, self.sequence, self.kind = (Signal(DATA_BITS, reset_less=True) for _ in range(3))
        self.outcome = Signal(_Outcome, reset_less=True)
        self.status, self.last = Signal(Status, reset_less=True), Signal(reset_less=True)
        # what it is judged by, from registers: two cycles behind its sequence number
        self.known, self.in_order, self.recent = (Signal(reset_less=True) for _ in range(3))
        behind = Signal(DATA_BITS, reset_less=True)
        m.d.comb += self.taken.eq(self.requests.valid & self.requests.ready)
        m.submodules.answers = self.store = store = AnswerStore()
        # no room for the answer to another operation, if the two bytes that may be on their way are counted
        self.tight = Signal(reset_less=True)
        self.count = Signal(range(HELLO_ANSWER.size), reset_less=True)
        m.d.sync += [
            behind.eq(self.expected - self.sequence),
            self.in_order.eq(behind == 0),
            self.recent.eq(behind <= self.kept),
            self.known.eq(self.in_session & (self.asked == self.session)),
            self.tight.eq(store.position > PAYLOAD_END - 2 - READ_ANSWER),
            self.clear.eq(0),
            store.payload.valid.eq(0),
        ]
        wiring.connect(m, store.words, wiring.flipped(self.answers))
        m.d.comb += [
            store.session.eq(self.asked),
            store.sequence.eq(self.sequence),
            store.status.eq(self.status),
            store.last.eq(self.last),
            store.drained.eq(self.drained),
            store.dropped.eq(self.dropped),
            store.free.eq(self.input_free),
            store.available.eq(self.output_available),
        ]
        # the last bytes that were taken: before a transfer, they are the word to write
        self.value = Signal(DATA_WIDTH, reset_less=True)
        with m.If(self.taken):
            m.d.sync += self.value.eq(Cat(self.value[DATA_BITS:], self.word.data))
        with m.FSM(init="SESSION"):
            self._judge()
            self._hello()
            self._registers()
            self._send()
            self._receive()
            self._finish()
        return m

    def _put(self, byte: Any) -> None:
        """Write the next byte of the answer, through a register: the choice of byte and state takes most of a cycle."""
        self.m.d.sync += [self.store.payload.payload.eq(byte), self.store.payload.valid.eq(1)]

    def _bad(self, next_state: str) -> None:
        self.m.d.sync += self.status.eq(Status.BAD_REQUEST)
        self.m.next = next_state

    def _judge(self) -> None:
        m = self.m
        with m.State("SESSION"):  # wait for a request
            m.d.comb += [self.requests.ready.eq(1), self.store.begin.eq(1)]
            m.d.sync += [
                self.asked.eq(self.word.data),
                self.outcome.eq(_Outcome.NEW),
                self.status.eq(Status.OK),
                self.last.eq(0),
            ]
            with m.If(self.taken):
                m.next = "SEQUENCE"
        with m.State("SEQUENCE"):  # its sequence number
            m.d.comb += self.requests.ready.eq(1)
            m.d.sync += self.sequence.eq(self.word.data)
            with m.If(self.taken):
                m.next = "KIND"
        with m.State("KIND"):  # what it asks for
            m.d.comb += self.requests.ready.eq(1)
            m.d.sync += self.kind.eq(self.word.data)
            with m.If(self.taken):
                m.next = "COMPARE"
        with m.State("COMPARE"):  # the session's numbers with its own
            m.next = "JUDGE"
        with m.State("JUDGE"):  # whether it is to be executed
            kind = self.kind & ~LAST
            m.next = "SKIP"
            with m.If(kind == Kind.HELLO):
                m.d.sync += [
                    self.session.eq(self.asked),
                    self.in_session.eq(1),
                    self.expected.eq(self.sequence),
                    self.kept.eq(0),
                    self.clear.eq(1),
                    self.count.eq(0),
                ]
                m.next = "CONSTANTS"
            with m.Elif(~self.known):
                m.d.sync += [self.outcome.eq(_Outcome.REFUSAL), self.status.eq(Status.NO_SESSION)]
            with m.Elif(self.in_order):
                with m.Switch(kind):
                    for value, state in (
                        (Kind.REGISTERS, "OPERATION"),
                        (Kind.SEND, "FIRST"),
                        (Kind.RECEIVE, "COUNT_LOW"),
                    ):
                        with m.Case(value):
                            m.next = state
                    with m.Default():
                        self._bad("SKIP")
            with m.Elif(self.recent):
                m.d.sync += self.outcome.eq(_Outcome.KEPT)
            with m.Elif(self.rejected):
                m.d.sync += self.outcome.eq(_Outcome.NOTHING)
            with m.Else():
                m.d.sync += [
                    self.outcome.eq(_Outcome.REFUSAL),
                    self.status.eq(Status.OUT_OF_SEQUENCE),
                    self.sequence.eq(self.expected),
                    self.rejected.eq(1),
                ]
        with m.State("SKIP"):  # drop the rest of the request
            m.d.comb += self.requests.ready.eq(1)
            with m.If(self.taken & self.word.end):
                m.next = "FINISH"
                with m.If(self.outcome == _Outcome.NOTHING):
                    m.next = "SESSION"

    def _hello(self) -> None:
        m = self.m
        nonce_at = HELLO_ANSWER.size - 4
        answer = HELLO_ANSWER.pack(VERSION, WINDOW, PAYLOAD_MAX, FIFO_BYTES, FIFO_BYTES, self.beat_bytes, 0)
        constants = Array(Const(byte, DATA_BITS) for byte in answer[:nonce_at])
        with m.State("CONSTANTS"):  # what the host must know of the device
            self._put(constants[self.count])
            m.d.sync += self.count.eq(self.count + 1)
            with m.If(self.count == nonce_at - 1):
                m.next = "NONCE"
        with m.State("NONCE"):  # the request's payload, back to the host
            m.d.comb += self.requests.ready.eq(1)
            with m.If(self.taken):
                with m.If(self.word.end):
                    m.next = "FINISH"
                with m.Elif(self.tight):
                    self._bad("SKIP")
                with m.Else():
                    self._put(self.word.data)

    def _registers(self) -> None:
        m = self.m
        m.submodules.master = master = RegisterMaster()
        wiring.connect(m, master.bus, wiring.flipped(self.bus))
        address = Signal(ADDRESS_WIDTH)
        write, count = Signal(), self.count
        m.d.comb += [
            master.address.eq(address & ~(WORD_BYTES - 1)),
            write.eq((address & WRITE) != 0),
            master.write.eq(write),
            master.write_data.eq(self.value),
            master.clear.eq(self.clear),
        ]
        with m.State("OPERATION"):  # the address of a register
            m.d.comb += self.requests.ready.eq(1)
            m.d.sync += [address.eq(self.word.data), count.eq(0)]
            with m.If(self.taken):
                with m.If(self.word.end):
                    m.next = "FINISH"
                with m.Elif(self.tight):
                    self._bad("SKIP")
                with m.Elif((self.word.data & WRITE) != 0):
                    m.next = "DATA"
                with m.Else():
                    m.next = "START"
        with m.State("DATA"):  # the word to write
            m.d.comb += self.requests.ready.eq(1)
            with m.If(self.taken):
                m.d.sync += count.eq(count + 1)
                with m.If(self.word.end):
                    self._bad("FINISH")
                with m.Elif(count == WORD_BYTES - 1):
                    m.next = "START"
        with m.State("START"):  # begin the transfer
            m.d.comb += master.start.eq(1)
            m.next = "BUS"
        with m.State("BUS"):  # wait for its end
            with m.If(master.done):
                m.next = "RESULT"
        with m.State("RESULT"):  # answer how it went
            self._put(master.result)
            m.d.sync += count.eq(0)
            m.next = "VALUE"
            with m.If(write):
                m.next = "OPERATION"
        with m.State("VALUE"):  # answer the word that was read
            self._put(master.read_data.word_select(count[: (WORD_BYTES - 1).bit_length()], DATA_BITS))
            m.d.sync += count.eq(count + 1)
            with m.If(count == WORD_BYTES - 1):
                m.next = "OPERATION"

    def _send(self) -> None:
        m = self.m
        held = Signal(DATA_BITS, reset_less=True)
        with m.State("FIRST"):  # its first byte
            m.d.comb += self.requests.ready.eq(1)
            m.d.sync += held.eq(self.word.data)
            with m.If(self.taken):
                m.next = "NEXT"
                with m.If(self.word.end):
                    m.next = "FINISH"
                    with m.If((self.kind & LAST) != 0):
                        self._bad("FINISH")
        with m.State("NEXT"):  # the byte before goes on, now that it is known whether it is the last
            m.d.comb += [
                self.input.valid.eq(self.requests.valid),
                self.input.payload.data.eq(held),
                self.input.payload.end.eq(self.word.end & ((self.kind & LAST) != 0)),
                self.requests.ready.eq(self.input.ready),
            ]
            with m.If(self.taken):
                m.d.sync += held.eq(self.word.data)
                m.next = "ROOM"
                with m.If(self.word.end):
                    m.next = "COMMIT"
            with m.Elif(self.requests.valid):
                m.d.sync += self.status.eq(Status.NO_ROOM)
                m.d.comb += self.input_rollback.eq(1)
                m.next = "SKIP"
        with m.State("ROOM"):  # let the queue find out whether it has room for another byte
            m.next = "NEXT"
        with m.State("COMMIT"):  # all bytes had room
            m.d.comb += self.input_commit.eq(1)
            m.next = "FINISH"

    def _receive(self) -> None:
        m = self.m
        wanted, huge = Signal(range(SLOT_BYTES), reset_less=True), Signal(reset_less=True)
        # bytes that may still come, less one: the sign tells that there are none
        left = Signal(range(-1, SLOT_BYTES), reset_less=True)
        with m.State("COUNT_LOW"):  # how many bytes at most
            m.d.comb += self.requests.ready.eq(1)
            m.d.sync += wanted.eq(self.word.data)
            with m.If(self.taken):
                m.next = "COUNT_HIGH"
                with m.If(self.word.end):
                    self._bad("FINISH")
        with m.State("COUNT_HIGH"):  # the high byte; more than fits an answer is all that fits
            m.d.comb += self.requests.ready.eq(1)
            with m.If(self.taken):
                m.d.sync += wanted.eq(Cat(wanted[:DATA_BITS], self.word.data))
                m.d.sync += huge.eq(self.word.data >= SLOT_BYTES >> DATA_BITS)
                m.next = "COUNT_END"
                with m.If(self.word.end):
                    self._bad("FINISH")
        with m.State("COUNT_END"):  # nothing else belongs to the request
            m.d.comb += self.requests.ready.eq(1)
            m.d.sync += left.eq(Mux(huge | (wanted >= PAYLOAD_MAX), PAYLOAD_MAX, wanted))
            with m.If(self.taken):
                m.next = "LEFT"
                with m.If(~self.word.end):
                    self._bad("SKIP")
        with m.State("LEFT"):  # one less: the sign then tells the end
            m.d.sync += left.eq(left - 1)
            m.next = "TAKE"
        with m.State("TAKE"):  # bytes of one packet, as far as they are there
            byte = self.output.payload
            m.d.comb += self.output.ready.eq(byte.end | (left >= 0))
            m.next = "FINISH"
            with m.If(self.output.valid & byte.end):
                m.d.sync += self.last.eq(1)
            with m.Elif(self.output.valid & (left >= 0)):
                m.d.sync += left.eq(left - 1)
                self._put(byte.data)
                m.next = "MORE"
        with m.State("MORE"):  # let the queue offer its next byte
            m.next = "TAKE"

    def _finish(self) -> None:
        m = self.m
        with m.State("FINISH"):  # the request has been executed
            m.d.comb += [self.store.give.valid.eq(1), self.store.give.payload.eq(self.outcome)]
            with m.If(self.outcome == _Outcome.NEW):
                m.d.sync += [self.expected.eq(self.expected + 1), self.rejected.eq(0)]
                with m.If(self.kept != WINDOW):
                    m.d.sync += self.kept.eq(self.kept + 1)
            m.next = "ANSWER"
        with m.State("ANSWER"):  # wait until the answer has gone to the line
            with m.If(self.store.idle):
                m.next = "SESSION"
