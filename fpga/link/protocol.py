"""Constants and frames of the serial link, for the hardware and for the host: docs/link.md."""

from __future__ import annotations

import re
import struct
import zlib
from enum import IntEnum
from typing import NamedTuple

VERSION = 1
"""Of the protocol: HELLO answers it, and the host refuses another one."""

FLAG, ESCAPE, ESCAPE_BIT = 0x7E, 0x7D, 0x20
"""Byte stuffing of RFC 1662: FLAG stands at both ends of a frame; FLAG and ESCAPE in it are escaped."""

DIVISOR_MIN = 4
"""Clock cycles a bit of the serial line: with fewer, the sampling point could leave the bit."""

CRC_BYTES = 4
REQUEST_HEADER = 3
"""Bytes: session, sequence number, kind and LAST."""
RESPONSE_HEADER = 8
"""Bytes: session, sequence number, status and flags, frames dropped, free bytes (2), available bytes (2)."""
LAST = 0x80
"""Of a SEND: its last byte ends a packet.  Of an answer to RECEIVE: the packet ended."""
DRAINED = 0x40
"""Of every answer: the engine has taken all that was sent."""
STATUS_MASK = 0x0F

WINDOW = 4
"""Requests in flight, and answers that the device keeps."""
SLOT_BYTES = 512
"""Memory of an answer, its end marker included."""
PAYLOAD_MAX = SLOT_BYTES - 2 * RESPONSE_HEADER
FIFO_BYTES = 2048
"""Of the request buffer, and by default of both stream FIFOs."""

WRITE = 0x01
"""Bit of the address byte of a REGISTERS operation."""
READ_ANSWER, WRITE_ANSWER = 5, 1
"""Bytes that a REGISTERS operation answers."""
NO_ANSWER = 0x80
"""In the place of an AXI response: the register did not answer in time."""
READS_MAX = PAYLOAD_MAX // READ_ANSWER - 1
"""Of one request: the device begins no operation for whose answer it may have no room."""

HELLO_ANSWER = struct.Struct("<BBHHHBxI")
"""Version, window, longest payload, sizes of input and output FIFO, bytes of a beat, nonce."""
NONCE_BYTES = 4
"""Of a HELLO, at the end of its answer."""


class Kind(IntEnum):
    """What a request asks for."""

    HELLO = 1
    REGISTERS = 2
    SEND = 3
    RECEIVE = 4


class Status(IntEnum):
    """What became of a request."""

    OK = 0
    OUT_OF_SEQUENCE = 1
    """A frame before this one is missing; the header's sequence number is the one expected."""
    NO_SESSION = 2
    """The device knows no such session: it was reset, or another host said HELLO."""
    NO_ROOM = 3
    """A SEND of more bytes than the input FIFO has free: none was taken."""
    BAD_REQUEST = 4
    """Unknown or malformed; register operations before the malformed one have been done."""


class Response(NamedTuple):
    """An answer of the device."""

    session: int
    sequence: int
    status: int
    last: bool
    drained: bool
    dropped: int
    free: int
    available: int
    payload: bytes


_RESPONSE = struct.Struct("<BBBBHH")
_ESCAPED = re.compile(rb"\x7d(.)", re.DOTALL)


def stuff(data: bytes) -> bytes:
    """`data` with each FLAG and ESCAPE escaped."""
    return data.replace(b"\x7d", b"\x7d\x5d").replace(b"\x7e", b"\x7d\x5e")


def frame(body: bytes) -> bytes:
    """The bytes on the line of a frame with this body."""
    return b"\x7e" + stuff(body + zlib.crc32(body).to_bytes(CRC_BYTES, "little")) + b"\x7e"


def request(session: int, sequence: int, kind: Kind, payload: bytes = b"", last: bool = False) -> bytes:
    """The frame of a request."""
    return frame(bytes((session, sequence, kind | (LAST if last else 0))) + payload)


def parse_response(body: bytes) -> Response:
    """The answer in a frame's body.  Raises ValueError if it is shorter than a header."""
    if len(body) < RESPONSE_HEADER:
        raise ValueError(f"{len(body)} bytes are no answer: {RESPONSE_HEADER} are its header")
    session, sequence, status, dropped, free, available = _RESPONSE.unpack_from(body)
    return Response(
        session,
        sequence,
        status & STATUS_MASK,
        bool(status & LAST),
        bool(status & DRAINED),
        dropped,
        free,
        available,
        body[RESPONSE_HEADER:],
    )


class FrameReader:
    """Cuts the bytes of a line into bodies of good frames; `bad` counts the others."""

    def __init__(self, body_max: int = SLOT_BYTES) -> None:
        self.bad = 0
        self._limit = 2 * (body_max + CRC_BYTES)
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies of the frames that end in `data`."""
        *ended, self._rest = (self._rest + data).split(b"\x7e")
        if len(self._rest) > self._limit:  # no flag for longer than any frame: noise
            self._rest = self._rest[: self._limit + 1]
        bodies = []
        for part in ended:
            if part:
                body = self._body(part)
                if body is None:
                    self.bad += 1
                else:
                    bodies.append(body)
        return bodies

    def _body(self, part: bytes) -> bytes | None:
        if len(part) > self._limit or part.endswith(b"\x7d"):
            return None
        if b"\x7d" in part:
            part = _ESCAPED.sub(lambda m: bytes((m[1][0] ^ ESCAPE_BIT,)), part)
        body, crc = part[:-CRC_BYTES], part[-CRC_BYTES:]
        return body if len(part) > CRC_BYTES and zlib.crc32(body).to_bytes(CRC_BYTES, "little") == crc else None
