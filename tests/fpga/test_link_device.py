"""The device's end of the serial link, frame by frame, in its RTL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gradsieve.fpga.link.protocol import (
    FIFO_BYTES,
    HELLO_ANSWER,
    NO_ANSWER,
    PAYLOAD_MAX,
    READS_MAX,
    VERSION,
    WINDOW,
    WRITE,
    Kind,
    Response,
    Status,
    frame,
    request,
)
from gradsieve.fpga.link.uart import check_divisor
from tests.fpga.link.designs import DIVISOR, SCRATCH, SILENT, STREAM, STUB_WIDTH, WRITES
from tests.fpga.link.fixtures import Line, stub_verilog
from tests.fpga.link.port import BoardPort

SESSION, NONCE = 0x2A, bytes.fromhex("7e7d5e00")
HELLO = request(SESSION, 255, Kind.HELLO, NONCE)


@pytest.fixture
def line() -> Iterator[Line]:
    """A board in a session."""
    port = BoardPort(stub_verilog(), DIVISOR)
    line = Line(port)
    assert line.answer(HELLO).status == Status.OK
    yield line
    port.free()


def ask(line: Line, sequence: int, kind: int, payload: bytes = b"", last: bool = False) -> Response:
    """The answer to one request of the session."""
    return line.answer(request(SESSION, sequence, kind, payload, last))  # type: ignore[arg-type]


def write(address: int, value: int) -> bytes:
    """A write operation of REGISTERS."""
    return bytes((address | WRITE,)) + value.to_bytes(4, "little")


def writes(line: Line, sequence: int) -> int:
    """The writes that the stub has seen."""
    answer = ask(line, sequence, Kind.REGISTERS, bytes((WRITES,))).payload
    assert answer[0] == 0
    return int.from_bytes(answer[1:], "little")


def test_hello_tells_what_the_host_must_know(line: Line) -> None:
    answer = line.answer(HELLO)
    assert (answer.session, answer.sequence, answer.status) == (SESSION, 255, Status.OK)
    due = (VERSION, WINDOW, PAYLOAD_MAX, FIFO_BYTES, FIFO_BYTES, STUB_WIDTH // 8, int.from_bytes(NONCE, "little"))
    assert HELLO_ANSWER.unpack(answer.payload) == due
    assert (answer.free, answer.available, answer.drained) == (FIFO_BYTES, 0, True)
    assert line.answer(request(SESSION, 3, Kind.HELLO, bytes(PAYLOAD_MAX))).status == Status.BAD_REQUEST
    assert ask(line, 4, Kind.RECEIVE, b"\0\0").status == Status.OK


def test_nothing_is_done_without_a_session() -> None:
    port = BoardPort(stub_verilog(), DIVISOR)
    line = Line(port)
    for session in (0, SESSION):
        answer = line.answer(request(session, 0, Kind.REGISTERS, write(SCRATCH, 1)))
        assert (answer.session, answer.status) == (session, Status.NO_SESSION)
    line.answer(HELLO)
    assert writes(line, 0) == 0
    port.reset_board()
    assert ask(line, 1, Kind.REGISTERS, write(SCRATCH, 1)).status == Status.NO_SESSION
    port.free()


def test_a_frame_of_an_older_session_does_nothing(line: Line) -> None:
    stale = request(SESSION - 1, 0, Kind.REGISTERS, write(SCRATCH, 1))
    assert line.answer(stale).status == Status.NO_SESSION
    assert writes(line, 0) == 0


def test_a_request_is_executed_once_however_often_it_comes(line: Line) -> None:
    first = [line.answer(request(SESSION, n, Kind.REGISTERS, write(SCRATCH, n) + b"\x44")) for n in range(6)]
    assert [a.payload[2] for a in first] == [1, 2, 3, 4, 5, 6]
    for n in range(6 - WINDOW, 6):  # the answers that are kept
        assert ask(line, n, Kind.REGISTERS, write(SCRATCH, 99)) == first[n]
    assert writes(line, 6) == 6
    twice = request(SESSION, 7, Kind.SEND, b"abcd", True)
    assert [a.status for a in line.answers(twice, twice)] == [Status.OK, Status.OK]
    answer = ask(line, 8, Kind.RECEIVE, b"\xff\0")
    assert (answer.payload, answer.last, answer.available) == (b"abcd", True, 0)


def test_a_gap_is_told_once(line: Line) -> None:
    later = [request(SESSION, n, Kind.REGISTERS, write(SCRATCH, n)) for n in (1, 2, 3)]
    (answer,) = line.answers(*later)
    assert (answer.status, answer.sequence) == (Status.OUT_OF_SEQUENCE, 0)
    assert writes(line, 0) == 0
    # after the frame that was missing, a new gap is told again
    (answer,) = line.answers(request(SESSION, 200, Kind.RECEIVE, b"\0\0"))
    assert (answer.status, answer.sequence) == (Status.OUT_OF_SEQUENCE, 1)
    assert [a.sequence for a in line.answers(*later)] == [1, 2, 3]


def test_an_answer_that_is_no_longer_kept_is_a_gap(line: Line) -> None:
    for n in range(WINDOW + 1):
        assert ask(line, n, Kind.RECEIVE, b"\0\0").status == Status.OK
    assert ask(line, 1, Kind.RECEIVE, b"\0\0").status == Status.OK
    assert ask(line, 0, Kind.RECEIVE, b"\0\0").status == Status.OUT_OF_SEQUENCE


def test_nothing_from_before_hello_is_answered_again(line: Line) -> None:
    for n in range(3):
        ask(line, n, Kind.REGISTERS, write(SCRATCH, n))
    line.answer(HELLO)
    assert ask(line, 254, Kind.RECEIVE, b"\0\0").status == Status.OUT_OF_SEQUENCE
    assert ask(line, 0, Kind.RECEIVE, b"\0\0").status == Status.OK


def test_sequence_numbers_wrap(line: Line) -> None:
    for n in range(258):
        answer = line.answers(request(SESSION, n & 0xFF, Kind.REGISTERS, write(SCRATCH, n)))
        assert [(a.status, a.sequence) for a in answer] == [(Status.OK, n & 0xFF)]
    assert writes(line, 2) == 258


def test_registers_in_one_request(line: Line) -> None:
    operations = write(SCRATCH, 0x7E7D7E7D) + bytes((SCRATCH,)) + write(0x70, 1) + bytes((0x70, WRITES))
    answer = ask(line, 0, Kind.REGISTERS, operations)
    assert answer.status == Status.OK
    assert answer.payload.hex(" ") == "00 00 7d 7e 7d 7e 02 02 00 00 00 00 00 02 00 00 00"
    most = ask(line, 1, Kind.REGISTERS, bytes((SCRATCH,)) * READS_MAX)
    assert most.status == Status.OK
    assert most.payload == bytes.fromhex("007d7e7d7e") * READS_MAX
    too_many = ask(line, 2, Kind.REGISTERS, bytes((SCRATCH,)) * (READS_MAX + 2))
    assert too_many.status == Status.BAD_REQUEST
    assert most.payload.startswith(too_many.payload[:-5])
    assert ask(line, 3, Kind.REGISTERS).payload == b""


@pytest.mark.parametrize("operation", [bytes((SILENT,)), write(SILENT, 1)])
def test_a_silent_register_takes_bounded_time(line: Line, operation: bytes) -> None:
    answer = ask(line, 0, Kind.REGISTERS, bytes((SCRATCH,)) + operation + bytes((SCRATCH,)))
    assert answer.status == Status.OK
    silent = answer.payload[5:]
    assert silent[0] == NO_ANSWER
    assert silent[-5] == NO_ANSWER, "a late answer could be taken for that of the next transfer"
    line.answer(HELLO)
    answer = ask(line, 0, Kind.REGISTERS, write(SCRATCH, 5) + bytes((SCRATCH,)))
    assert answer.payload.hex() == "000005000000"


@pytest.mark.parametrize(
    ("kind", "payload", "last"),
    [
        (0, b"", False),
        (5, b"abc", False),
        (0x21, b"", False),
        (Kind.REGISTERS, bytes((SCRATCH | WRITE, 1, 2, 3)), False),
        (Kind.SEND, b"", True),
        (Kind.RECEIVE, b"", False),
        (Kind.RECEIVE, b"\1", False),
        (Kind.RECEIVE, b"\1\0\0", False),
    ],
)
def test_malformed_requests_are_refused_and_harm_nothing(line: Line, kind: int, payload: bytes, last: bool) -> None:
    assert ask(line, 0, kind, payload, last).status == Status.BAD_REQUEST
    assert writes(line, 1) == 0
    assert ask(line, 2, Kind.SEND, b"abcd", True).status == Status.OK
    assert ask(line, 3, Kind.RECEIVE, b"\xff\xff").payload == b"abcd"


def test_a_send_without_room_takes_nothing(line: Line) -> None:
    ask(line, 0, Kind.REGISTERS, write(STREAM, 1))
    sequence, free = 1, FIFO_BYTES
    data = bytes(range(250)) + b"\x7e\x7d"
    while free >= len(data):
        answer = ask(line, sequence, Kind.SEND, data)
        assert answer.status == Status.OK
        sequence, free = sequence + 1, answer.free
    assert free < len(data)
    refused = ask(line, sequence, Kind.SEND, data, True)
    assert (refused.status, refused.free, refused.drained) == (Status.NO_ROOM, free, False)
    fits = ask(line, sequence + 1, Kind.SEND, bytes(free))
    assert (fits.status, fits.free) == (Status.OK, 0)
    assert ask(line, sequence + 2, Kind.SEND, b"x").status == Status.NO_ROOM
    ask(line, sequence + 3, Kind.REGISTERS, write(STREAM, 0))
    out = b""
    for n in range(sequence + 4, sequence + 30):
        answer = ask(line, n, Kind.RECEIVE, (PAYLOAD_MAX + 300).to_bytes(2, "little"))
        assert len(answer.payload) <= PAYLOAD_MAX
        out += answer.payload
    sent = data * (sequence - 1) + bytes(free)
    assert out == sent[: len(sent) // 4 * 4]


def test_packets_end_where_they_end(line: Line) -> None:
    for n, packet in enumerate((b"abcdefgh", b"ijkl", b"mnopq")):
        assert ask(line, n, Kind.SEND, packet, True).status == Status.OK
    answers = [ask(line, n, Kind.RECEIVE, bytes((size, 0))) for n, size in enumerate((5, 3, 4, 255, 255), 3)]
    assert [(a.payload, a.last) for a in answers] == [
        (b"abcde", False),
        (b"fgh", True),
        (b"ijkl", True),
        (b"mnopq\0\0\0", True),  # filled up to a beat
        (b"", False),
    ]


def test_hello_empties_the_queues(line: Line) -> None:
    ask(line, 0, Kind.SEND, b"abcd", True)
    ask(line, 1, Kind.REGISTERS, write(STREAM, 1))
    answer = ask(line, 2, Kind.SEND, b"efghijklmnop")
    assert (answer.available, answer.drained) == (5, False)  # with the end of the packet
    answer = line.answer(HELLO)
    assert (answer.free, answer.available, answer.drained) == (FIFO_BYTES, 0, True)


def test_bad_frames_are_dropped_and_counted(line: Line) -> None:
    good = request(SESSION, 0, Kind.REGISTERS, write(SCRATCH, 1))
    before = line.answer(HELLO).dropped
    flipped = bytes((*good[:5], good[5] ^ 4, *good[6:]))
    bad = (
        flipped,
        good[:-2] + b"\x7e",
        frame(b"\x2a\0"),
        b"\x7e\x7d\x7e",
        good[:8] + b"\x7d\x7e",
        b"\x7e\x01\x02\x03\x7e",
    )
    assert line.answers(*bad) == []
    assert line.answers(b"\x7e" * 9) == []
    answer = line.answer(good)
    assert (answer.status, answer.sequence) == (Status.OK, 0)
    assert answer.dropped - before == len(bad)
    assert writes(line, 1) == 1


def test_more_requests_than_fit_are_dropped_whole(line: Line) -> None:
    line.answer(HELLO)
    reads = request(SESSION, 0, Kind.REGISTERS, bytes((SCRATCH,)) * READS_MAX)
    flood = request(SESSION, 1, Kind.SEND, bytes(PAYLOAD_MAX))
    # the answer to the reads takes five times as long as its request: the flood waits behind it
    answers = line.answers(*[reads] * 12, flood, *[flood] * 6)
    assert {a.status for a in answers} == {Status.OK}
    assert len([a for a in answers if a.sequence == 1]) < 7
    assert answers[-1].dropped > 0
    assert ask(line, 2, Kind.REGISTERS, bytes((WRITES,))).status == Status.OK


def test_a_divisor_below_four_is_refused() -> None:
    with pytest.raises(ValueError, match="divisor must be at least 4 clock cycles a bit, got 3"):
        check_divisor(3)
