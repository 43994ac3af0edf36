"""Weight store: W, in a memory for each row of the array."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import EngineConfig
from gradsieve.hw.layouts import weight_word_layout
from gradsieve.hw.lib.block_memory import BlockMemory
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.stream_memory import write_layout


class WeightStore(wiring.Component):
    """Words of R weights; their skew at the array's edge is one of addresses, which walk from row to row.

    `words[j]` is weight j of the word whose `address` came `latency` + j cycles before; one word a
    cycle, without backpressure.  `write` takes whole words.  A word that is read within R cycles of its write reads as
    anything.
    """

    latency = BlockMemory.latency + 1  # the word's register

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        word, depth = weight_word_layout(config), config.weight_words
        write = write_layout(word, depth)
        super().__init__({"write": In(Flow(write)), "address": In(range(depth)), "words": Out(word)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c = self.config
        address = self.address
        for j in range(c.R):
            if j:
                before, address = address, Signal(range(c.weight_words), name=f"address_{j}", reset_less=True)
                m.d.sync += address.eq(before)
            m.submodules[f"row_{j}"] = memory = BlockMemory(c.formats.weight.width, c.weight_words)
            word = Signal(signed(c.formats.weight.width), name=f"word_{j}", reset_less=True)
            m.d.comb += [
                memory.write_enable.eq(self.write.valid),
                memory.write_address.eq(self.write.payload.address),
                memory.write_data.eq(self.write.payload.word[j]),
                memory.read_enable.eq(1),
                memory.read_address.eq(address),
                memory.output_enable.eq(1),
                self.words[j].eq(word),
            ]
            m.d.sync += word.eq(memory.read_data)
        return m
