"""A serial port in this process, behind which a Verilated board runs; and faults on its line."""

from __future__ import annotations

import ctypes
import errno
import functools
import random
import tempfile
from collections import Counter
from pathlib import Path

import gradsieve.fpga
from gradsieve.fpga.verilated import Wrapper, build

_FPGA = Path(gradsieve.fpga.__file__).parent
WRAPPER = Wrapper("board", _FPGA / "virtual_board.cpp", (_FPGA / "uart.h",))
"""That of the virtual board, so that both share what is built of an engine's."""
CYCLES_A_SECOND = 1_000_000
"""Of the time that the port tells its user: a second of silence takes half a second to simulate."""
READ_SECONDS = 0.002
BATCH_CYCLES = 200
"""That the board runs at once: five bytes of the line."""
RESET_CYCLES = 4


@functools.cache
def library(text: str) -> ctypes.CDLL:
    """The module `board` of this Verilog with the host's end of its line, built if it is new."""
    with tempfile.TemporaryDirectory() as folder:
        verilog = Path(folder) / "board.v"
        verilog.write_text(text, encoding="utf-8")
        path = build(verilog, "board", WRAPPER)
    loaded = ctypes.CDLL(str(path))
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    loaded.board_new.restype = pointer
    loaded.board_delete.argtypes = [pointer]
    loaded.board_reset.argtypes = [pointer, ctypes.c_uint64]
    loaded.board_run.argtypes = [pointer, ctypes.c_char_p, size, pointer, size, ctypes.c_uint64, ctypes.c_uint8]
    loaded.board_run.restype = size
    return loaded


class Faults:
    """Changes a share of the frames of one direction: flipped, lost, doubled, foreign bytes; lost, doubled frames."""

    KINDS = ("flip", "drop", "double", "insert", "flag", "lose frame", "double frame", "cut")

    def __init__(self, seed: str, share: float) -> None:
        self.rng, self.share = random.Random(seed), share
        self.rest = b""
        self.frames = 0
        self.done: Counter[str] = Counter()

    def pass_on(self, data: bytes) -> bytes:
        """What comes out at the other end, whole frames only; of an unfinished one, the rest follows later."""
        *ended, self.rest = (self.rest + data).split(b"\x7e")
        out = bytearray()
        for part in ended:
            if part:
                self.frames += 1
                if self.rng.random() < self.share:
                    part = self._fault(part)
            out += part + b"\x7e"
        return bytes(out)

    def _fault(self, part: bytes) -> bytes:
        kind = self.rng.choice(self.KINDS)
        self.done[kind] += 1
        at = self.rng.randrange(len(part))
        if kind == "flip":
            return part[:at] + bytes((part[at] ^ 1 << self.rng.randrange(8),)) + part[at + 1 :]
        if kind == "drop":
            return part[:at] + part[at + 1 :]
        if kind == "double":
            return part[: at + 1] + part[at:]
        if kind == "insert":
            return part[:at] + bytes((self.rng.randrange(256),)) + part[at:]
        if kind == "flag":
            return part[:at] + b"\x7e" + part[at:]
        if kind == "cut":
            return part[:at]
        return b"" if kind == "lose frame" else part + b"\x7e\x7e" + part


class BoardPort:
    """What `gradsieve.fpga.serial_port.SerialTransport` needs of a port, over a simulated board and its simulated time.

    What the host sends before `deaf_until` is lost; at `reset_at` the board is reset; from `unplug_at` on every
    operation fails as the operating system lets it fail.
    """

    def __init__(self, verilog: str, divisor: int) -> None:
        self._library = library(verilog)
        self._board: int | None = self._library.board_new(divisor)
        self._out = ctypes.create_string_buffer(BATCH_CYCLES)
        self.cycles = 0
        self.timeout = READ_SECONDS
        self.deaf_until = 0.0
        self.reset_at: float | None = None
        self.unplug_at: float | None = None
        self.to_board: Faults | None = None
        self.to_host: Faults | None = None
        self.ready = self.late = b""
        self._line = b""
        self.reset_board()

    def open(self) -> None:
        """Nothing is kept from before, but what is `late`."""
        self._check()
        self.ready = self.late

    def close(self) -> None:
        """The board goes on."""

    def free(self) -> None:
        """Give the simulation up."""
        if self._board is not None:
            self._library.board_delete(self._board)
            self._board = None

    def reset_board(self) -> None:
        """The board's reset button."""
        self._library.board_reset(self._board, RESET_CYCLES)
        self._run()

    def monotonic(self) -> float:
        """Simulated seconds."""
        return self.cycles / CYCLES_A_SECOND

    @property
    def in_waiting(self) -> int:
        """Bytes that have come."""
        self._check()
        return len(self.ready)

    def write(self, data: bytes) -> int:
        """Queue bytes for the line."""
        self._check()
        changed = data if self.to_board is None else self.to_board.pass_on(data)
        if self.monotonic() >= self.deaf_until:
            self._line += changed
        return len(data)

    def inject(self, data: bytes) -> None:
        """Put bytes on the line to the board behind the host's back."""
        self._line += data

    def read(self, size: int = 1) -> bytes:
        """Up to `size` bytes: those that come within the timeout."""
        self._check()
        end = self.monotonic() + self.timeout
        while not self.ready and self.monotonic() < end:
            self._run()
        out, self.ready = self.ready[:size], self.ready[size:]
        return out

    def _run(self) -> None:
        line, self._line = self._line, b""
        count = self._library.board_run(self._board, line, len(line), self._out, len(self._out), BATCH_CYCLES, 0)
        self.cycles += BATCH_CYCLES
        if count:
            data = self._out.raw[:count]
            self.ready += data if self.to_host is None else self.to_host.pass_on(data)

    def _check(self) -> None:
        if self.unplug_at is not None and self.monotonic() >= self.unplug_at:
            raise OSError(errno.EIO, "Input/output error")
        if self.reset_at is not None and self.monotonic() >= self.reset_at:
            self.reset_at = None
            self.reset_board()
