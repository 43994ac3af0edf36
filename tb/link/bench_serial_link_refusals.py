"""Bench of the serial link's refusals: requests that are malformed, too long or without room harm nothing."""

from __future__ import annotations

from gradsieve.fpga.link.protocol import (
    FIFO_BYTES,
    PAYLOAD_MAX,
    READS_MAX,
    WRITE,
    Kind,
    Response,
    Status,
    parse_response,
    request,
)
from gradsieve.tb.coverage import cover
from gradsieve.tb.environment import Bench, test
from gradsieve.tb.link.bench_serial_link import Link
from gradsieve.tb.serial_line import QUIET_CYCLES

_SESSION = 9
_CYCLES_OF_BYTE = 20
"""No request takes longer for a byte of its payload: a register's transfer is the longest."""
_MALFORMED: dict[str, tuple[int, bytes, bool]] = {
    "unknown kind": (0x21, b"", False),
    "unknown kind with a payload": (5, b"abc", False),
    "hello too long": (Kind.HELLO, bytes(PAYLOAD_MAX), False),
    "write cut off": (Kind.REGISTERS, bytes((0x10 | WRITE, 1, 2, 3)), False),
    "too many reads": (Kind.REGISTERS, bytes((0x10,)) * (READS_MAX + 2), False),
    "empty packet": (Kind.SEND, b"", True),
    "receive of nothing": (Kind.RECEIVE, b"", False),
    "receive of half a count": (Kind.RECEIVE, b"\1", False),
    "receive with more": (Kind.RECEIVE, b"\1\0\0", False),
}
_sample = cover("serial_link_refusals", {"malformed": list(_MALFORMED), "room": [False, True]})


async def answer(link: Link, sequence: int, kind: int, payload: bytes = b"", last: bool = False) -> Response:
    """The answer to one request."""
    link.uart.frames.clear()
    link.uart.patience = QUIET_CYCLES + _CYCLES_OF_BYTE * len(payload)
    link.uart.send(request(_SESSION, sequence, kind, payload, last))  # type: ignore[arg-type]
    await link.settle()
    (frame,) = link.uart.frames
    return parse_response(frame)


@test
async def malformed(bench: Bench) -> None:
    """Each malformed request is refused, and the next good one of every kind is executed as if it had not come."""
    link, same = await Link.start(bench), bench.scoreboard.equal
    for name, (kind, payload, last) in _MALFORMED.items():
        await answer(link, 0, Kind.HELLO, b"abcd")
        same(f"{name}: status", (await answer(link, 1, kind, payload, last)).status, Status.BAD_REQUEST)
        word = bench.rng.randbytes(4)
        operations = bytes((0x10 | WRITE, *word, 0x10))
        written = await answer(link, 2, Kind.REGISTERS, operations)
        same(f"{name}: register", (written.status, written.payload), (Status.OK, b"\0\0" + word))
        before = len(link.to_engine.values)
        beat = bench.rng.randbytes(bench.config.stream_width // 8)
        same(f"{name}: send", (await answer(link, 3, Kind.SEND, beat, True)).status, Status.OK)
        due = [{"data": int.from_bytes(beat, "little"), "last": 1}]
        same(f"{name}: beats", link.to_engine.values[before:], due)
        link.give(beat)
        await link.settle()
        got = await answer(link, 4, Kind.RECEIVE, b"\xff\xff")
        same(f"{name}: received", (got.status, got.payload, got.last), (Status.OK, beat, True))
        _sample({"malformed": name})


@test
async def no_room(bench: Bench) -> None:
    """A SEND of more than is free is refused whole; what fits is then taken, and nothing of the refused comes out."""
    link, same = await Link.start(bench), bench.scoreboard.equal
    link.to_engine.stall = iter(lambda: True, None)
    await answer(link, 0, Kind.HELLO, b"abcd")
    sequence, free, taken = 1, FIFO_BYTES, b""
    while free >= PAYLOAD_MAX:
        data = bench.rng.randbytes(PAYLOAD_MAX)
        sent = await answer(link, sequence, Kind.SEND, data)
        same("status with room", sent.status, Status.OK)
        sequence, free, taken = sequence + 1, sent.free, taken + data
        _sample({"room": True})
    refused = await answer(link, sequence, Kind.SEND, bytes(PAYLOAD_MAX), True)
    same("status without room", (refused.status, refused.free), (Status.NO_ROOM, free))
    _sample({"room": False})
    data = bench.rng.randbytes(free)
    filled = await answer(link, sequence + 1, Kind.SEND, data)
    same("status of what fits", (filled.status, filled.free), (Status.OK, 0))
    link.to_engine.stall = iter(lambda: False, None)
    size = bench.config.stream_width // 8
    whole = taken + data
    beats = [int.from_bytes(whole[n : n + size], "little") for n in range(0, len(whole) - size + 1, size)]
    await bench.came(link.to_engine, len(beats))
    await bench.run_for(100)
    bench.scoreboard.sequence("beat", [b["data"] for b in link.to_engine.values], beats)
