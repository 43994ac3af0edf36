"""The core: gate path, array path and host's side, connected (docs/architecture.md)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from gradsieve.hw.array.array_path import ArrayPath
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.gates.gate_path import GatePath
from gradsieve.hw.host.host_side import HostSide, PacketRules, RegisterValues
from gradsieve.hw.host.input_words import PacketContents
from gradsieve.hw.host.packing import beat_layout


class Core(wiring.Component):
    """All of the engine that a soft reset resets: from input contents to output beats.

    The packet units' framing state and the host's registers lie outside: `contents` is what packets bring, `packets`
    which of them may come, `registers` what the host wrote and reads.  `beats` are the packets out; `stalled` says that
    one of them waits at the port.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "contents": In(PacketContents(config)),
                "packets": Out(PacketRules(config)),
                "registers": In(RegisterValues()),
                "soft_reset": Out(1),
                "soft_resync": Out(1),
                "stalled": In(1),
                "beats": Out(stream.Signature(beat_layout(config.stream_width))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.gates = gates = GatePath(self.config)
        m.submodules.array = array = ArrayPath(self.config)
        m.submodules.host = host = HostSide(self.config, gates.events.signature, array.events.signature)
        contents = self.contents

        # from the host
        for source, sink in (
            (contents.records, gates.records),
            (contents.x, gates.x),
            (contents.hidden_write, gates.hidden_seed),
            (contents.cell_write, gates.cell_seed),
            (contents.weight_write, array.weight_write),
            (contents.block_write, array.block_write),
            (contents.column_write, array.column_write),
            (self.registers, host.registers),
        ):
            connect(m, flipped(source), sink)
        m.d.comb += host.stalled.eq(self.stalled)

        # between the parts
        connect(m, gates.sieved, array.sieved)
        for path in (gates, array):
            m.d.comb += [
                path.commands.run.eq(host.commands.run),
                path.commands.start.eq(host.commands.start),
            ]
        connect(m, host.commands.random_load, gates.commands.random_load)

        # to the host
        connect(m, gates.statistics, host.statistics)
        connect(m, array.dx, host.dx)
        connect(m, host.state_read, gates.state_read)
        connect(m, host.bias_read, gates.bias_read)
        connect(m, host.gradient_read, array.gradient_read)
        connect(m, gates.events, host.gate_events)
        connect(m, array.events, host.array_events)
        connect(m, host.packets, flipped(self.packets))
        connect(m, host.beats, flipped(self.beats))
        m.d.comb += [
            host.random.eq(gates.random),
            host.settled.eq(array.settled),
            self.soft_reset.eq(host.soft_reset),
            self.soft_resync.eq(host.soft_resync),
        ]
        return m
