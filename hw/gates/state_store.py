"""State store: dh_rec and dc of every batch tile, between one time step and the one before it."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import EngineConfig
from gradsieve.hw.layouts import lanes_layout, state_layout
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.stream_memory import StreamMemory, write_layout


class StateStore(wiring.Component):
    """dh and dc as lane vectors, written apart and read together: address batch_tile * max_H + unit.

    `request` is answered on `state`, in order, `latency` cycles later at the earliest, one a cycle.
    """

    latency = StreamMemory.latency

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.depth = config.batch_tiles * config.max_H
        write = write_layout(lanes_layout(config), self.depth)
        super().__init__(
            {
                "hidden_write": In(Flow(write)),
                "cell_write": In(Flow(write)),
                "request": In(stream.Signature(range(self.depth))),
                "state": Out(stream.Signature(state_layout(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        lanes = lanes_layout(self.config)
        m.submodules.hidden = hidden = StreamMemory(lanes, self.depth)
        m.submodules.cell = cell = StreamMemory(lanes, self.depth)
        wiring.connect(m, wiring.flipped(self.hidden_write), hidden.write)
        wiring.connect(m, wiring.flipped(self.cell_write), cell.write)
        # both memories always move together
        m.d.comb += [
            hidden.request.valid.eq(self.request.valid),
            cell.request.valid.eq(self.request.valid),
            hidden.request.payload.eq(self.request.payload),
            cell.request.payload.eq(self.request.payload),
            self.request.ready.eq(hidden.request.ready),
            self.state.valid.eq(hidden.word.valid),
            self.state.payload.dh.eq(hidden.word.payload),
            self.state.payload.dc.eq(cell.word.payload),
            hidden.word.ready.eq(self.state.ready),
            cell.word.ready.eq(self.state.ready),
        ]
        return m
