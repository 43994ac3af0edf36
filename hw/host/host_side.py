"""The host's side: commands to runs, the readout of dW and db, packets out, and the counters."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Shape, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from gradsieve.hw.config import BITMAP_WORD, RANDOM_WIDTH, EngineConfig
from gradsieve.hw.host.controller import Controller
from gradsieve.hw.host.counters import Counters
from gradsieve.hw.host.output_packets import OutputPackets
from gradsieve.hw.host.packing import beat_layout
from gradsieve.hw.host.readout import WeightGradientReadout
from gradsieve.hw.host.registers import COUNTERS_32, COUNTERS_64, ErrorCode
from gradsieve.hw.interfaces import Commands, StateRead, bias_gradient_read, weight_gradient_read
from gradsieve.hw.layouts import lanes_layout, run_layout
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.idioms import gated

WRITTEN = ("h", "i", "b", "t", "tau", "random", "mode", "read_mode", "control")
"""Registers that the host writes, in lower case."""


class RegisterValues(wiring.Signature):
    """Register file to core: what the host wrote, by register; and back, what the core says in them.

    `sizes_written` and `random_written` pulse when h, i, b or t, and when random has changed.
    """

    def __init__(self) -> None:
        counters = {n.lower(): Out(w) for names, w in ((COUNTERS_64, 64), (COUNTERS_32, 32)) for n in names}
        super().__init__(
            {
                **{name: Out(32) for name in WRITTEN},
                "sizes_written": Out(1),
                "random_written": Out(1),
                "random_live": In(RANDOM_WIDTH),
                "terms": In(32),
                "busy": In(1),
                "fatal": In(1),
                "error_code": In(Shape.cast(ErrorCode)),
                "counters": In(wiring.Signature(counters)),
            }
        )


class PacketRules(wiring.Signature):
    """Core to input packet unit: which packets may come, by the run in progress; and back, what came of them."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(
            {
                "run": Out(run_layout(config)),
                "running": Out(1),
                "sizes_ready": Out(1),
                "sizes_bad": Out(1),
                "loading": In(1),
                "error": In(Flow(Shape.cast(ErrorCode))),
            }
        )


class HostSide(wiring.Component):
    """Controller, readout, output packets and counters.

    `registers` and `packets` are the host's, `commands` go to both paths.  `statistics`, `dx` and the state of
    `state_read` become packets on `beats`, and so do dW and db.  `settled` says that a run's work is done, `stalled`
    that a beat waits for the host; `gate_events` and `array_events` are counted.
    """

    def __init__(self, config: EngineConfig, gate_events: wiring.Signature, array_events: wiring.Signature) -> None:
        self.config = config
        super().__init__(
            {
                "registers": In(RegisterValues()),
                "packets": Out(PacketRules(config)),
                "commands": Out(Commands(config)),
                "random": In(RANDOM_WIDTH),
                "statistics": In(stream.Signature(BITMAP_WORD)),
                "dx": In(stream.Signature(lanes_layout(config))),
                "state_read": Out(StateRead(config)),
                "gradient_read": Out(weight_gradient_read(config)),
                "bias_read": Out(bias_gradient_read(config)),
                "settled": In(1),
                "stalled": In(1),
                "gate_events": In(gate_events),
                "array_events": In(array_events),
                "soft_reset": Out(1),
                "soft_resync": Out(1),
                "beats": Out(stream.Signature(beat_layout(config.stream_width))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c, registers = self.config, self.registers
        m.submodules.controller = controller = Controller(c)
        m.submodules.readout = readout = WeightGradientReadout(c)
        m.submodules.output_packets = output = OutputPackets(c)
        for block in (readout, output, self.commands, self.packets):
            m.d.comb += block.run.eq(controller.run)

        # a read is over when its packet is, and the last of the words that it clears
        packet_sent = Signal()
        words_cleared = Signal()
        with m.If(output.done | controller.read):
            m.d.sync += packet_sent.eq(output.done)
        with m.If(readout.done | controller.read):
            m.d.sync += words_cleared.eq(readout.done)
        m.d.comb += [
            *[getattr(controller.sizes, n).eq(getattr(registers, n.lower())) for n in ("H", "I", "B", "T")],
            controller.sizes_written.eq(registers.sizes_written),
            *[getattr(controller, n).eq(getattr(registers, n)) for n in ("mode", "read_mode", "tau", "control")],
            controller.random.eq(self.random),
            controller.loading.eq(self.packets.loading),
            controller.run_done.eq(output.done),
            controller.read_done.eq(packet_sent & words_cleared),
            controller.clear_done.eq(readout.done),
            controller.settled.eq(self.settled),
            controller.packet_error.valid.eq(self.packets.error.valid),
            controller.packet_error.payload.eq(self.packets.error.payload),
            self.packets.running.eq(controller.active),
            self.packets.sizes_ready.eq(controller.sizes_ready | controller.running),
            self.packets.sizes_bad.eq(controller.sizes_bad),
            self.commands.start.eq(controller.start),
            self.commands.random_load.valid.eq(registers.random_written),
            self.commands.random_load.payload.eq(registers.random),
            self.soft_reset.eq(controller.soft_reset),
            self.soft_resync.eq(controller.resync),
            registers.busy.eq(controller.busy),
            registers.fatal.eq(controller.fatal),
            registers.error_code.eq(controller.error),
            registers.terms.eq(controller.terms),
            registers.random_live.eq(self.random),
        ]

        # packets out
        connect(m, flipped(self.statistics), output.statistics)
        connect(m, flipped(self.dx), output.dx)
        connect(m, output.state_request, flipped(self.state_read.request))
        connect(m, flipped(self.state_read.state), output.state)
        connect(m, readout.groups, output.groups)
        connect(m, output.beats, flipped(self.beats))
        m.d.comb += [
            output.start_run.eq(controller.start),
            output.start_read.eq(controller.read),
            self.state_read.active.eq(output.in_state),
        ]

        # dW and db
        reading = Signal()
        m.d.sync += reading.eq(~controller.running)
        connect(m, readout.gradient_clear, flipped(self.gradient_read.clear))
        connect(m, readout.bias_clear, flipped(self.bias_read.clear))
        m.d.comb += [
            readout.read.eq(controller.read),
            readout.clear.eq(controller.clear),
            readout.mode.eq(controller.reading),
            self.gradient_read.active.eq(reading),
            self.gradient_read.address.eq(readout.gradient_address),
            readout.gradient_words.eq(self.gradient_read.word),
            self.bias_read.active.eq(reading),
            self.bias_read.address.eq(readout.bias_address),
            readout.bias_word.eq(self.bias_read.word),
        ]
        self._count(m, controller, readout, output)
        return m

    def _count(self, m: Module, controller: Controller, readout: WeightGradientReadout, output: OutputPackets) -> None:
        """Both paths' events, and what only this side knows."""
        m.submodules.counters = counters = Counters(self.config)
        in_read = Signal()  # cycles of readouts: from the command to the packet's end
        # cycles of a run: from the start to the last statistics or dx beat and the last weight gradient stored
        in_result = Signal()
        has_result = Signal()
        with m.If(controller.read | output.done):
            m.d.sync += in_read.eq(controller.read)
        with m.If(controller.start | output.result_done):
            m.d.sync += has_result.eq(output.result_done)
        with m.If(controller.start):
            m.d.sync += in_result.eq(1)
        with m.Elif(has_result & self.settled):
            m.d.sync += in_result.eq(0)
        adds = {
            name: getattr(events, name)
            for events in (self.gate_events, self.array_events)
            for name in events.signature.members
        }
        for name in ("stall_gates", "stall_tape"):
            adds[name] &= in_result
        adds |= {
            "cycles": in_result,
            "load_cycles": self.packets.loading,
            "readout_cycles": in_read | output.in_state,
            "saturated_read": gated(readout.saturated.payload, readout.saturated.valid),
            "stall_output": self.stalled & (in_result | in_read | output.in_state),
        }
        m.d.comb += [counters.start.eq(controller.start), counters.read.eq(controller.read)]
        for name in (n.lower() for n in (*COUNTERS_64, *COUNTERS_32)):
            m.d.comb += [
                getattr(counters, f"{name}_add").eq(adds[name]),
                getattr(self.registers.counters, name).eq(getattr(counters, name)),
            ]
