"""Packet closer: the last register before the output port, which a soft reset does not touch."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.host.packing import beat_layout


def closed_beat_layout(width: int) -> data.StructLayout:
    """An AXI4-Stream beat with its byte qualifiers."""
    return data.StructLayout({"data": width, "keep": width // 8, "last": 1})


class PacketCloser(wiring.Component):
    """Passes beats on, one a cycle, `latency` cycles later; `clear` cuts the packet off.

    A beat already offered stays offered, as the standard demands; if the packet was open, a beat with TKEEP 0 and
    TLAST follows, so that no receiver waits for ever.  `open` is high from a packet's first beat
    until its last one has been taken.
    """

    latency = 1

    def __init__(self, width: int) -> None:
        super().__init__(
            {
                "beats": In(stream.Signature(beat_layout(width))),
                "closed": Out(stream.Signature(closed_beat_layout(width))),
                "clear": In(1),
                "open": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        out = self.closed
        free = Signal()
        closing = Signal()
        begun = Signal()
        m.d.comb += [
            self.open.eq(begun | out.valid),
            free.eq(~out.valid | out.ready),
            self.beats.ready.eq(free & ~closing & ~self.clear),
        ]
        with m.If(self.clear & begun):  # but where it closes just now, below: one beat is enough
            m.d.sync += closing.eq(1)
        with m.If(free):
            m.d.sync += [
                out.valid.eq((self.beats.valid & self.beats.ready) | closing),
                out.payload.data.eq(self.beats.payload.data),
                out.payload.keep.eq(-1),
                out.payload.last.eq(self.beats.payload.last),
            ]
            with m.If(closing):
                m.d.sync += [
                    closing.eq(0),
                    begun.eq(0),
                    out.payload.data.eq(0),
                    out.payload.keep.eq(0),
                    out.payload.last.eq(1),
                ]
        with m.If(self.beats.valid & self.beats.ready):
            m.d.sync += begun.eq(~self.beats.payload.last)
        return m
