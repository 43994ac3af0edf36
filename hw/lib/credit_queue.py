"""Credit queue: the end of a pipeline that cannot stop."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Shape, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from gradsieve.hw.lib.credit_counter import CreditCounter
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.register_slice import ForwardRegister, RegisterSlice

QUEUE_LATENCY = 2
"""Cycles through Amaranth's SyncFIFOBuffered: into its memory, and into its output register."""


class CreditQueue(wiring.Component):
    """Takes all that a pipeline brings, because its room was reserved when it entered; the stall ends here.

    So nothing inside the pipeline has to hold.  `reserve` keeps room for `each` payloads that will come on `source`,
    each `pipeline` cycles later at the earliest; it needs `room`, a register, which says that `at_once` payloads fit.
    `latency` cycles from `source` to `sink`, whose valid and payload come from registers; one payload a cycle, if
    each payload comes at most `pipeline` + `at_once` cycles after its reservation.  `empty`: all that was reserved has
    left.
    """

    latency = QUEUE_LATENCY + ForwardRegister.latency + RegisterSlice.latency

    def __init__(self, shape: Any, pipeline: int, each: int = 1, at_once: int | None = None) -> None:
        self.shape, self.each, self.at_once = shape, each, at_once or each
        # as many as there are on the way while the first one passes, those that the next reservation is for, and
        # those of a reservation that is not counted yet
        self.depth = pipeline + self.latency + 2 * self.at_once + 2 * each
        super().__init__(
            {
                "reserve": In(1),
                "room": Out(1),
                "empty": Out(1),
                "source": In(Flow(shape)),
                "sink": Out(stream.Signature(shape)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.queue = queue = SyncFIFOBuffered(width=Shape.cast(self.shape).width, depth=self.depth)
        # the queue may be a block memory, whose words come late in the cycle; and the reader's stall ends here
        m.submodules.word = word = ForwardRegister(self.shape)
        m.submodules.out = out = RegisterSlice(self.shape)
        wiring.connect(m, queue.r_stream, word.source)
        wiring.connect(m, word.sink, out.source)
        wiring.connect(m, out.sink, wiring.flipped(self.sink))
        # counted a cycle later: `room` leaves out one reservation more
        reserves = Signal()
        leaves = Signal()
        m.submodules.reserved = reserved = CreditCounter(self.depth, self.each, self.at_once + self.each)
        m.d.sync += [reserves.eq(self.reserve), leaves.eq(queue.r_rdy & queue.r_en)]
        m.d.comb += [
            queue.w_en.eq(self.source.valid),
            queue.w_data.eq(self.source.payload),
            reserved.acquire.eq(reserves),
            reserved.release.eq(leaves),
            self.room.eq(reserved.available),
            self.empty.eq(reserved.idle & ~reserves & ~word.sink.valid & ~self.sink.valid),
        ]
        return m
