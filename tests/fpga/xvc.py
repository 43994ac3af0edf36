"""An emulated ECP5 behind a Xilinx Virtual Cable: what openFPGALoader's `xvc-client` talks to in tests.

The TAP controller is IEEE 1149.1's.  Of the configuration logic there is what the loader reads: the device code, the
busy flag and the status register.  What is loaded is recorded, not executed.
"""

from __future__ import annotations

import re
import socket
import threading
from types import TracebackType

IDCODE, READ_STATUS, READ_BUSY, BYPASS = 0xE0, 0x3C, 0xF0, 0xFF
ISC_ENABLE, ISC_DISABLE, ISC_ERASE, BITSTREAM_BURST = 0xC6, 0x26, 0x0E, 0x7A
CONFIGURATION = (ISC_ENABLE, ISC_ERASE, BITSTREAM_BURST)
"""The instructions that change the device."""

STATUS_DONE, STATUS_ENABLED = 1 << 8, 1 << 9
STATUS_ERROR_SHIFT = 23
CRC_ERROR = 3
"""The code in the status register, at STATUS_ERROR_SHIFT, of a bitstream with a wrong CRC."""

INSTRUCTION_BITS = 8
BUFFER_BYTES = 2048
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

# state: (next if TMS is 0, next if TMS is 1)
TAP = {
    "RESET": ("IDLE", "RESET"),
    "IDLE": ("IDLE", "SELECT-DR"),
    "SELECT-DR": ("CAPTURE-DR", "SELECT-IR"),
    "CAPTURE-DR": ("SHIFT-DR", "EXIT1-DR"),
    "SHIFT-DR": ("SHIFT-DR", "EXIT1-DR"),
    "EXIT1-DR": ("PAUSE-DR", "UPDATE-DR"),
    "PAUSE-DR": ("PAUSE-DR", "EXIT2-DR"),
    "EXIT2-DR": ("SHIFT-DR", "UPDATE-DR"),
    "UPDATE-DR": ("IDLE", "SELECT-DR"),
    "SELECT-IR": ("CAPTURE-IR", "RESET"),
    "CAPTURE-IR": ("SHIFT-IR", "EXIT1-IR"),
    "SHIFT-IR": ("SHIFT-IR", "EXIT1-IR"),
    "EXIT1-IR": ("PAUSE-IR", "UPDATE-IR"),
    "PAUSE-IR": ("PAUSE-IR", "EXIT2-IR"),
    "EXIT2-IR": ("SHIFT-IR", "UPDATE-IR"),
    "UPDATE-IR": ("IDLE", "SELECT-DR"),
}


class Ecp5:
    """The device: its TAP, and a record of the instructions and of the bitstream that it was given.

    `load_error` is the code that its status register shows once a bitstream has been shifted in.
    """

    def __init__(self, idcode: int, load_error: int = 0) -> None:
        self.idcode = idcode
        self.load_error = load_error
        self.instructions: list[int] = []
        self.payload = bytearray()
        self.status = 0
        self._state = "RESET"
        self._instruction = IDCODE
        self._register, self._length = 0, 1
        self._burst, self._burst_bits = 0, 0

    def clock(self, count: int, tms: int, tdi: int) -> int:
        """Give `count` clocks, the first in the lowest bit; returns TDO likewise."""
        tdo = position = 0
        # clocks of equal TMS are taken together where the state does not change
        for run in re.finditer("0+|1+", f"{tms & (1 << count) - 1:0{count}b}"[::-1]):
            level, left = int(run.group()[0]), len(run.group())
            while left:
                following = TAP[self._state][level]
                step = left if following == self._state else 1
                if self._state in ("SHIFT-DR", "SHIFT-IR"):
                    tdo |= self._shift(step, tdi >> position & (1 << step) - 1) << position
                if following != self._state:
                    self._state = following
                    self._enter()
                position += step
                left -= step
        return tdo

    def _shift(self, count: int, bits: int) -> int:
        """Shift bits through the register, lowest first; returns those that come out."""
        if self._state == "SHIFT-DR" and self._instruction == BITSTREAM_BURST:
            self._burst |= bits << self._burst_bits
            self._burst_bits += count
            whole = self._burst_bits // 8
            self.payload += (self._burst & (1 << 8 * whole) - 1).to_bytes(whole, "little").translate(_REVERSED)
            self._burst >>= 8 * whole
            self._burst_bits -= 8 * whole
        chain = self._register | bits << self._length
        self._register = chain >> count
        return chain & (1 << count) - 1

    def _enter(self) -> None:
        """Do what the state that was just entered is for."""
        if self._state == "RESET":
            self._instruction = IDCODE
        elif self._state == "CAPTURE-IR":
            self._register, self._length = 1, INSTRUCTION_BITS
        elif self._state == "CAPTURE-DR":
            registers = {IDCODE: (self.idcode, 32), READ_STATUS: (self.status, 32), READ_BUSY: (0, 8)}
            self._register, self._length = registers.get(self._instruction, (0, 1))
        elif self._state == "UPDATE-IR":
            self._instruction = self._register
            self.instructions.append(self._instruction)
            if self._instruction == ISC_ENABLE:
                self.status = STATUS_ENABLED
            elif self._instruction == ISC_DISABLE:
                self.status &= ~STATUS_ENABLED
        elif self._state == "UPDATE-DR" and self._instruction == BITSTREAM_BURST:
            self.status |= self.load_error << STATUS_ERROR_SHIFT if self.load_error else STATUS_DONE


class XvcServer:
    """Serves one device on a free port of this machine, as a context: one client after the other."""

    def __init__(self, device: Ecp5) -> None:
        self.device = device
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        host, port = self._listener.getsockname()
        self.cable = ["-c", "xvc-client", "--ip", host, "--port", str(port)]
        """The openFPGALoader arguments that choose this device."""
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> XvcServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(timeout=5)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            self.connections += 1
            with connection:
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        buffer = bytearray()

        def take(count: int) -> bytes:
            while len(buffer) < count:
                # the client sends a command in pieces, and waits with the second for the first's acknowledgement
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                received = connection.recv(1 << 16)
                if not received:
                    raise EOFError
                buffer.extend(received)
            taken = bytes(buffer[:count])
            del buffer[:count]
            return taken

        try:
            while True:
                command = take(1)
                while command[-1:] != b":":
                    command += take(1)
                if command == b"getinfo:":
                    connection.sendall(f"xvcServer_v1.0:{BUFFER_BYTES}\n".encode())
                elif command == b"settck:":
                    connection.sendall(take(4))
                elif command == b"shift:":
                    count = int.from_bytes(take(4), "little")
                    size = -(-count // 8)
                    tms = int.from_bytes(take(size), "little")
                    tdi = int.from_bytes(take(size), "little")
                    connection.sendall(self.device.clock(count, tms, tdi).to_bytes(size, "little"))
                else:
                    return
        except (EOFError, ConnectionError):
            return
