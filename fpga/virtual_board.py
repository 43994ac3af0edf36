"""The virtual board: the Verilated board top as a process behind a pseudo-terminal, its serial port."""

from __future__ import annotations

import ctypes
import hashlib
import os
import select
import time
import tty
from pathlib import Path

from gradsieve.fpga.boards.board import LED_SIGNALS
from gradsieve.fpga.boards.top import board_verilog
from gradsieve.fpga.verilated import Wrapper, build
from gradsieve.hw.config import EngineConfig
from gradsieve.rtl_gen.cache import source_digest
from gradsieve.rtl_gen.files import cached, write_text

HEARTBEAT_BITS = 16
"""The heartbeat blinks once in 2^16 cycles: a simulated second is long."""
BATCH_CYCLES = 1000
"""Between two looks at the pseudo-terminal: some milliseconds."""
LINE_BYTES = 4096
"""The host waits when so many bytes are on their way to the board, and the board's are kept while the host is slow."""
QUIET_CYCLES = 500_000
"""A board on which nothing has moved for so long rests; a host that waits for its engine asks, which moves the line."""
SLEEP_SECONDS = 0.2
"""Of a board at rest, unless bytes come."""
RESET_CYCLES = 16

_FOLDER = Path(__file__).parent
_SOURCES = ("link/*.py", "boards/top.py", "boards/board.py")


class VirtualBoard:
    """A board whose serial port is the pseudo-terminal `port`, with one bit each `divisor` clock cycles.

    `serve` runs it; the host may open and close the port as it likes.  The clock stands still while nothing can change:
    when neither the line nor a stream of the engine has moved for QUIET_CYCLES.  Raises ToolError if the board cannot
    be built, ValueError for a divisor below 4.
    """

    def __init__(self, config: EngineConfig, divisor: int = 4) -> None:
        self._library = _load(config, divisor)
        self._board: int | None = self._library.board_new(divisor)
        self._host, self._port = os.openpty()
        tty.setraw(self._port)
        os.set_blocking(self._host, False)
        # this process keeps the port open too, so that it outlives a host that closes it
        self.port = os.ttyname(self._port)
        self.cycles = self.bytes_sent = self.bytes_received = 0
        """Clock cycles, and bytes to and from the board."""
        self.seconds = 0.0
        """Time in which the clock ran."""
        self._to_host = bytearray()
        self._stopped = False
        self._pressed = True

    def stop(self) -> None:
        """Let `serve` end soon; for signal handlers and other threads."""
        self._stopped = True

    def press_reset(self) -> None:
        """Press the board's reset button soon; for signal handlers and other threads."""
        self._pressed = True

    @property
    def leds(self) -> dict[str, bool]:
        """Which LEDs are lit."""
        word = self._library.board_leds(self._board)
        return {name: bool(word >> n & 1) for n, name in enumerate(LED_SIGNALS)}

    def serve(self) -> None:
        """Run the board until `stop` is called."""
        while not self._stopped:
            if self._pressed:
                self._pressed = False
                self._library.board_reset(self._board, RESET_CYCLES)
                self.cycles += RESET_CYCLES
            resting = self._library.board_quiet(self._board) >= QUIET_CYCLES
            data = self._exchange(SLEEP_SECONDS if resting else 0)
            if data or not resting:
                self._run(data)

    def close(self) -> None:
        """Give board and port up."""
        if self._board is not None:
            self._library.board_delete(self._board)
            self._board = None
            os.close(self._host)
            os.close(self._port)

    def _exchange(self, seconds: float) -> bytes:
        """Give the host what it takes of the board's bytes, and return what it has sent; wait for either."""
        room = LINE_BYTES - self._library.board_unsent(self._board)
        read = [self._host] if room > 0 and len(self._to_host) < LINE_BYTES else []
        write = [self._host] if self._to_host else []
        readable, writable, _ = select.select(read, write, [], seconds)
        if writable:
            del self._to_host[: os.write(self._host, self._to_host)]
        return os.read(self._host, room) if readable else b""

    def _run(self, data: bytes) -> None:
        begin = time.perf_counter()
        out = ctypes.create_string_buffer(LINE_BYTES)
        count = self._library.board_run(self._board, data, len(data), out, LINE_BYTES, BATCH_CYCLES, _BUSY_LEDS)
        self.seconds += time.perf_counter() - begin
        self.cycles += BATCH_CYCLES
        self.bytes_sent += len(data)
        self.bytes_received += count
        self._to_host += out.raw[:count]


_BUSY_LEDS = 1 << LED_SIGNALS.index("streams") | 1 << LED_SIGNALS.index("line")


def _load(config: EngineConfig, divisor: int) -> ctypes.CDLL:
    """The library of the board of `config`, built if it is new."""
    wrapper = Wrapper("board", _FOLDER / "virtual_board.cpp", (_FOLDER / "uart.h",))
    library = ctypes.CDLL(str(build(_verilog(config, divisor), "board", wrapper)))
    size, pointer = ctypes.c_size_t, ctypes.c_void_p
    library.board_new.restype = pointer
    library.board_delete.argtypes = library.board_unsent.argtypes = [pointer]
    library.board_quiet.argtypes = library.board_leds.argtypes = [pointer]
    library.board_quiet.restype = ctypes.c_uint64
    library.board_unsent.restype = library.board_run.restype = size
    library.board_reset.argtypes = [pointer, ctypes.c_uint64]
    library.board_run.argtypes = [pointer, ctypes.c_char_p, size, pointer, size, ctypes.c_uint64, ctypes.c_uint8]
    return library


def _verilog(config: EngineConfig, divisor: int) -> Path:
    """The board's Verilog, kept on disk under a digest of all that it depends on."""
    key = hashlib.sha256(f"{source_digest()} {config.model_dump_json()} {divisor} {HEARTBEAT_BITS}".encode())
    for path in sorted(path for pattern in _SOURCES for path in _FOLDER.glob(pattern)):
        key.update(hashlib.sha256(path.read_bytes()).digest())

    def make(folder: Path) -> None:
        write_text(folder / "board.v", board_verilog(config, divisor=divisor, heartbeat_bits=HEARTBEAT_BITS))

    return cached("board_verilog", key.hexdigest()[:24], make) / "board.v"
