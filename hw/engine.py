"""The engine: registers, packet units and core behind the ports of the generated top."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import ClockDomain, ClockSignal, Module, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import EngineConfig
from gradsieve.hw.core import Core
from gradsieve.hw.host.packet_closer import PacketCloser
from gradsieve.hw.host.packing import beat_layout, input_beat_layout
from gradsieve.hw.host.register_file import RegisterFile, axi_lite_signature
from gradsieve.hw.host.registers import COUNTERS_32, COUNTERS_64, IDENTITY
from gradsieve.hw.lib.register_slice import RegisterSlice


class Engine(wiring.Component):
    """The generated top: AXI4-Lite registers (`s_axil_*`), AXI4-Stream in (`s_axis_*`) and out (`m_axis_*`).

    One clock `clk`; synchronous reset `rst`, active high, for one cycle or more: from the next cycle on no VALID and no
    READY is given, until the cycle after the last one of `rst`.  Registers: `gradsieve.hw.host.registers`; packets:
    docs/streams.md.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        width = config.stream_width
        members: dict[str, Any] = {"clk": In(1), "rst": In(1)}
        for name, member in axi_lite_signature().members.items():
            members[f"s_axil_{name}"] = (In if member.flow is Out else Out)(member.shape)
        widths = {"tdata": width, "tkeep": width // 8, "tlast": 1, "tvalid": 1, "tready": 1}
        for name, bits in widths.items():
            ready = name == "tready"
            members[f"s_axis_{name}"] = (Out if ready else In)(bits)
            members[f"m_axis_{name}"] = (In if ready else Out)(bits)
        super().__init__(members)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c = self.config
        core = Core(c)
        m.submodules.registers = registers = RegisterFile()
        m.submodules.input_packets = packets = core.packets
        m.submodules.packet_closer = closer = PacketCloser(c.stream_width)
        # both streams end in registers: no path runs through the engine from port to port
        m.submodules.input_slice = input_slice = RegisterSlice(input_beat_layout(c.stream_width))
        m.submodules.output_slice = output_slice = RegisterSlice(beat_layout(c.stream_width))
        soft_reset, resync = Signal(), Signal()
        # from registers: resets are the widest nets of all, and simulators follow every input through all logic
        reset, core_reset = Signal(init=1), Signal(init=1)
        m.d.sync += [soft_reset.eq(core.soft_reset), resync.eq(core.soft_resync)]

        for name, member in axi_lite_signature().members.items():
            port, signal = getattr(self, f"s_axil_{name}"), getattr(registers.bus, name)
            if name.endswith(("ready", "valid")) and member.flow is In:
                signal = signal & ~reset  # what the blocks still say in the cycle before they are reset
            m.d.comb += signal.eq(port) if member.flow is Out else port.eq(signal)
        beat, out = input_slice.source, closer.closed
        wiring.connect(m, input_slice.sink, packets.beats)
        m.d.comb += [
            beat.payload.data.eq(self.s_axis_tdata),
            beat.payload.last.eq(self.s_axis_tlast),
            beat.payload.partial.eq(~self.s_axis_tkeep.all()),
            # a null beat, which says nothing but, with TLAST, that the packet ends
            beat.valid.eq(self.s_axis_tvalid & (self.s_axis_tkeep.any() | self.s_axis_tlast)),
            self.s_axis_tready.eq(beat.ready & ~reset),
            self.m_axis_tdata.eq(out.payload.data),
            self.m_axis_tkeep.eq(out.payload.keep),
            self.m_axis_tlast.eq(out.payload.last),
            self.m_axis_tvalid.eq(out.valid & ~reset),
            out.ready.eq(self.m_axis_tready),
        ]

        # contents of packets
        for name, member in core.packets.signature.members.items():
            if name in ("beats", "clear", "resync", "open"):
                continue
            inner, outer = getattr(core, name), getattr(packets, name)
            if member.is_port:
                m.d.comb += outer.eq(inner) if member.flow is In else inner.eq(outer)
            else:
                wiring.connect(m, outer, inner)
        wiring.connect(m, core.out, output_slice.source)
        wiring.connect(m, output_slice.sink, closer.beats)
        m.d.comb += [
            input_slice.clear.eq(soft_reset & resync),
            output_slice.clear.eq(soft_reset),
            packets.clear.eq(soft_reset),
            packets.resync.eq(resync),
            closer.clear.eq(soft_reset),
            core.stalled.eq(self.m_axis_tvalid & ~self.m_axis_tready),
        ]

        # registers
        f = {
            "id": IDENTITY,
            "digest_low": int(c.digest, 16) & 0xFFFFFFFF,
            "digest_high": int(c.digest, 16) >> 32,
            "array": c.R | c.C << 8 | c.gate_rows_per_cycle << 16 | (c.stream_width // 8) << 24,
            "max_hi": c.max_H | c.max_I << 16,
            "max_bt": c.max_B | c.max_T << 16,
            "status": core.busy | packets.open << 1 | closer.open << 2 | core.fatal << 3 | core.error_code << 4,
            "terms": core.terms,
        }
        for name in COUNTERS_64:
            counter = getattr(core, name.lower())
            f |= {f"{name.lower()}_low": counter[:32], f"{name.lower()}_high": counter[32:]}
        for name in COUNTERS_32:
            f[name.lower()] = getattr(core, name.lower())
        m.d.comb += [getattr(registers, name).eq(value) for name, value in f.items()]
        for name in ("h", "i", "b", "t", "tau", "random", "mode", "read_mode", "control"):
            m.d.comb += getattr(core, name).eq(getattr(registers, name))
        m.d.comb += [
            core.sizes_written.eq(
                registers.h_written | registers.i_written | registers.b_written | registers.t_written
            ),
            core.random_load.eq(registers.random_written),
            registers.random_live.eq(core.random_live),
        ]
        top = Module()
        top.domains.sync = ClockDomain(reset_less=True)
        top.d.comb += ClockSignal().eq(self.clk)
        top.d.sync += [reset.eq(self.rst), core_reset.eq(self.rst | core.soft_reset)]
        top.submodules.blocks = ResetInserter(reset)(m)
        top.submodules.core = ResetInserter(core_reset)(core)
        return top
