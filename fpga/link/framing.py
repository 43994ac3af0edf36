"""Frames of the serial link: byte stuffing and CRC, a byte at a time.

A byte takes at least 40 cycles on the line, so that the CRC takes its bits one by one: a fifth of the logic.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, ResetInserter, Signal
from amaranth.lib import crc, data, stream, wiring
from amaranth.lib.crc.catalog import CRC32_ETHERNET
from amaranth.lib.wiring import In, Out

from gradsieve.fpga.link.protocol import CRC_BYTES, ESCAPE, ESCAPE_BIT, FLAG, REQUEST_HEADER
from gradsieve.fpga.link.uart import DATA_BITS
from gradsieve.hw.lib.flow import Flow


def word_layout() -> data.StructLayout:
    """A byte, or (`end`) what comes after the last byte of a frame or packet."""
    return data.StructLayout({"data": DATA_BITS, "end": 1})


class SerialCrc(wiring.Component):
    """CRC-32 of Ethernet over bytes; each takes 8 cycles, in which `busy` is high and no other may come.

    `clear` begins anew, between bytes.  `good` is high after the bytes of a frame and their CRC.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "bytes": In(Flow(DATA_BITS)),
                "clear": In(1),
                "busy": Out(1),
                "value": Out(8 * CRC_BYTES),
                "good": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        processor = crc.Processor(CRC32_ETHERNET(data_width=1))
        # its `start` would cost a multiplexer a bit, a reset costs nothing
        m.submodules.crc = ResetInserter(self.clear)(processor)
        bits = Signal(DATA_BITS, reset_less=True)
        left = Signal(range(DATA_BITS + 1))
        m.d.comb += [
            self.busy.eq(left != 0),
            processor.data.eq(bits[0]),
            processor.valid.eq(self.busy),
            self.value.eq(processor.crc),
        ]
        m.d.sync += self.good.eq(processor.match_detected)
        with m.If(self.bytes.valid):
            m.d.sync += [bits.eq(self.bytes.payload), left.eq(DATA_BITS)]
        with m.Elif(self.busy):
            m.d.sync += [bits.eq(bits >> 1), left.eq(left - 1)]
        return m


class Deframer(wiring.Component):
    """Bytes of the line, at least 12 cycles apart, to bodies of frames.

    `body` gives the bytes of a frame without its CRC; then `end` pulses, with `good` if the frame is whole: CRC right,
    long enough for a header, no `error` (a byte lost by the UART) since the flag before.  Empty frames give nothing.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "bytes": In(Flow(DATA_BITS)),
                "error": In(1),
                "body": Out(Flow(DATA_BITS)),
                "end": Out(1),
                "good": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.crc = check = SerialCrc()
        shortest = REQUEST_HEADER + CRC_BYTES
        count = Signal(range(shortest + 1))
        escaped = Signal()
        bad = Signal()
        begun = Signal()
        # the last four bytes wait here: after them may come the flag that makes them the CRC
        waiting = [Signal(DATA_BITS, name=f"waiting_{n}", reset_less=True) for n in range(CRC_BYTES)]
        byte = Signal(DATA_BITS)
        is_flag = Signal()
        is_escape = Signal()
        m.d.comb += [
            is_flag.eq(self.bytes.payload == FLAG),
            is_escape.eq(self.bytes.payload == ESCAPE),
            byte.eq(self.bytes.payload ^ Mux(escaped, ESCAPE_BIT, 0)),
            check.bytes.payload.eq(byte),
        ]
        m.d.sync += [self.end.eq(0), self.body.valid.eq(0), self.body.payload.eq(waiting[-1])]
        with m.If(self.bytes.valid & is_flag):
            m.d.comb += check.clear.eq(1)
            m.d.sync += [
                self.end.eq(begun),
                self.good.eq(check.good & (count == shortest) & ~bad & ~escaped),
                count.eq(0),
                escaped.eq(0),
                bad.eq(0),
                begun.eq(0),
            ]
        with m.Elif(self.bytes.valid & is_escape):
            m.d.sync += [escaped.eq(1), begun.eq(1)]
        with m.Elif(self.bytes.valid):
            m.d.comb += check.bytes.valid.eq(1)
            m.d.sync += [escaped.eq(0), begun.eq(1), self.body.valid.eq(count >= CRC_BYTES)]
            m.d.sync += [new.eq(old) for new, old in zip(waiting, [byte, *waiting[:-1]], strict=True)]
            with m.If(count != shortest):
                m.d.sync += count.eq(count + 1)
        with m.If(self.error):
            m.d.sync += [bad.eq(1), begun.eq(1)]
        return m


class Framer(wiring.Component):
    """Words of a frame, the last of them `end`, to bytes of the line: flag, stuffed body and CRC, flag."""

    def __init__(self) -> None:
        super().__init__({"words": In(stream.Signature(word_layout())), "bytes": Out(stream.Signature(DATA_BITS))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.crc = check = SerialCrc()
        byte = Signal(DATA_BITS, reset_less=True)
        escaped = Signal()
        special = Signal()
        in_crc = Signal()
        index = Signal(range(CRC_BYTES))
        fresh = Signal()
        m.d.comb += [
            special.eq((byte == FLAG) | (byte == ESCAPE)),
            check.bytes.payload.eq(byte),
            check.bytes.valid.eq(fresh),
        ]
        m.d.sync += fresh.eq(0)
        with m.FSM():
            with m.State("OPEN"):  # a flag before the first byte
                m.d.comb += [
                    self.bytes.payload.eq(FLAG),
                    self.bytes.valid.eq(self.words.valid),
                    check.clear.eq(1),
                ]
                m.d.sync += [in_crc.eq(0), index.eq(0)]
                with m.If(self.words.valid & self.bytes.ready):
                    m.next = "TAKE"
            with m.State("TAKE"):  # the next byte of body or CRC
                m.d.sync += escaped.eq(0)
                with m.If(in_crc & ~check.busy & ~fresh):
                    m.d.sync += [byte.eq(check.value.word_select(index, DATA_BITS)), index.eq(index + 1)]
                    m.next = "PUT"
                with m.Elif(~in_crc & self.words.valid & ~check.busy & ~fresh):
                    m.d.comb += self.words.ready.eq(1)
                    m.d.sync += byte.eq(self.words.payload.data)
                    with m.If(self.words.payload.end):
                        m.d.sync += in_crc.eq(1)
                    with m.Else():
                        m.d.sync += fresh.eq(1)
                        m.next = "PUT"
            with m.State("PUT"):  # it goes out, if need be as two bytes
                m.d.comb += self.bytes.valid.eq(1)
                with m.If(special & ~escaped):
                    m.d.comb += self.bytes.payload.eq(ESCAPE)
                    with m.If(self.bytes.ready):
                        m.d.sync += escaped.eq(1)
                with m.Else():
                    m.d.comb += self.bytes.payload.eq(byte ^ Mux(escaped, ESCAPE_BIT, 0))
                    with m.If(self.bytes.ready):
                        m.next = "TAKE"
                        with m.If(in_crc & (index == 0)):
                            m.next = "CLOSE"
            with m.State("CLOSE"):  # a flag after the CRC
                m.d.comb += [self.bytes.payload.eq(FLAG), self.bytes.valid.eq(1)]
                with m.If(self.bytes.ready):
                    m.next = "OPEN"
        return m
