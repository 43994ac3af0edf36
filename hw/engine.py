"""The engine: registers, packet units and core behind AXI ports."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import ClockDomain, ClockSignal, DomainRenamer, Module, ResetInserter, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from gradsieve.hw.config import EngineConfig
from gradsieve.hw.core import Core
from gradsieve.hw.host.host_side import WRITTEN
from gradsieve.hw.host.input_packets import InputPackets
from gradsieve.hw.host.packet_closer import PacketCloser
from gradsieve.hw.host.packing import beat_layout, input_beat_layout
from gradsieve.hw.host.register_file import REGISTER_BUS, RegisterFile
from gradsieve.hw.host.registers import COUNTERS_32, COUNTERS_64, IDENTITY
from gradsieve.hw.lib.axi import AxiStream
from gradsieve.hw.lib.register_slice import RegisterSlice


class Engine(wiring.Component):
    """AXI4-Lite registers (`s_axil`), AXI4-Stream in (`s_axis`) and out (`m_axis`), in the domain that it is given.

    Its reset, synchronous, lasts one cycle or more: from the next cycle on no VALID and no READY is given, until the
    cycle after its last one.  Registers: `gradsieve.hw.host.registers`; packets: docs/streams.md.  As the top of a
    design its ports are `clk`, `rst`, `s_axil_awaddr` and so on.
    """

    port_separator = "_"
    """Between the names of a bus and its signal in Verilog, as other tools look for it."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        stream = AxiStream(config.stream_width)
        super().__init__({"s_axil": In(REGISTER_BUS), "s_axis": In(stream), "m_axis": Out(stream)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c = self.config
        core = Core(c)
        m.submodules.registers = registers = RegisterFile()
        m.submodules.input_packets = packets = InputPackets(c)
        m.submodules.packet_closer = closer = PacketCloser(c.stream_width)
        # both streams end in registers: no path runs through the engine from port to port
        m.submodules.input_slice = input_slice = RegisterSlice(input_beat_layout(c.stream_width))
        m.submodules.output_slice = output_slice = RegisterSlice(beat_layout(c.stream_width))
        soft_reset = Signal()
        resync = Signal()
        # from registers: resets are the widest nets of all, and simulators follow every input through all logic
        reset = Signal(init=1)
        core_reset = Signal(init=1)
        m.d.sync += [soft_reset.eq(core.soft_reset), resync.eq(core.soft_resync)]

        # ports; what the blocks still say in the cycle before they are reset does not leave
        for name, member in REGISTER_BUS.members.items():
            port, signal = getattr(self.s_axil, name), getattr(registers.bus, name)
            if name.endswith(("ready", "valid")) and member.flow is In:
                signal = signal & ~reset
            m.d.comb += signal.eq(port) if member.flow is Out else port.eq(signal)
        beat, out = input_slice.source, closer.closed
        m.d.comb += [
            beat.payload.data.eq(self.s_axis.tdata),
            beat.payload.last.eq(self.s_axis.tlast),
            beat.payload.partial.eq(~self.s_axis.tkeep.all()),
            # a null beat, which says nothing but, with TLAST, that the packet ends
            beat.valid.eq(self.s_axis.tvalid & (self.s_axis.tkeep.any() | self.s_axis.tlast)),
            self.s_axis.tready.eq(beat.ready & ~reset),
            self.m_axis.tdata.eq(out.payload.data),
            self.m_axis.tkeep.eq(out.payload.keep),
            self.m_axis.tlast.eq(out.payload.last),
            self.m_axis.tvalid.eq(out.valid & ~reset),
            out.ready.eq(self.m_axis.tready),
        ]

        # packets
        connect(m, input_slice.sink, packets.beats)
        for side in (core.contents, core.packets):
            for name, member in side.signature.members.items():
                inner, outer = getattr(side, name), getattr(packets, name)
                if member.is_port:
                    m.d.comb += outer.eq(inner) if member.flow is Out else inner.eq(outer)
                else:
                    connect(m, outer, inner)
        connect(m, core.beats, output_slice.source)
        connect(m, output_slice.sink, closer.beats)
        m.d.comb += [
            input_slice.clear.eq(soft_reset & resync),
            output_slice.clear.eq(soft_reset),
            packets.clear.eq(soft_reset),
            packets.resync.eq(resync),
            closer.clear.eq(soft_reset),
            core.stalled.eq(self.m_axis.tvalid & ~self.m_axis.tready),
        ]
        self._connect_registers(m, core, registers, packets.open | closer.open << 1)

        # a domain of its own on the same clock: its reset is a register
        top = Module()
        top.domains.engine = ClockDomain(reset_less=True, local=True)
        top.d.comb += ClockSignal("engine").eq(ClockSignal())
        top.d.engine += [
            reset.eq(ResetSignal(allow_reset_less=True)),
            core_reset.eq(ResetSignal(allow_reset_less=True) | core.soft_reset),
        ]
        in_engine = DomainRenamer("engine")
        top.submodules.blocks = in_engine(ResetInserter(reset)(m))
        top.submodules.core = in_engine(ResetInserter(core_reset)(core))
        return top

    def _connect_registers(self, m: Module, core: Core, registers: RegisterFile, open_packets: Any) -> None:
        """What the host reads and writes; `open_packets`: in and out."""
        c, values = self.config, core.registers
        read = {
            "id": IDENTITY,
            "digest_low": int(c.digest, 16) & 0xFFFFFFFF,
            "digest_high": int(c.digest, 16) >> 32,
            "array": c.R | c.C << 8 | c.gate_rows_per_cycle << 16 | (c.stream_width // 8) << 24,
            "max_hi": c.max_H | c.max_I << 16,
            "max_bt": c.max_B | c.max_T << 16,
            "status": values.busy | open_packets << 1 | values.fatal << 3 | values.error_code << 4,
            "terms": values.terms,
            "random_live": values.random_live,
        }
        for name in (n.lower() for n in COUNTERS_64):
            counter = getattr(values.counters, name)
            read |= {f"{name}_low": counter[:32], f"{name}_high": counter[32:]}
        for name in (n.lower() for n in COUNTERS_32):
            read[name] = getattr(values.counters, name)
        m.d.comb += [getattr(registers, name).eq(value) for name, value in read.items()]
        m.d.comb += [getattr(values, name).eq(getattr(registers, name)) for name in WRITTEN]
        m.d.comb += [
            values.sizes_written.eq(
                registers.h_written | registers.i_written | registers.b_written | registers.t_written
            ),
            values.random_written.eq(registers.random_written),
        ]
