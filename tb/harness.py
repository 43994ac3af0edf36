"""Components that put small blocks of several shapes into one design under test."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from fpga.link.serial_link import SerialLink
from fpga.link.uart import DIVISOR_MIN
from hw.config import BITMAP_WORD, EngineConfig
from hw.memory import StreamMemory
from hw.packet_closer import PacketCloser
from hw.packing import Packer, Unpacker, beat_layout, unpacked_layout
from hw.register_slice import RegisterSlice


def word_widths(config: EngineConfig) -> list[int]:
    """Word widths from narrower than a beat to wider, those of the engine's sections among them."""
    e, beat = config.formats.element_bits, config.stream_width
    section = {config.column_slots * e, BITMAP_WORD, config.lane_slots * e, 8 * config.lane_slots * e}
    return sorted(section | {beat // 2, beat, 2 * beat})


class Packing(wiring.Component):
    """An unpacker and a packer of every width: ports `unpack_<width>_...` and `pack_<width>_...`."""

    def __init__(self, config: EngineConfig) -> None:
        self.beat, self.widths = config.stream_width, word_widths(config)
        members: dict[str, Any] = {}
        for w in self.widths:
            members |= {
                f"unpack_{w}_beats": In(stream.Signature(beat_layout(self.beat))),
                f"unpack_{w}_words": Out(stream.Signature(unpacked_layout(w))),
                f"unpack_{w}_flush": In(1),
                f"unpack_{w}_clear": In(1),
                f"pack_{w}_words": In(stream.Signature(beat_layout(w))),
                f"pack_{w}_beats": Out(stream.Signature(beat_layout(self.beat))),
            }
        super().__init__(members)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        for w in self.widths:
            m.submodules[f"unpacker_{w}"] = unpacker = Unpacker(self.beat, w)
            m.submodules[f"packer_{w}"] = packer = Packer(w, self.beat)
            m.d.comb += [
                unpacker.flush.eq(getattr(self, f"unpack_{w}_flush")),
                unpacker.clear.eq(getattr(self, f"unpack_{w}_clear")),
            ]
            for block, prefix in ((unpacker, "unpack"), (packer, "pack")):
                for name in ("beats", "words"):
                    inner, outer = getattr(block, name), wiring.flipped(getattr(self, f"{prefix}_{w}_{name}"))
                    wiring.connect(m, outer, inner)
        return m


class WeightMemory(StreamMemory):
    """A stream memory of words as wide as the weight store's."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config.R * config.formats.weight.width, config.gate_rows)


class Closer(PacketCloser):
    """The packet closer of an engine's stream width."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config.stream_width)


class Link(SerialLink):
    """The serial link of an engine, at the fastest line that it can take."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config.stream_width, DIVISOR_MIN)


class BeatSlice(RegisterSlice):
    """A register slice of stream beats."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(beat_layout(config.stream_width))
