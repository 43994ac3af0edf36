"""The host's end of the serial link against the RTL of the device's: nothing is lost or wrong, come what may."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import numpy as np
import pytest

from gradsieve.fpga.errors import DeviceError
from gradsieve.fpga.link.protocol import (
    DRAINED,
    FIFO_BYTES,
    HELLO_ANSWER,
    PAYLOAD_MAX,
    READS_MAX,
    VERSION,
    WINDOW,
    Kind,
    frame,
    request,
)
from gradsieve.fpga.packets import Bytes
from tests.conftest import session_seed
from tests.fpga.link.designs import DIVISOR, SCRATCH, SILENT, STREAM, WRITES
from tests.fpga.link.fixtures import stub_verilog, transport
from tests.fpga.link.port import BoardPort, Faults

FRAMES = 10_000
SHARE = 0.01


@pytest.fixture
def port() -> Iterator[BoardPort]:
    """A board with the stub."""
    port = BoardPort(stub_verilog(), DIVISOR)
    yield port
    port.free()


def packet(rng: random.Random, beats: int) -> Bytes:
    """Random bytes, many of which must be escaped."""
    data = bytearray(rng.randbytes(4 * beats))
    for n in range(0, len(data), 9):
        data[n] = rng.choice((0x7E, 0x7D, 0x5E, data[n]))
    return np.frombuffer(bytes(data), np.uint8)


@pytest.mark.parametrize("beats", [1, 3, 124, 125, 512, 700, 3000])
def test_packets_of_all_lengths_come_back(port: BoardPort, beats: int) -> None:
    """Longer ones than all queues together, too: sent and received at once, neither waits for the other for ever."""
    host, rng = transport(port), random.Random(beats)
    for _ in range(2):
        data = packet(rng, beats)
        assert np.array_equal(host.exchange(data, len(data)), data)
    data = packet(rng, min(beats, 500))
    host.send(data)
    assert np.array_equal(host.receive(len(data)), data)
    assert host.statistics.retransmitted == 0


def test_packets_that_wait_for_each_other(port: BoardPort) -> None:
    host, rng = transport(port), random.Random(1)
    packets = [packet(rng, n) for n in (1, 30, 2, 90, 1)]
    for data in packets:
        host.send(data)
    for data in packets:
        assert np.array_equal(host.receive(len(data)), data)


def test_long_transfers_fill_the_line(port: BoardPort) -> None:
    host, rng = transport(port), random.Random(2)
    data = packet(rng, 5000)
    start = port.monotonic()
    host.exchange(data, len(data))
    least = len(data) * 10 * DIVISOR / 1_000_000
    assert port.monotonic() - start < 1.4 * least


def faulty(port: BoardPort, seed: int, share: float) -> tuple[Faults, Faults]:
    """Faults from now on, both ways."""
    port.to_board, port.to_host = Faults(f"{seed} to board", share), Faults(f"{seed} to host", share)
    return port.to_board, port.to_host


def traffic(port: BoardPort, seed: int, frames: int, share: float) -> tuple[int, int]:
    """Packets and register writes until the host has sent so many frames; returns the faulty ones of both ways."""
    host, rng = transport(port), random.Random(seed)
    to_board, to_host = faulty(port, seed, share)
    writes = 0
    while to_board.frames < frames:
        data = packet(rng, rng.choice((1, 1, 2, 2, 5, 9, rng.randint(1, 150))))
        assert np.array_equal(host.exchange(data, len(data)), data), f"seed {seed}"
        for _ in range(2):
            word = rng.getrandbits(32)
            host.write_register(SCRATCH, word)
            writes += 1
            assert host.read_registers([SCRATCH, WRITES]) == [word, writes], f"seed {seed}"
    assert host.statistics.frames <= to_board.frames + 1  # the first HELLO came before the faults
    return sum(to_board.done.values()), sum(to_host.done.values())


def test_ten_thousand_frames_with_one_in_a_hundred_faulty(port: BoardPort) -> None:
    lost_to_board, lost_to_host = traffic(port, session_seed(), FRAMES, SHARE)
    assert port.to_board is not None and port.to_host is not None
    # both ways within six standard deviations of the share
    assert lost_to_board > 40 and lost_to_host > 40
    assert set(port.to_board.done) == set(port.to_host.done) == set(Faults.KINDS)


def test_one_frame_in_ten_faulty(port: BoardPort) -> None:
    assert min(traffic(port, session_seed() + 1, 300, 0.1)) > 10


def test_a_deaf_board_is_waited_for(port: BoardPort) -> None:
    """Frames lost for longer than a few retries, but shorter than the silence that ends a session."""
    host = transport(port, silence=4.0)
    host.write_register(SCRATCH, 1)
    port.deaf_until = port.monotonic() + 0.5
    assert host.read_registers([SCRATCH, WRITES]) == [1, 1]
    assert 2 <= host.statistics.retransmitted <= 5, "it must back off"


def test_registers(port: BoardPort) -> None:
    host = transport(port)
    host.write_register(SCRATCH, 0xFFFFFFFF)
    assert host.read_registers([SCRATCH] * (2 * READS_MAX + 1)) == [0xFFFFFFFF] * (2 * READS_MAX + 1)
    assert host.read_registers([]) == []
    with pytest.raises(DeviceError, match="the read of register 0x70 was refused: there is no such register"):
        host.read_register(0x70)
    with pytest.raises(DeviceError, match="the write to register 0x70 was refused"):
        host.write_register(0x70, 1)
    with pytest.raises(DeviceError, match="no answer to a read of register 0x48"):
        host.read_register(SILENT)
    host.reconnect()
    assert host.read_register(SCRATCH) == 0xFFFFFFFF


def test_an_engine_that_takes_nothing(port: BoardPort) -> None:
    host = transport(port, patience=0.5)
    host.write_register(STREAM, 1)
    data = packet(random.Random(3), 2000)
    with pytest.raises(DeviceError, match=r"neither taken nor given a byte for 0\.5 s, after 1984 of 8000 bytes"):
        host.exchange(data, len(data))
    assert host.read_register(WRITES) == 1, "registers can still be read"
    with pytest.raises(DeviceError, match=r"an earlier transfer on .* failed: reconnect\(\)"):
        host.receive(4)
    host.write_register(STREAM, 0)
    host.reconnect()
    assert np.array_equal(host.exchange(data, len(data)), data)


def test_sent_means_taken_by_the_engine(port: BoardPort) -> None:
    """A command that follows a packet must find it there."""
    host = transport(port, patience=0.1)
    host.write_register(STREAM, 1)
    with pytest.raises(DeviceError, match="after 4 of 4 bytes were sent"):
        host.send(packet(random.Random(12), 1))


def test_an_engine_that_gives_too_much(port: BoardPort) -> None:
    host = transport(port)
    host.send(packet(random.Random(4), 3))
    with pytest.raises(DeviceError, match="sent more than the 8 bytes that were due"):
        host.receive(8)
    host.reconnect()
    data = packet(random.Random(5), 2)
    assert np.array_equal(host.exchange(data, 8), data)


def test_a_shorter_packet_than_is_due_is_no_error(port: BoardPort) -> None:
    host, data = transport(port), packet(random.Random(6), 3)
    host.send(data)
    assert np.array_equal(host.receive(4000), data)


def test_unplugged_in_the_middle(port: BoardPort) -> None:
    host, data = transport(port), packet(random.Random(7), 2000)
    port.unplug_at = port.monotonic() + 0.1
    with pytest.raises(DeviceError, match="was the board unplugged\\?  Plug it in; reconnect"):
        host.exchange(data, len(data))
    with pytest.raises(DeviceError, match=r"the session on .* has ended"):
        host.read_register(SCRATCH)
    with pytest.raises(DeviceError, match="cannot be opened"):
        host.reconnect()
    port.unplug_at = None
    host.reconnect()
    assert np.array_equal(host.exchange(data, len(data)), data)


def test_silent_from_some_moment_on(port: BoardPort) -> None:
    host = transport(port)
    port.deaf_until = float("inf")
    start = port.monotonic()
    with pytest.raises(DeviceError, match=r"has not answered for 2\.0 s: is it still plugged in and powered\?"):
        host.read_register(SCRATCH)
    assert 2.0 < port.monotonic() - start < 2.2
    port.deaf_until = 0.0
    host.reconnect()
    host.write_register(SCRATCH, 1)


def test_no_board(port: BoardPort) -> None:
    port.deaf_until = float("inf")
    with pytest.raises(DeviceError, match=r"no board answers on BoardPort at 250000 baud within 2\.0 s: is it powered"):
        transport(port)
    assert 2.0 <= port.monotonic() < 2.1


def test_board_reset_in_the_middle(port: BoardPort) -> None:
    host, data = transport(port), packet(random.Random(8), 2000)
    port.reset_at = port.monotonic() + 0.1
    with pytest.raises(DeviceError, match="was reset, or is used by another program: reconnect"):
        host.exchange(data, len(data))
    host.reconnect()
    assert np.array_equal(host.exchange(data, len(data)), data)
    assert host.read_register(WRITES) == 0


def test_another_host_takes_the_board_over(port: BoardPort) -> None:
    first = transport(port)
    first.write_register(SCRATCH, 7)
    second = transport(port)
    assert second.read_register(SCRATCH) == 7
    with pytest.raises(DeviceError, match="was reset, or is used by another program"):
        first.read_register(SCRATCH)


def test_answers_of_an_older_session_are_passed_over(port: BoardPort) -> None:
    host = transport(port)
    old = host._session._id
    welcome = HELLO_ANSWER.pack(VERSION, 77, PAYLOAD_MAX, FIFO_BYTES, FIFO_BYTES, 4, host._session._nonce)
    port.late = frame(struct.pack("<BBBBHH", old, 255, DRAINED, 0, FIFO_BYTES, 0) + welcome)
    # the board answers this while the host begins anew, and goes on to do so
    port.inject(request(old, 0, Kind.RECEIVE, b"\0\0") * 5)
    host.reconnect()
    assert host._session.window == WINDOW
    port.inject(request(old, 0, Kind.REGISTERS, bytes((SCRATCH | 1, 9, 9, 9, 9))) * 3)
    assert host.read_registers([SCRATCH, WRITES]) == [0, 0]


def test_statistics_add_up(port: BoardPort) -> None:
    host, data = transport(port), packet(random.Random(9), 400)
    before = host.statistics.bytes_sent, host.statistics.bytes_received
    host.exchange(data, len(data))
    s = host.statistics
    assert s.bytes_sent - before[0] > len(data) and s.bytes_received - before[1] > len(data)
    assert 0 < s.seconds < port.monotonic()
    assert (s.bad_frames, s.bad_requests, s.retransmitted) == (0, 0, 0)
    port.inject(b"\x7enoise\x7e")
    port.deaf_until = port.monotonic() + 0.02
    host.write_register(SCRATCH, 1)
    assert (s.bad_frames, s.bad_requests) == (0, 1) and s.retransmitted >= 1
    port.ready += b"\x7enoise\x7e"
    assert host.read_register(WRITES) == 1
    assert s.bad_frames == 1


def test_waiting_for_the_engine_is_no_transfer(port: BoardPort) -> None:
    host, data = transport(port, patience=0.2), packet(random.Random(11), 300)
    host.exchange(data, len(data))
    moving = host.statistics.seconds
    assert host.statistics.waiting_seconds < 0.1 * moving
    with pytest.raises(DeviceError, match="after 0 of 0 bytes were sent and 0 taken"):
        host.receive(4)
    waited = host.statistics.seconds - moving
    assert waited >= 0.2
    assert 0.9 * waited < host.statistics.waiting_seconds < waited + 0.1 * moving


def test_the_input_queue_is_never_overrun(port: BoardPort) -> None:
    """With the engine stopped, as much is sent as the queue holds, and no request is refused."""
    host = transport(port, patience=0.2)
    host.write_register(STREAM, 1)
    with pytest.raises(DeviceError, match="neither taken nor given"):
        host.send(packet(random.Random(10), 3000))
    assert host._session.free < host._session.payload_max
