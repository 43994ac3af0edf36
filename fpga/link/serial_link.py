"""The device's end of the serial link: a UART on one side, the engine's registers and streams on the other."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.fpga.link.beats import BeatAssembler, BeatSplitter
from gradsieve.fpga.link.byte_queue import ByteQueue
from gradsieve.fpga.link.framing import Deframer, Framer, word_layout
from gradsieve.fpga.link.processor import RequestProcessor
from gradsieve.fpga.link.protocol import FIFO_BYTES
from gradsieve.fpga.link.uart import DATA_BITS, UartReceiver, UartTransmitter, check_divisor
from gradsieve.hw.host.packet_closer import closed_beat_layout
from gradsieve.hw.host.packing import beat_layout
from gradsieve.hw.host.register_file import REGISTER_BUS
from gradsieve.hw.lib.register_slice import RegisterSlice


class SerialLink(wiring.Component):
    """The protocol of docs/link.md at one bit each `divisor` clock cycles.

    `rx` may change at any time.  A beat that is offered on `to_engine` is withdrawn when a new session begins: the host
    then resets the engine too.  `rx_active` and `tx_active` are high while bytes come and go; `error` pulses when a
    frame is dropped.  Raises ValueError for a divisor below 4.
    """

    def __init__(self, stream_width: int, divisor: int) -> None:
        self.stream_width, self.divisor = stream_width, check_divisor(divisor)
        super().__init__(
            {
                "rx": In(1, init=1),
                "tx": Out(1, init=1),
                "bus": Out(REGISTER_BUS),
                "to_engine": Out(stream.Signature(beat_layout(stream_width))),
                "from_engine": In(stream.Signature(closed_beat_layout(stream_width))),
                "rx_active": Out(1),
                "tx_active": Out(1),
                "error": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.receiver, m.submodules.transmitter = receiver, transmitter = (
            UartReceiver(self.divisor),
            UartTransmitter(self.divisor),
        )
        m.submodules.deframer, m.submodules.framer = deframer, framer = Deframer(), Framer()
        m.submodules.requests = requests = ByteQueue(FIFO_BYTES)
        m.submodules.processor = processor = RequestProcessor(self.stream_width // DATA_BITS)
        new_session = ResetInserter(processor.clear)
        input_queue, output_queue = ByteQueue(FIFO_BYTES), ByteQueue(FIFO_BYTES)
        assembler, splitter = BeatAssembler(self.stream_width), BeatSplitter(self.stream_width)
        m.submodules.input_queue, m.submodules.assembler = new_session(input_queue), new_session(assembler)
        m.submodules.output_queue, m.submodules.splitter = new_session(output_queue), new_session(splitter)

        # line to requests: a frame is committed whole or not at all
        overflow = Signal()
        dropped = Signal(DATA_BITS)
        good = deframer.good & ~overflow & requests.write.ready
        m.d.comb += [
            receiver.rx.eq(self.rx),
            deframer.bytes.valid.eq(receiver.bytes.valid),
            deframer.bytes.payload.eq(receiver.bytes.payload),
            deframer.error.eq(receiver.error),
            requests.write.valid.eq(deframer.body.valid | (deframer.end & deframer.good)),
            requests.write.payload.data.eq(deframer.body.payload),
            requests.write.payload.end.eq(deframer.end),
            requests.commit.eq(deframer.end & good),
            requests.rollback.eq(deframer.end & ~good),
            self.error.eq(requests.rollback),
        ]
        with m.If(deframer.end):
            m.d.sync += overflow.eq(0)
        with m.Elif(requests.write.valid & ~requests.write.ready):
            m.d.sync += overflow.eq(1)
        with m.If(requests.rollback):
            m.d.sync += dropped.eq(dropped + 1)

        # requests to answers
        wiring.connect(m, requests.read, processor.requests)
        # answers come out of a memory, late in the cycle
        m.submodules.answer = answer = RegisterSlice(word_layout(), full=False)
        wiring.connect(m, processor.answers, answer.source)
        wiring.connect(m, answer.sink, framer.words)
        wiring.connect(m, framer.bytes, transmitter.bytes)
        wiring.connect(m, processor.bus, wiring.flipped(self.bus))
        m.d.comb += [
            self.tx.eq(transmitter.tx),
            self.rx_active.eq(receiver.active),
            self.tx_active.eq(transmitter.active),
            processor.dropped.eq(dropped),
        ]

        # streams
        wiring.connect(m, processor.input, input_queue.write)
        wiring.connect(m, input_queue.read, assembler.words)
        wiring.connect(m, assembler.beats, wiring.flipped(self.to_engine))
        # the line is slow: no stall of the link reaches far within a cycle
        half_rate = {"full": False}
        m.submodules.output_beat = beat = new_session(RegisterSlice(closed_beat_layout(self.stream_width), **half_rate))
        m.submodules.output_word = word = new_session(RegisterSlice(word_layout(), **half_rate))
        wiring.connect(m, wiring.flipped(self.from_engine), beat.source)
        wiring.connect(m, beat.sink, splitter.beats)
        wiring.connect(m, splitter.words, word.source)
        wiring.connect(m, word.sink, output_queue.write)
        wiring.connect(m, output_queue.read, processor.output)
        m.d.comb += [
            input_queue.commit.eq(processor.input_commit),
            input_queue.rollback.eq(processor.input_rollback),
            output_queue.commit.eq(1),
            processor.input_free.eq(input_queue.free),
            processor.output_available.eq(output_queue.available),
        ]
        m.d.sync += processor.drained.eq((input_queue.available == 0) & assembler.empty)
        return m
