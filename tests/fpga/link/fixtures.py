"""Boards with a serial link, simulated: one fresh simulation a test, of a design that is built once."""

from __future__ import annotations

import functools
from typing import Any

from gradsieve.fpga.boards.top import board_verilog
from gradsieve.fpga.link.protocol import FrameReader, Response, parse_response
from gradsieve.fpga.link.session import BITS_A_BYTE
from gradsieve.fpga.serial_port import SerialTransport
from gradsieve.fpga.virtual_board import HEARTBEAT_BITS
from gradsieve.hw.config import EngineConfig
from gradsieve.rtl_gen.verilog import component_verilog
from tests.fpga.link.designs import DIVISOR, StubBoard
from tests.fpga.link.port import CYCLES_A_SECOND, BoardPort

BAUD = CYCLES_A_SECOND // DIVISOR
QUIET_SECONDS = 0.005


@functools.cache
def stub_verilog() -> str:
    """The link with a stub behind it."""
    return component_verilog(StubBoard(), "board")


@functools.cache
def engine_verilog(config: EngineConfig) -> str:
    """A whole board top."""
    return board_verilog(config, divisor=DIVISOR, heartbeat_bits=HEARTBEAT_BITS)


def transport(port: BoardPort, **arguments: Any) -> SerialTransport:
    """A host at that port, in its time."""
    return SerialTransport(port, BAUD, clock=port.monotonic, **arguments)


class Line:
    """Frames by hand."""

    def __init__(self, port: BoardPort) -> None:
        self.port, self.reader = port, FrameReader()

    def answers(self, *frames: bytes) -> list[Response]:
        """All that the board says to these frames, until it has been quiet for longer than any request takes."""
        for frame in frames:
            self.port.inject(frame)
        sent = self.port.monotonic() + sum(map(len, frames)) * BITS_A_BYTE / BAUD
        heard, bodies = sent, []
        while self.port.monotonic() < heard + QUIET_SECONDS:
            if data := self.port.read(max(1, self.port.in_waiting)):
                bodies += self.reader.feed(data)
                heard = max(sent, self.port.monotonic())
        return [parse_response(b) for b in bodies]

    def answer(self, frame: bytes) -> Response:
        """The one answer to a frame."""
        (response,) = self.answers(frame)
        return response
