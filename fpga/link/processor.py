"""Executes the requests of the serial link, one after the other, each once, and keeps the last answers."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from functools import reduce
from operator import or_
from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.fpga.link.answers import PAYLOAD_END, Answer, AnswerStore
from gradsieve.fpga.link.framing import word_layout
from gradsieve.fpga.link.operations import (
    HelloOperation,
    Operation,
    ReceiveOperation,
    RegisterOperations,
    SendOperation,
)
from gradsieve.fpga.link.protocol import (
    FIFO_BYTES,
    HELLO_ANSWER,
    LAST,
    NONCE_BYTES,
    PAYLOAD_MAX,
    READ_ANSWER,
    VERSION,
    WINDOW,
    Kind,
    Status,
)
from gradsieve.fpga.link.uart import DATA_BITS
from gradsieve.hw.host.register_file import REGISTER_BUS


class _Outcome(IntEnum):
    """What follows when the rest of a request has been skipped: an answer as in `Answer`, or none."""

    NEW = Answer.NEW
    KEPT = Answer.KEPT
    REFUSAL = Answer.REFUSAL
    NOTHING = 3


class RequestProcessor(wiring.Component):
    """Bodies of requests in, words of answers out: judges each and lets the operation of its kind execute it.

    Every request ends in bounded time, whatever bus and streams do.  `clear` pulses when a session begins: both stream
    queues must forget what they hold.  The input queue takes bytes provisionally until `input_commit`.
    """

    def __init__(self, beat_bytes: int) -> None:
        self.beat_bytes = beat_bytes
        super().__init__(
            {
                "requests": In(stream.Signature(word_layout())),
                "answers": Out(stream.Signature(word_layout())),
                "bus": Out(REGISTER_BUS),
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
        self.session = Signal(DATA_BITS)
        self.in_session = Signal()
        self.expected = Signal(DATA_BITS)
        self.kept = Signal(range(WINDOW + 1))
        self.rejected = Signal()
        # the request
        self.word = self.requests.payload
        self.asked, self.sequence, self.kind = (Signal(DATA_BITS, reset_less=True) for _ in range(3))
        self.outcome = Signal(_Outcome, reset_less=True)
        self.status = Signal(Status, reset_less=True)
        self.last = Signal(reset_less=True)
        # what it is judged by, from registers: two cycles after its sequence number
        self.known, self.in_order, self.recent = (Signal(reset_less=True) for _ in range(3))
        behind = Signal(DATA_BITS, reset_less=True)
        m.submodules.answers = self.store = store = AnswerStore()
        operations = self._operations()
        # no room for the answer to another operation, if the two bytes that may be on their way are counted
        tight = Signal(reset_less=True)
        self.listening = Signal()
        self.over = Signal()
        self.rest = Signal()
        self.begin = Signal()
        self.wanted = {kind: Signal(name=f"wants_{kind.name.lower()}", reset_less=True) for kind in operations}
        m.d.sync += [
            behind.eq(self.expected - self.sequence),
            self.in_order.eq(behind == 0),
            self.recent.eq(behind <= self.kept),
            self.known.eq(self.in_session & (self.asked == self.session)),
            tight.eq(store.position > PAYLOAD_END - 2 - READ_ANSWER),
            self.clear.eq(0),
        ]
        for kind, operation in operations.items():
            m.d.sync += [
                self.wanted[kind].eq((self.kind & ~LAST) == kind),
                operation.begin.eq(self.begin & self.wanted[kind]),
            ]
            m.d.comb += [
                operation.words.valid.eq(self.requests.valid),
                operation.words.payload.eq(self.word),
                operation.tight.eq(tight),
            ]
        each = operations.values()
        wiring.connect(m, store.words, wiring.flipped(self.answers))
        m.d.comb += [
            self.requests.ready.eq(self.listening | _any(o.words.ready for o in each)),
            self.over.eq(_any(o.over for o in each)),
            self.rest.eq(_any(o.rest for o in each)),
            store.payload.valid.eq(_any(o.answer.valid for o in each)),
            store.payload.payload.eq(_any(o.answer.payload & o.answer.valid.replicate(DATA_BITS) for o in each)),
            store.session.eq(self.asked),
            store.sequence.eq(self.sequence),
            store.status.eq(self.status),
            store.last.eq(self.last),
            store.drained.eq(self.drained),
            store.dropped.eq(self.dropped),
            store.free.eq(self.input_free),
            store.available.eq(self.output_available),
        ]
        with m.FSM(init="SESSION"):
            self._judge()
            self._finish()
        for operation in each:
            with m.If(operation.fault != Status.OK):
                m.d.sync += self.status.eq(operation.fault)
        return m

    def _operations(self) -> dict[Kind, Operation]:
        m = self.m
        constants = HELLO_ANSWER.pack(VERSION, WINDOW, PAYLOAD_MAX, FIFO_BYTES, FIFO_BYTES, self.beat_bytes, 0)
        m.submodules.hello = hello = HelloOperation(constants[: HELLO_ANSWER.size - NONCE_BYTES])
        m.submodules.registers = registers = RegisterOperations()
        m.submodules.send = send = SendOperation()
        m.submodules.receive = receive = ReceiveOperation()
        wiring.connect(m, registers.bus, wiring.flipped(self.bus))
        wiring.connect(m, send.input, wiring.flipped(self.input))
        wiring.connect(m, wiring.flipped(self.output), receive.output)
        m.d.comb += [
            registers.clear.eq(self.clear),
            send.last.eq((self.kind & LAST) != 0),
            self.input_commit.eq(send.input_commit),
            self.input_rollback.eq(send.input_rollback),
        ]
        with m.If(receive.ended):
            m.d.sync += self.last.eq(1)
        return {Kind.HELLO: hello, Kind.REGISTERS: registers, Kind.SEND: send, Kind.RECEIVE: receive}

    def _judge(self) -> None:
        m = self.m
        with m.State("SESSION"):  # wait for a request
            m.d.comb += [self.listening.eq(1), self.store.begin.eq(1)]
            m.d.sync += [
                self.asked.eq(self.word.data),
                self.outcome.eq(_Outcome.NEW),
                self.status.eq(Status.OK),
                self.last.eq(0),
            ]
            with m.If(self.requests.valid):
                m.next = "SEQUENCE"
        with m.State("SEQUENCE"):  # its sequence number
            m.d.comb += self.listening.eq(1)
            m.d.sync += self.sequence.eq(self.word.data)
            with m.If(self.requests.valid):
                m.next = "KIND"
        with m.State("KIND"):  # what it asks for
            m.d.comb += self.listening.eq(1)
            m.d.sync += self.kind.eq(self.word.data)
            with m.If(self.requests.valid):
                m.next = "COMPARE"
        with m.State("COMPARE"):  # the session's numbers with its own
            m.next = "JUDGE"
        with m.State("JUDGE"):  # whether it is to be executed
            m.next = "SKIP"
            with m.If(self.wanted[Kind.HELLO]):
                m.d.sync += [
                    self.session.eq(self.asked),
                    self.in_session.eq(1),
                    self.expected.eq(self.sequence),
                    self.kept.eq(0),
                    self.clear.eq(1),
                ]
                m.d.comb += self.begin.eq(1)
                m.next = "EXECUTE"
            with m.Elif(~self.known):
                m.d.sync += [self.outcome.eq(_Outcome.REFUSAL), self.status.eq(Status.NO_SESSION)]
            with m.Elif(self.in_order):
                with m.If(_any(self.wanted.values())):
                    m.d.comb += self.begin.eq(1)
                    m.next = "EXECUTE"
                with m.Else():
                    m.d.sync += self.status.eq(Status.BAD_REQUEST)
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
        with m.State("EXECUTE"):  # what it asks for is being done
            with m.If(self.over):
                m.next = "FINISH"
            with m.If(self.rest):
                m.next = "SKIP"
        with m.State("SKIP"):  # drop the rest of the request
            m.d.comb += self.listening.eq(1)
            with m.If(self.requests.valid & self.word.end):
                m.next = "FINISH"
                with m.If(self.outcome == _Outcome.NOTHING):
                    m.next = "SESSION"

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


def _any(values: Iterable[Any]) -> Any:
    return reduce(or_, values)
