"""Weight gradient store: dW, in a memory for each row of the array."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import EngineConfig
from gradsieve.hw.layouts import gradient_word_layout, group_elements
from gradsieve.hw.lib.block_memory import BlockMemory
from gradsieve.hw.lib.flow import Flow


class WeightGradientStore(wiring.Component):
    """Words of R sums; their skew at the array's edges is one of addresses, which walk from row to row.

    In a run: `words[j]` is sum j of the word whose `address` came `latency` + j cycles before.  `write`
    names the word whose new sums follow: `sums[j]` is taken 1 + j cycles later.
    While `reading`: `words[j]` is sum j of the word at the `read_address` of `latency` + j // E cycles before, E the
    elements that are read out together.  `clear` zeroes sum j 1 + j cycles later; it and `write` never come together.
    A sum that is read in the cycle in which it is written reads as anything.
    """

    latency = 1 + BlockMemory.latency + 1  # the address's register, the word's

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        address, word = range(config.weight_words), gradient_word_layout(config)
        super().__init__(
            {
                "address": In(address),
                "words": Out(word),
                "write": In(Flow(address)),
                "sums": In(word),
                "reading": In(1),
                "read_address": In(address),
                "clear": In(Flow(address)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c = self.config
        width, elements = c.formats.weight_grad_width, group_elements(c)
        change_layout = data.StructLayout({"clear": 1, "address": range(c.weight_words)})
        change = Signal(change_layout)
        changes = Signal()
        m.d.comb += [
            changes.eq(self.write.valid | self.clear.valid),
            change.clear.eq(self.clear.valid),
            change.address.eq(Mux(self.clear.valid, self.clear.payload, self.write.payload)),
        ]
        before, group_before = self.address, self.read_address
        for j in range(c.R):
            m.submodules[f"row_{j}"] = memory = BlockMemory(width, c.weight_words)
            address = Signal(range(c.weight_words), name=f"address_{j}", reset_less=True)
            m.d.sync += address.eq(Mux(self.reading, group_before, before))
            before = address
            if j % elements == 0:
                first_of_group = address
            if j % elements == elements - 1:
                group_before = first_of_group
            row_changes = Signal(name=f"changes_{j}")
            row_change = Signal(change_layout, name=f"change_{j}", reset_less=True)
            m.d.sync += [row_changes.eq(changes), row_change.eq(change)]
            changes, change = row_changes, row_change
            word = Signal(signed(width), name=f"word_{j}", reset_less=True)
            m.d.comb += [
                memory.write_enable.eq(changes),
                memory.write_address.eq(change.address),
                memory.write_data.eq(Mux(change.clear, 0, self.sums[j])),
                memory.read_enable.eq(1),
                memory.read_address.eq(address),
                memory.output_enable.eq(1),
                self.words[j].eq(word),
            ]
            m.d.sync += word.eq(memory.read_data)
        return m
