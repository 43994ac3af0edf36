"""Components that put small blocks of several shapes into one design under test."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.fpga.link.protocol import DIVISOR_MIN
from gradsieve.fpga.link.serial_link import SerialLink
from gradsieve.hw.array.systolic_array import SUM_DELAY, SystolicArray
from gradsieve.hw.config import BITMAP_WORD, EngineConfig
from gradsieve.hw.host.packet_closer import PacketCloser
from gradsieve.hw.host.packing import Packer, beat_layout
from gradsieve.hw.lib.credit_counter import CreditCounter
from gradsieve.hw.lib.credit_queue import CreditQueue
from gradsieve.hw.lib.delay_line import DelayLine
from gradsieve.hw.lib.register_slice import RegisterSlice
from gradsieve.hw.lib.stream_memory import StreamMemory


def word_widths(config: EngineConfig) -> list[int]:
    """Word widths from narrower than a beat to wider, those of the engine's sections among them."""
    e, beat = config.formats.element_bits, config.stream_width
    section = {config.column_slots * e, BITMAP_WORD, config.lane_slots * e, 8 * config.lane_slots * e}
    return sorted(section | {beat // 2, beat, 2 * beat})


class Packing(wiring.Component):
    """A packer of every width: ports `pack_<width>_...`."""

    def __init__(self, config: EngineConfig) -> None:
        self.beat, self.widths = config.stream_width, word_widths(config)
        members: dict[str, Any] = {}
        for w in self.widths:
            members |= {
                f"pack_{w}_words": In(stream.Signature(beat_layout(w))),
                f"pack_{w}_beats": Out(stream.Signature(beat_layout(self.beat))),
            }
        super().__init__(members)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        for w in self.widths:
            m.submodules[f"packer_{w}"] = packer = Packer(w, self.beat)
            for name in ("beats", "words"):
                wiring.connect(m, wiring.flipped(getattr(self, f"pack_{w}_{name}")), getattr(packer, name))
        return m


class CreditCounters(wiring.Component):
    """Credit counters of several kinds: ports `counter_<number>_...`."""

    kinds = ((1, 1, 1), (2, 1, 1), (7, 1, 3), (13, 4, 4), (16, 2, 5))
    """most, each, at_once."""

    def __init__(self, config: EngineConfig) -> None:
        self.counters = [CreditCounter(*kind) for kind in self.kinds]
        super().__init__(
            {
                f"counter_{n}_{name}": member
                for n, counter in enumerate(self.counters)
                for name, member in counter.signature.members.items()
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        for n, counter in enumerate(self.counters):
            m.submodules[f"counter_{n}"] = counter
            for name, member in counter.signature.members.items():
                inner, outer = getattr(counter, name), getattr(self, f"counter_{n}_{name}")
                m.d.comb += inner.eq(outer) if member.flow is In else outer.eq(inner)
        return m


class DelayLines(wiring.Component):
    """Delay lines of several lengths, in registers and memory, on one input: `enable`, `input`, `output_<cycles>`."""

    cycles = (1, 2, 3, 4, 5, 9, 16, 17, 18, 33)

    def __init__(self, config: EngineConfig) -> None:
        self.width = config.formats.gradient.width
        outputs = {f"output_{n}": Out(self.width) for n in self.cycles}
        super().__init__({"enable": In(1), "input": In(self.width), **outputs})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        for n in self.cycles:
            m.submodules[f"line_{n}"] = line = DelayLine(self.width, n)
            m.d.comb += [
                line.enable.eq(self.enable),
                line.input.eq(self.input),
                getattr(self, f"output_{n}").eq(line.output),
            ]
        return m


class SkewedArray(wiring.Component):
    """The systolic array with whole words: `weights`, `old_sums` and `new_sums` are those of one operand."""

    def __init__(self, config: EngineConfig) -> None:
        self.array = SystolicArray(config)
        super().__init__(self.array.signature)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.array = array = self.array
        rows = array.config.R
        m.d.comb += array.swap.eq(self.swap)
        for name in ("operands", "drain"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(array, name))
        m.d.comb += [
            array.inputs.valid.eq(self.inputs.valid),
            array.inputs.payload.lanes.eq(self.inputs.payload.lanes),
            array.inputs.payload.row.eq(self.inputs.payload.row & self.inputs.valid.replicate(rows)),
        ]
        for j in range(rows):
            for name, source, sink, cycles in (
                ("weight", self.weights, array.weights, j),
                ("old_sum", self.old_sums, array.old_sums, SUM_DELAY + j),
                ("new_sum", array.new_sums, self.new_sums, rows - 1 - j),
            ):
                m.submodules[f"{name}_{j}"] = line = DelayLine(source[j].shape(), cycles)
                m.d.comb += [line.input.eq(source[j]), sink[j].eq(line.output)]
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


class QueuedPipeline(wiring.Component):
    """A credit queue behind a pipeline of `cycles`: a payload is taken when there is room for `at_once`."""

    cycles = 7
    at_once = 3

    def __init__(self, config: EngineConfig) -> None:
        shape = config.formats.gradient.width
        self.queue = CreditQueue(shape, self.cycles, at_once=self.at_once)
        super().__init__({"source": In(stream.Signature(shape)), "sink": Out(stream.Signature(shape)), "empty": Out(1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.queue = queue = self.queue
        m.submodules.line = line = DelayLine(self.source.payload.shape(), self.cycles)
        coming = Signal(self.cycles)
        wiring.connect(m, queue.sink, wiring.flipped(self.sink))
        m.d.sync += coming.eq(Cat(queue.reserve, coming[:-1]))
        m.d.comb += [
            self.source.ready.eq(queue.room),
            queue.reserve.eq(self.source.valid & queue.room),
            line.input.eq(self.source.payload),
            queue.source.payload.eq(line.output),
            queue.source.valid.eq(coming[-1]),
            self.empty.eq(queue.empty),
        ]
        return m


class BeatSlice(RegisterSlice):
    """A register slice of stream beats."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(beat_layout(config.stream_width))
