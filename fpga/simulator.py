"""Transport to the Verilated engine in this process."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

from gradsieve.fpga.errors import DeviceError, StalledError
from gradsieve.fpga.packets import Bytes
from gradsieve.fpga.transport import Transport
from gradsieve.fpga.verilated import load
from gradsieve.hw.config import EngineConfig

QUIET_CYCLES = 2_000_000
"""Cycles without any beat after which a transfer has failed: more than the longest time between two beats of a run."""
DISCARD_BYTES = 1 << 16
"""Thrown away at once."""
DISCARD_CYCLES = 100
"""Cycles without a beat after which there is nothing more to throw away: more than an open packet's beats are apart."""


class Simulator(Transport):
    """A Verilated engine, clocked by whole packets in C++.

    `disturb` makes beats of both streams wait at random.  Raises ToolError if the engine cannot be built.
    """

    def __init__(self, config: EngineConfig, verilog: Path | None = None) -> None:
        self.config = config
        self._library = load(config, verilog)
        self._engine: int | None = self._library.simulator_new()
        self.quiet_cycles = QUIET_CYCLES
        self.reset()

    def reset(self) -> None:
        """The hard reset."""
        self._library.simulator_reset(self._engine)

    def disturb(self, seed: int, idle: float, backpressure: float) -> None:
        """Hold back beats in (`idle`) and out (`backpressure`), each with this probability a cycle."""
        self._library.simulator_disturb(self._engine, seed, int(idle * 65536), int(backpressure * 65536))

    def wait(self, cycles: int) -> None:
        """Let the clock run."""
        self._library.simulator_wait(self._engine, cycles)

    @property
    def cycles(self) -> int:
        """Clock cycles since the engine was built."""
        return int(self._library.simulator_cycles(self._engine))

    def write_register(self, address: int, value: int) -> None:
        response = self._library.simulator_write(self._engine, address, value)
        self._check_response(response, "write to", address)

    def read_register(self, address: int) -> int:
        value = ctypes.c_uint32()
        response = self._library.simulator_read(self._engine, address, ctypes.byref(value))
        self._check_response(response, "read of", address)
        return value.value

    def send(self, packet: Bytes) -> None:
        self.stream(packet, 0, await_packet=False)

    def receive(self, size: int) -> Bytes:
        return self.stream(np.empty(0, np.uint8), size)

    def exchange(self, packet: Bytes, size: int) -> Bytes:
        return self.stream(packet, size)

    def stream(self, packet: Bytes, size: int, end_packet: bool = True, await_packet: bool = True) -> Bytes:
        """Send `packet` (without TLAST if not `end_packet`) and take one of at most `size` bytes if `await_packet`."""
        status, sent, out = self._move(packet, size, end_packet, await_packet, self.quiet_cycles)
        if status == 1:
            raise StalledError(
                f"no beat moved for {self.quiet_cycles} cycles after {sent} of {len(packet)} bytes were sent "
                f"and {len(out)} taken"
            )
        if status == 2:
            raise StalledError(f"the engine sent more than the {size} bytes that were due")
        return out

    def discard(self) -> bool:
        status, _, out = self._move(np.empty(0, np.uint8), DISCARD_BYTES, True, True, DISCARD_CYCLES)
        return status != 1 or len(out) > 0

    def _move(
        self, packet: Bytes, size: int, end_packet: bool, await_packet: bool, quiet_cycles: int
    ) -> tuple[int, int, Bytes]:
        """What came of it (1: no beat for `quiet_cycles`, 2: over `size`), the bytes sent and those taken."""
        sent, received, ended = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_int()
        out = np.empty(size, np.uint8)
        status: int = self._library.simulator_stream(
            self._engine,
            packet.tobytes(),
            len(packet),
            end_packet,
            out.ctypes.data,
            size,
            await_packet,
            quiet_cycles,
            ctypes.byref(sent),
            ctypes.byref(received),
            ctypes.byref(ended),
        )
        return status, sent.value, out[: received.value]

    def reconnect(self) -> None:
        """Nothing: the way to an engine in this process does not break."""

    def close(self) -> None:
        if self._engine is not None:
            self._library.simulator_delete(self._engine)
            self._engine = None

    def _check_response(self, response: int, what: str, address: int) -> None:
        if response < 0:
            raise DeviceError(f"no answer to a {what} register 0x{address:02x}")
        if response:
            raise DeviceError(f"the {what} register 0x{address:02x} was refused: there is no such register")
