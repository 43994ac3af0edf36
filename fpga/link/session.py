"""The host's end of the serial link: a window of requests, each answered once, over a line that may lose anything."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from gradsieve.fpga.errors import DeviceError
from gradsieve.fpga.link.protocol import (
    HELLO_ANSWER,
    NONCE_BYTES,
    VERSION,
    FrameReader,
    Kind,
    Response,
    Status,
    parse_response,
    request,
)

HELLO_SEQUENCE = 255
HELLO_SECONDS = 0.25
"""Between two tries to begin a session."""
RETRY_SECONDS = 0.05
"""Least time until a request is sent again: adapters gather bytes for up to 16 ms."""
RETRY_FACTOR = 4
"""Times that the bytes in flight may take what they took lately."""
RETRIES = 8
"""At least so many before the board counts as silent."""
BITS_A_BYTE = 10


class Port(Protocol):
    """What is needed of a serial port: pyserial's classes have it."""

    @property
    def in_waiting(self) -> int:
        """Bytes that can be read at once."""

    def read(self, size: int = 1, /) -> bytes:
        """Up to `size` bytes: those that come before the port's timeout."""

    def write(self, data: bytes, /) -> int | None:
        """Send bytes."""

    def open(self) -> None:
        """Open the port again."""

    def close(self) -> None:
        """Close it."""


@dataclass
class Statistics:
    """What a link has done since it was made; `seconds` are those spent in calls that move packets.

    `exchange_seconds` of them went to exchanges, in which a tape goes and its result comes; `waiting_seconds` passed
    with nothing to move either way.
    """

    frames: int = 0
    retransmitted: int = 0
    bad_frames: int = 0
    """Frames from the board with a wrong CRC."""
    bad_requests: int = 0
    """Frames that the board dropped, as far as it said."""
    bytes_sent: int = 0
    bytes_received: int = 0
    seconds: float = 0.0
    exchange_seconds: float = 0.0
    waiting_seconds: float = 0.0


@dataclass
class Pending:
    """A request in flight; `size` are the bytes of a SEND, or the most that a RECEIVE asks for.

    `in_flight` bytes, its own and its answer's among them, were under way when it was sent; `order` numbers sendings.
    """

    kind: Kind
    sequence: int
    frame: bytes
    size: int
    in_flight: int
    sent_at: float
    order: int
    retransmitted: bool = False
    response: Response | None = None


class Session:
    """One session of the link.  Every method raises DeviceError when the port fails or the board stays silent."""

    def __init__(self, port: Port, name: str, baud: int, silence: float, clock: Callable[[], float]) -> None:
        self.port, self.name, self.baud, self.silence, self.clock = port, name, baud, silence, clock
        self.statistics = Statistics()
        self.alive = False
        self._nonce = int.from_bytes(os.urandom(NONCE_BYTES), "little")
        self._pace = self._least_pace = BITS_A_BYTE / baud
        self._forget()

    def _forget(self) -> None:
        self._pending: deque[Pending] = deque()
        self._reader = FrameReader()
        self._sequence = self._order = 0
        self._backoff = 1
        self._dropped = 0
        self.window = 0
        self._heard = self.clock()
        self.free = self.available = 0

    def begin(self) -> None:
        """Say HELLO until the board answers; whatever was under way is forgotten on both sides."""
        self.alive = False
        self._forget()
        self._nonce = (self._nonce + 1) & 0xFFFFFFFF
        self._id = self._nonce & 0xFF
        hello = request(self._id, HELLO_SEQUENCE, Kind.HELLO, self._nonce.to_bytes(NONCE_BYTES, "little"))
        start, came = self.clock(), self.statistics.bytes_received
        retry_at = start
        while self.clock() - start < self.silence:
            if self.clock() >= retry_at:
                self._write(hello)
                self.statistics.frames += 1
                retry_at = self.clock() + HELLO_SECONDS
            for response in self._read():
                if self._is_welcome(response):
                    self._welcome(response)
                    return
        came = self.statistics.bytes_received - came
        heard = f" ({came} bytes came, and no answer in them: it probably is not)" if came else ""
        raise DeviceError(
            f"no board answers on {self.name} at {self.baud} baud within {self.silence:.1f} s: is it powered, does it "
            f"hold a gradsieve bitstream, and is the baud rate right?{heard}"
        )

    def _is_welcome(self, response: Response) -> bool:
        payload = response.payload
        return len(payload) == HELLO_ANSWER.size and HELLO_ANSWER.unpack(payload)[-1] == self._nonce

    def _welcome(self, response: Response) -> None:
        version, self.window, self.payload_max, *_ = HELLO_ANSWER.unpack(response.payload)
        if version != VERSION:
            raise DeviceError(
                f"the board on {self.name} speaks version {version} of the link's protocol and this host {VERSION}: "
                f"build and load its bitstream again"
            )
        self._heard, self._dropped, self.alive = self.clock(), response.dropped, True
        self._levels(response)

    # requests

    @property
    def room(self) -> bool:
        """Whether another request may be sent."""
        return len(self._pending) < self.window

    @property
    def idle(self) -> bool:
        """Whether no request is in flight."""
        return not self._pending

    @property
    def credit(self) -> int:
        """Bytes that may be sent to the input FIFO."""
        return self.free - sum(p.size for p in self._pending if p.kind is Kind.SEND)

    @property
    def readable(self) -> int:
        """Bytes in the output FIFO that no request has asked for."""
        return self.available - sum(p.size for p in self._pending if p.kind is Kind.RECEIVE)

    def send(self, kind: Kind, payload: bytes = b"", size: int = 0, last: bool = False) -> None:
        """Send a request.  There must be room."""
        self._check_alive()
        frame = request(self._id, self._sequence, kind, payload, last)
        now, in_flight = self.clock(), len(frame) + size + sum(len(p.frame) + p.size for p in self._pending)
        if self.idle:
            self._heard = now
        self._pending.append(Pending(kind, self._sequence, frame, size, in_flight, now, self._next_order()))
        self._sequence = (self._sequence + 1) & 0xFF
        self.statistics.frames += 1
        self._write(frame)

    def poll(self) -> list[tuple[Pending, Response]]:
        """Wait for the line, a read timeout long at most; the requests that are answered now, in their order."""
        self._check_alive()
        for response in self._read():
            self._take(response)
        done = []
        while self._pending and self._pending[0].response is not None:
            pending = self._pending.popleft()
            assert pending.response is not None
            self._complete(pending, pending.response)
            done.append((pending, pending.response))
        if self._pending and not done:
            self._check_time()
        return done

    def ask(self, kind: Kind, payload: bytes, size: int = 0) -> Response:
        """Send a request and wait for its answer; those of requests still in flight are dropped."""
        while not self.idle:
            self.poll()
        self.send(kind, payload, size)
        while True:
            for _, response in self.poll():
                return response

    # the line

    def _next_order(self) -> int:
        self._order += 1
        return self._order

    def _write(self, data: bytes) -> None:
        try:
            self.port.write(data)
        except OSError as error:
            raise self._gone(error) from None
        self.statistics.bytes_sent += len(data)

    def _read(self) -> list[Response]:
        try:
            data = self.port.read(max(1, self.port.in_waiting))
        except OSError as error:
            raise self._gone(error) from None
        self.statistics.bytes_received += len(data)
        bad = self._reader.bad
        bodies = self._reader.feed(data)
        self.statistics.bad_frames += self._reader.bad - bad
        responses = []
        for body in bodies:
            try:
                responses.append(parse_response(body))
            except ValueError:
                self.statistics.bad_frames += 1
        return responses

    def _gone(self, error: OSError) -> DeviceError:
        self.alive = False
        return DeviceError(
            f"{self.name} failed ({error.strerror or error}): was the board unplugged?  Plug it in; reconnect() begins "
            f"a new session"
        )

    def _take(self, response: Response) -> None:
        if response.session != self._id:
            return  # of an older session
        if response.status == Status.NO_SESSION:
            self.alive = False
            raise DeviceError(
                f"the board on {self.name} was reset, or is used by another program: reconnect() begins a new session"
            )
        self._heard = self.clock()
        if response.status == Status.OUT_OF_SEQUENCE:
            # the device says so once: whatever is in flight after the missing frame is lost too
            if any(p.sequence == response.sequence for p in self._pending):
                self._go_back(response.sequence)
            return
        for pending in self._pending:
            if pending.sequence == response.sequence and pending.response is None:
                pending.response = response
                # the line keeps the order: answers to what was sent before this one are lost
                self._again([p for p in self._pending if p.response is None and p.order < pending.order])
                return

    def _again(self, lost: Iterable[Pending]) -> None:
        for pending in lost:
            pending.retransmitted, pending.sent_at, pending.order = True, self.clock(), self._next_order()
            self.statistics.retransmitted += 1
            self._write(pending.frame)

    def _go_back(self, sequence: int) -> None:
        first = next(n for n, p in enumerate(self._pending) if p.sequence == sequence)
        self._again([p for p in list(self._pending)[first:] if p.response is None])

    def _complete(self, pending: Pending, response: Response) -> None:
        self._backoff = 1
        if not pending.retransmitted:
            pace = (self.clock() - pending.sent_at) / pending.in_flight
            self._pace = max(self._least_pace, 0.75 * self._pace + 0.25 * pace)
        self.statistics.bad_requests += (response.dropped - self._dropped) & 0xFF
        self._dropped = response.dropped
        self._levels(response)

    def _levels(self, response: Response) -> None:
        self.free, self.available = response.free, response.available

    def _check_alive(self) -> None:
        if not self.alive:
            raise DeviceError(f"the session on {self.name} has ended: reconnect() begins another")

    def _check_time(self) -> None:
        now, oldest = self.clock(), self._pending[0]
        if now - self._heard > self.silence:
            self.alive = False
            raise DeviceError(
                f"the board on {self.name} has not answered for {self.silence:.1f} s: is it still plugged in and "
                f"powered?  reconnect() begins a new session"
            )
        due = RETRY_SECONDS + RETRY_FACTOR * self._pace * oldest.in_flight
        if now - oldest.sent_at > max(due, min(self._backoff * due, self.silence / RETRIES)):
            self._backoff *= 2
            self._go_back(oldest.sequence)
