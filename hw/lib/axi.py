"""AXI4-Lite and AXI4-Stream as signatures (AMBA AXI, IHI 0022; AMBA AXI-Stream, IHI 0051)."""

from __future__ import annotations

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

OKAY, SLAVE_ERROR = 0, 2
"""Responses: done, and refused by the slave."""


class AxiLite(wiring.Signature):
    """AXI4-Lite from the master's side; addresses in bytes."""

    def __init__(self, address_width: int, data_width: int = 32) -> None:
        self.address_width, self.data_width = address_width, data_width
        super().__init__(
            {
                "awaddr": Out(address_width),
                "awprot": Out(3),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(data_width),
                "wstrb": Out(data_width // 8),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                "araddr": Out(address_width),
                "arprot": Out(3),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(data_width),
                "rresp": In(2),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )


class AxiStream(wiring.Signature):
    """AXI4-Stream from the transmitter's side, with the signals that packets need: no TSTRB, TID, TDEST, TUSER."""

    def __init__(self, data_width: int) -> None:
        self.data_width = data_width
        super().__init__(
            {
                "tdata": Out(data_width),
                "tkeep": Out(data_width // 8),
                "tlast": Out(1),
                "tvalid": Out(1),
                "tready": In(1),
            }
        )
