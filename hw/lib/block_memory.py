"""Block memory: one write port, one read port, and the output register without which block memories are slow."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from gradsieve.hw.cells import cells_of


class BlockMemory(wiring.Component):
    """`depth` words of `width` bits, zero at power-up; a read takes `latency` cycles, one a cycle.

    In a cycle with `read_enable` the word at `read_address` goes into the memory's read register, in a cycle with
    `output_enable` what that register held before goes to `read_data`; `output_enable` needs `read_enable`.  A word
    that is read in the very cycle in which it is written reads as anything: users must not look at it.
    """

    latency = 2  # the read register, the output register

    def __init__(self, width: int, depth: int) -> None:
        self.width, self.depth = width, depth
        super().__init__(
            {
                "write_enable": In(1),
                "write_address": In(range(depth)),
                "write_data": In(unsigned(width)),
                "read_enable": In(1),
                "read_address": In(range(depth)),
                "output_enable": In(1),
                "read_data": Out(unsigned(width)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        cells = cells_of(platform)
        return (cells and cells.memory(self)) or self._portable()

    def _portable(self) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=unsigned(self.width), depth=self.depth, init=[])
        write_port, read_port = memory.write_port(), memory.read_port()
        output = Signal(unsigned(self.width), reset_less=True)
        m.d.comb += [
            write_port.en.eq(self.write_enable),
            write_port.addr.eq(self.write_address),
            write_port.data.eq(self.write_data),
            read_port.en.eq(self.read_enable),
            read_port.addr.eq(self.read_address),
            self.read_data.eq(output),
        ]
        with m.If(self.output_enable):
            m.d.sync += output.eq(read_port.data)
        return m
