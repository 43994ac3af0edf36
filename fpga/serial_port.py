"""Transport over a serial port to a board: docs/link.md is the protocol."""

from __future__ import annotations

import contextlib
import errno
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import serial
from serial.tools import list_ports

from gradsieve.fpga.errors import DeviceError, StalledError
from gradsieve.fpga.link.protocol import NO_ANSWER, READ_ANSWER, READS_MAX, WRITE, Kind, Response, Status
from gradsieve.fpga.link.session import Pending, Port, Session, Statistics
from gradsieve.fpga.packets import Bytes
from gradsieve.fpga.transport import Transport

BAUD = 3_000_000
"""The fastest that the USB adapters of common boards can."""
SILENCE_SECONDS = 2.0
"""A board that has not answered for so long is not there."""
PATIENCE_SECONDS = 30.0
"""An engine that has neither taken nor given a byte for so long hangs."""
READ_SECONDS = 0.01
"""Longest wait for the line before clocks are looked at."""
QUICK_POLLS = 8
"""Polls for a result, each as long as a round trip, before pauses are made between them."""

_REMEDY = ": reconnect() brings link and engine back"


class SerialTransport(Transport):
    """An engine behind a serial port.

    `port` is a name or URL that pyserial opens, or an open port.  Making it begins a session within `silence` seconds;
    so does `reconnect`, after any DeviceError of a session.  A DeviceError says which of these it is: no such port, no
    permission, in use, no board, unplugged, reset, an engine that hangs (for `patience` seconds: a StalledError).
    """

    def __init__(
        self,
        port: str | Port,
        baud: int = BAUD,
        silence: float = SILENCE_SECONDS,
        patience: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = port if isinstance(port, str) else str(getattr(port, "name", None) or type(port).__name__)
        self.patience = patience
        self._clock = clock
        self._session = Session(_open(port, baud, silence), self.name, baud, silence, clock)
        self._chunks: deque[tuple[bytes, bool]] = deque()
        """Bytes that came before they were asked for, and whether a packet ends after them."""
        self._broken = False
        try:
            self._begin()
        except DeviceError:
            self.close()
            raise

    @property
    def statistics(self) -> Statistics:
        """Frames, bytes and seconds since the transport was made."""
        return self._session.statistics

    def reconnect(self) -> None:
        """Open the port again and begin a new session.  `Device.reconnect` does this and cleans the engine too."""
        with contextlib.suppress(OSError):
            self._session.port.close()
        _reopen(self._session.port, self.name)
        self._begin()

    def close(self) -> None:
        self._session.alive = False
        with contextlib.suppress(OSError):
            self._session.port.close()

    # registers

    def write_register(self, address: int, value: int) -> None:
        answer = self._registers(bytes((address | WRITE,)) + value.to_bytes(4, "little"))
        _check(answer[0], "write to", address)

    def read_register(self, address: int) -> int:
        return self.read_registers([address])[0]

    def read_registers(self, addresses: Sequence[int]) -> list[int]:
        values = []
        for start in range(0, len(addresses), READS_MAX):
            part = addresses[start : start + READS_MAX]
            answer = self._registers(bytes(part))
            for n, address in enumerate(part):
                result, *word = answer[READ_ANSWER * n : READ_ANSWER * (n + 1)]
                _check(result, "read of", address)
                values.append(int.from_bytes(word, "little"))
        return values

    def _registers(self, operations: bytes) -> bytes:
        return _accepted(self._session.ask(Kind.REGISTERS, operations)).payload

    # packets

    def send(self, packet: Bytes) -> None:
        self._stream(packet.tobytes(), 0, await_packet=False)

    def receive(self, size: int) -> Bytes:
        return self._stream(b"", size)

    def exchange(self, packet: Bytes, size: int) -> Bytes:
        before = self.statistics.seconds
        received = self._stream(packet.tobytes(), size)
        self.statistics.exchange_seconds += self.statistics.seconds - before
        return received

    def discard(self) -> bool:
        came = bool(self._chunks)
        self._chunks.clear()
        answer = _accepted(self._session.ask(Kind.RECEIVE, *_most(self._session.payload_max)))
        return came or bool(answer.payload or answer.last or answer.available)

    def _stream(self, packet: bytes, size: int, await_packet: bool = True) -> Bytes:
        """Send `packet` until the engine has taken it, and take one of at most `size` bytes if `await_packet`."""
        if self._broken:
            raise DeviceError(f"an earlier transfer on {self.name} failed: reconnect() brings link and engine back")
        start = self._clock()
        self._broken = True
        try:
            received = _Transfer(self._session, self._chunks, packet, size, await_packet).run(self.patience)
        finally:
            self.statistics.seconds += self._clock() - start
        self._broken = False
        return received

    # sessions

    def _begin(self) -> None:
        self._chunks.clear()
        self._session.begin()
        self._broken = False


class _Transfer:
    """One packet out, one in, or both at once, through the session's window."""

    def __init__(
        self, session: Session, chunks: deque[tuple[bytes, bool]], packet: bytes, size: int, await_packet: bool
    ) -> None:
        self.session, self.chunks, self.packet = session, chunks, packet
        self.size, self.ended = size, not await_packet
        self.taken = not packet
        self.sent = self.acknowledged = 0
        self.received = bytearray()
        self.empty_polls, self.paused, self.send_next = 0, False, True
        self.moved_at = session.clock()

    def run(self, patience: float) -> Bytes:
        """The packet that came.  Raises StalledError after `patience` seconds in which nothing moved."""
        session, clock = self.session, self.session.clock
        self._collect()
        while not (self.ended and self.taken and session.idle):
            start, waiting = clock(), self.empty_polls > 0
            self._fill_window()
            for pending, response in session.poll():
                self._answered(pending, _accepted(response))
            self._collect()
            if waiting and self.empty_polls:
                session.statistics.waiting_seconds += clock() - start
            if clock() - self.moved_at > patience:
                raise StalledError(
                    f"the engine on {session.name} has neither taken nor given a byte for {patience:.1f} s, after "
                    f"{self.acknowledged} of {len(self.packet)} bytes were sent and {len(self.received)} taken",
                    _REMEDY,
                )
        return np.frombuffer(bytes(self.received), np.uint8)

    def _fill_window(self) -> None:
        """Send and ask in turn, as far as window and credit go; a poll when there is nothing else."""
        session = self.session
        while session.room:
            chunk = min(session.payload_max, len(self.packet) - self.sent)
            if chunk > session.credit:
                chunk = 0
            wanted = 0 if self.ended else min(session.payload_max, session.readable)
            if chunk and (self.send_next or wanted <= 0):
                part = self.packet[self.sent : self.sent + chunk]
                self.sent += chunk
                session.send(Kind.SEND, part, chunk, last=self.sent == len(self.packet))
            elif wanted > 0:
                session.send(Kind.RECEIVE, *_most(wanted))
            else:
                break
            self.send_next = not self.send_next
        if session.idle and not (self.ended and self.taken):
            self.paused = self.empty_polls > QUICK_POLLS and not self.paused
            if not self.paused:
                session.send(Kind.RECEIVE, *_most(0 if self.ended else session.payload_max))

    def _answered(self, pending: Pending, response: Response) -> None:
        moved = bool(pending.kind is Kind.SEND or response.payload or response.last)
        if response.payload or response.last:
            self.chunks.append((response.payload, response.last))
        if pending.kind is Kind.SEND:
            self.acknowledged += pending.size
        if self.acknowledged == len(self.packet) and response.drained and not self.taken:
            self.taken = moved = True
        if moved:
            self.empty_polls, self.moved_at = 0, self.session.clock()
        else:
            self.empty_polls += 1

    def _collect(self) -> None:
        """Take what has come, up to the end of this packet; what belongs to the next one stays."""
        while self.chunks and not self.ended:
            part, self.ended = self.chunks.popleft()
            self.received += part
            if len(self.received) > self.size:
                raise StalledError(
                    f"the engine on {self.session.name} sent more than the {self.size} bytes that were due", _REMEDY
                )


def _most(size: int) -> tuple[bytes, int]:
    """Payload and size of a RECEIVE."""
    return size.to_bytes(2, "little"), size


def _accepted(response: Response) -> Response:
    if response.status != Status.OK:
        raise DeviceError(f"the board refuses a request: {Status(response.status).name}")
    return response


def _check(result: int, what: str, address: int) -> None:
    if result == NO_ANSWER:
        raise DeviceError(f"no answer to a {what} register 0x{address:02x}")
    if result:
        raise DeviceError(f"the {what} register 0x{address:02x} was refused: there is no such register")


def _open(port: str | Port, baud: int, silence: float) -> Port:
    """The port, open.  Raises DeviceError."""
    if not isinstance(port, str):
        return port
    try:
        opened = serial.serial_for_url(
            port, do_not_open=True, baudrate=baud, timeout=READ_SECONDS, write_timeout=silence, exclusive=True
        )
    except ValueError as error:
        raise DeviceError(
            f"{port} at {baud} baud cannot be opened ({error}): give a port such as /dev/ttyUSB0"
        ) from None
    _reopen(opened, port)
    return opened


def _reopen(port: Port, name: str) -> None:
    try:
        port.open()
    except (OSError, ValueError) as error:
        raise DeviceError(_why_not_open(name, error)) from None
    with contextlib.suppress(AttributeError, NotImplementedError, OSError, ValueError):
        # else an FTDI adapter keeps what came for 16 ms
        port.set_low_latency_mode(True)  # type: ignore[attr-defined]


def _why_not_open(name: str, error: Exception) -> str:
    code = getattr(error, "errno", None)
    if code is None and error.__context__ and error.__context__.args:
        code = error.__context__.args[0]  # pyserial keeps what termios says only there
    there = ", ".join(sorted(p.device for p in list_ports.comports())) or "none"
    if code in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return f"there is no port {name}: is the board plugged in?  Ports of this machine: {there}"
    if code in (errno.ENOTTY, errno.EISDIR):
        return f"{name} is no serial port: give one such as /dev/ttyUSB0.  Ports of this machine: {there}"
    if code in (errno.EACCES, errno.EPERM):
        return (
            f"no permission to open {name}: join its group (Debian, Ubuntu: sudo usermod -aG dialout $USER), then log "
            f"out and in again"
        )
    if code in (errno.EBUSY, errno.EWOULDBLOCK):
        return f"{name} is in use by another program: close that first"
    return f"{name} cannot be opened ({error})"
