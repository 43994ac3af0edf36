"""What the requests of the serial link do, a block for each kind: docs/link.md says what that is.

A block has its own few states, so that its logic is shallow.  Bytes of the line are at least 40 cycles apart: a cycle
more in front of a register costs nothing.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.fpga.link.framing import word_layout
from gradsieve.fpga.link.protocol import HELLO_ANSWER, PAYLOAD_MAX, SLOT_BYTES, WRITE, Status
from gradsieve.fpga.link.register_master import RegisterMaster
from gradsieve.fpga.link.uart import DATA_BITS
from gradsieve.hw.host.register_file import DATA_WIDTH, REGISTER_BUS
from gradsieve.hw.host.registers import ADDRESS_WIDTH
from gradsieve.hw.lib.flow import Flow

WORD_BYTES = DATA_WIDTH // DATA_BITS


class Operation(wiring.Component):
    """A kind of request.

    After the pulse `begin`, `words` brings what follows the request's header, and `answer` takes the bytes of its
    answer; while `tight` is high there is no room for another.  The end is a pulse of `over` (the request has been
    taken to its last word) or of `rest` (it goes on, and what is left is to be dropped), with `fault` beside it.
    """

    def __init__(self, **members: Any) -> None:
        super().__init__(
            {
                "begin": In(1),
                "words": In(stream.Signature(word_layout())),
                "tight": In(1),
                "answer": Out(Flow(DATA_BITS)),
                "over": Out(1),
                "rest": Out(1),
                "fault": Out(Status),
                **members,
            }
        )

    def _module(self) -> Module:
        """With the pulses low unless something raises them."""
        m = Module()
        m.d.sync += [self.answer.valid.eq(0), self.over.eq(0), self.rest.eq(0), self.fault.eq(Status.OK)]
        return m

    def _put(self, m: Module, byte: Any) -> None:
        m.d.sync += [self.answer.payload.eq(byte), self.answer.valid.eq(1)]

    def _end(self, m: Module, *, rest: bool = False, fault: Status = Status.OK) -> None:
        m.d.sync += [(self.rest if rest else self.over).eq(1), self.fault.eq(fault)]
        m.next = "IDLE"


class HelloOperation(Operation):
    """Answers what the host must know of the device, and the request's own bytes after it."""

    def __init__(self, constants: bytes) -> None:
        self.constants = constants
        super().__init__()

    def elaborate(self, platform: Any) -> Module:
        m = self._module()
        constants = Array(Const(byte, DATA_BITS) for byte in self.constants)
        count = Signal(range(HELLO_ANSWER.size))
        with m.FSM():
            with m.State("IDLE"):  # no such request
                m.d.sync += count.eq(0)
                with m.If(self.begin):
                    m.next = "CONSTANTS"
            with m.State("CONSTANTS"):  # what the host must know
                self._put(m, constants[count])
                m.d.sync += count.eq(count + 1)
                with m.If(count == len(constants) - 1):
                    m.next = "NONCE"
            with m.State("NONCE"):  # the request's payload, back to the host
                m.d.comb += self.words.ready.eq(1)
                with m.If(self.words.valid):
                    with m.If(self.words.payload.end):
                        self._end(m)
                    with m.Elif(self.tight):
                        self._end(m, rest=True, fault=Status.BAD_REQUEST)
                    with m.Else():
                        self._put(m, self.words.payload.data)
        return m


class RegisterOperations(Operation):
    """Reads and writes registers over `bus`, each in bounded time; `clear` as in RegisterMaster."""

    def __init__(self) -> None:
        super().__init__(bus=Out(REGISTER_BUS), clear=In(1))

    def elaborate(self, platform: Any) -> Module:
        m = self._module()
        m.submodules.master = master = RegisterMaster()
        wiring.connect(m, master.bus, wiring.flipped(self.bus))
        word = self.words.payload
        address = Signal(ADDRESS_WIDTH)
        count = Signal(range(WORD_BYTES))
        write = Signal()
        value = Signal(DATA_WIDTH, reset_less=True)
        latest = Signal(DATA_BITS, reset_less=True)
        taken = Signal()
        m.d.comb += [
            master.address.eq(address & ~(WORD_BYTES - 1)),
            write.eq((address & WRITE) != 0),
            master.write.eq(write),
            master.write_data.eq(value),
            master.clear.eq(self.clear),
        ]
        # a cycle later: before a transfer, the last bytes are the word to write
        m.d.sync += [latest.eq(word.data), taken.eq(self.words.valid & self.words.ready)]
        with m.If(taken):
            m.d.sync += value.eq(Cat(value[DATA_BITS:], latest))
        with m.FSM():
            with m.State("IDLE"):  # no such request
                with m.If(self.begin):
                    m.next = "OPERATION"
            with m.State("OPERATION"):  # the address of a register
                m.d.comb += self.words.ready.eq(1)
                m.d.sync += [address.eq(word.data), count.eq(0)]
                with m.If(self.words.valid):
                    with m.If(word.end):
                        self._end(m)
                    with m.Elif(self.tight):
                        self._end(m, rest=True, fault=Status.BAD_REQUEST)
                    with m.Elif((word.data & WRITE) != 0):
                        m.next = "DATA"
                    with m.Else():
                        m.next = "START"
            with m.State("DATA"):  # the word to write
                m.d.comb += self.words.ready.eq(1)
                with m.If(self.words.valid):
                    m.d.sync += count.eq(count + 1)
                    with m.If(word.end):
                        self._end(m, fault=Status.BAD_REQUEST)
                    with m.Elif(count == WORD_BYTES - 1):
                        m.next = "START"
            with m.State("START"):  # begin the transfer
                m.d.comb += master.start.eq(1)
                m.next = "BUS"
            with m.State("BUS"):  # wait for its end
                with m.If(master.done):
                    m.next = "RESULT"
            with m.State("RESULT"):  # answer how it went
                self._put(m, master.result)
                m.d.sync += count.eq(0)
                m.next = "VALUE"
                with m.If(write):
                    m.next = "OPERATION"
            with m.State("VALUE"):  # answer the word that was read
                self._put(m, master.read_data.word_select(count, DATA_BITS))
                m.d.sync += count.eq(count + 1)
                with m.If(count == WORD_BYTES - 1):
                    m.next = "OPERATION"
        return m


class SendOperation(Operation):
    """Bytes for the input queue, all of them or none: `input_commit` or `input_rollback` follows them.

    With `last`, steady during the request, its last byte ends a packet.
    """

    def __init__(self) -> None:
        super().__init__(
            last=In(1), input=Out(stream.Signature(word_layout())), input_commit=Out(1), input_rollback=Out(1)
        )

    def elaborate(self, platform: Any) -> Module:
        m = self._module()
        word = self.words.payload
        held = Signal(DATA_BITS, reset_less=True)
        m.d.comb += [self.input.payload.data.eq(held), self.input.payload.end.eq(word.end & self.last)]
        with m.FSM():
            with m.State("IDLE"):  # no such request
                with m.If(self.begin):
                    m.next = "FIRST"
            with m.State("FIRST"):  # its first byte
                m.d.comb += self.words.ready.eq(1)
                m.d.sync += held.eq(word.data)
                with m.If(self.words.valid):
                    m.next = "NEXT"
                    with m.If(word.end):
                        self._end(m)
                        with m.If(self.last):
                            self._end(m, fault=Status.BAD_REQUEST)
            with m.State("NEXT"):  # the byte before goes on, now that it is known whether it is the last
                m.d.comb += [self.input.valid.eq(self.words.valid), self.words.ready.eq(self.input.ready)]
                with m.If(self.words.valid & self.input.ready):
                    m.d.sync += held.eq(word.data)
                    m.next = "ROOM"
                    with m.If(word.end):
                        m.next = "COMMIT"
                with m.Elif(self.words.valid):
                    m.d.comb += self.input_rollback.eq(1)
                    self._end(m, rest=True, fault=Status.NO_ROOM)
            with m.State("ROOM"):  # let the queue find out whether it has room for another byte
                m.next = "NEXT"
            with m.State("COMMIT"):  # all bytes had room
                m.d.comb += self.input_commit.eq(1)
                self._end(m)
        return m


class ReceiveOperation(Operation):
    """Bytes of one packet of the output queue, as far as they are there; `ended` pulses if the packet is."""

    def __init__(self) -> None:
        super().__init__(output=In(stream.Signature(word_layout())), ended=Out(1))

    def elaborate(self, platform: Any) -> Module:
        m = self._module()
        word, byte = self.words.payload, self.output.payload
        wanted = Signal(range(SLOT_BYTES), reset_less=True)
        huge = Signal(reset_less=True)
        # bytes that may still come, less one: the sign tells that there are none
        left = Signal(range(-1, SLOT_BYTES), reset_less=True)
        m.d.sync += self.ended.eq(0)
        with m.FSM():
            with m.State("IDLE"):  # no such request
                with m.If(self.begin):
                    m.next = "COUNT_LOW"
            with m.State("COUNT_LOW"):  # how many bytes at most
                m.d.comb += self.words.ready.eq(1)
                m.d.sync += wanted.eq(word.data)
                with m.If(self.words.valid):
                    m.next = "COUNT_HIGH"
                    with m.If(word.end):
                        self._end(m, fault=Status.BAD_REQUEST)
            with m.State("COUNT_HIGH"):  # the high byte; more than fits an answer is all that fits
                m.d.comb += self.words.ready.eq(1)
                with m.If(self.words.valid):
                    m.d.sync += wanted.eq(Cat(wanted[:DATA_BITS], word.data))
                    m.d.sync += huge.eq(word.data >= SLOT_BYTES >> DATA_BITS)
                    m.next = "COUNT_END"
                    with m.If(word.end):
                        self._end(m, fault=Status.BAD_REQUEST)
            with m.State("COUNT_END"):  # nothing else belongs to the request
                m.d.comb += self.words.ready.eq(1)
                m.d.sync += left.eq(Mux(huge | (wanted >= PAYLOAD_MAX), PAYLOAD_MAX, wanted))
                with m.If(self.words.valid):
                    m.next = "LEFT"
                    with m.If(~word.end):
                        self._end(m, rest=True, fault=Status.BAD_REQUEST)
            with m.State("LEFT"):  # one less: the sign then tells the end
                m.d.sync += left.eq(left - 1)
                m.next = "TAKE"
            with m.State("TAKE"):  # bytes of one packet, as far as they are there
                m.d.comb += self.output.ready.eq(byte.end | (left >= 0))
                with m.If(self.output.valid & byte.end):
                    m.d.sync += self.ended.eq(1)
                    self._end(m)
                with m.Elif(self.output.valid & (left >= 0)):
                    m.d.sync += left.eq(left - 1)
                    self._put(m, byte.data)
                    m.next = "MORE"
                with m.Else():
                    self._end(m)
            with m.State("MORE"):  # let the queue offer its next byte
                m.next = "TAKE"
        return m
