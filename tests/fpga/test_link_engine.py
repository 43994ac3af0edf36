"""The host driver, unchanged, over the serial link to a whole board top: as golden, and a way back from faults."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from gradsieve.fpga import steps
from gradsieve.fpga.device import Device
from gradsieve.fpga.errors import DeviceError
from gradsieve.fpga.packets import Bytes
from gradsieve.golden.backward import backward
from gradsieve.golden.random_case import random_case
from gradsieve.golden.types import SieveMode
from gradsieve.hw.config import EngineConfig, preset
from gradsieve.hw.host.registers import COUNTERS_32, COUNTERS_64
from tests.conftest import session_seed
from tests.fpga.link.designs import DIVISOR
from tests.fpga.link.fixtures import engine_verilog, transport
from tests.fpga.link.port import BoardPort, Faults

CONFIG = preset("tiny")


@pytest.fixture
def port() -> Iterator[BoardPort]:
    """A board with the tiny engine."""
    port = BoardPort(engine_verilog(CONFIG), DIVISOR)
    yield port
    port.free()


def check(device: Device, seed: int, sizes: tuple[int, int, int, int] = (5, 4, 3, 2)) -> None:
    """One backward pass equals golden's."""
    mode = tuple(SieveMode)[seed % len(SieveMode)]
    case = random_case(CONFIG, seed, sizes=sizes, mode=mode)
    wrong = {k: n for k, n in device.backward(*case).differences(backward(CONFIG, *case)).items() if n}
    assert not wrong, f"seed {seed}: {wrong}"


def test_backward_equals_golden(port: BoardPort) -> None:
    device = Device(CONFIG, transport(port))
    for n in range(4):
        check(device, session_seed() + n)


def test_backward_equals_golden_over_a_bad_line(port: BoardPort) -> None:
    host = transport(port)
    device = Device(CONFIG, host)
    port.to_board, port.to_host = Faults("engine to board", 0.05), Faults("engine to host", 0.05)
    for n in range(4):
        check(device, session_seed() + n)
    assert host.statistics.retransmitted > 0
    assert port.to_board.done and port.to_host.done


def test_counters_in_one_request(port: BoardPort) -> None:
    host = transport(port)
    device = Device(CONFIG, host)
    check(device, 1)
    frames = host.statistics.frames
    counters = device.counters()
    assert host.statistics.frames == frames + 1
    one_by_one = {n: device.read(f"{n}_HIGH") << 32 | device.read(f"{n}_LOW") for n in COUNTERS_64}
    assert counters == one_by_one | {n: device.read(n) for n in COUNTERS_32}
    assert counters["CYCLES"] > 0


def test_another_config_is_refused(port: BoardPort) -> None:
    other = EngineConfig(**{**CONFIG.model_dump(mode="python"), "max_T": 5})
    with pytest.raises(DeviceError, match=CONFIG.digest):
        Device(other, transport(port))


def run_without_end(device: Device) -> Bytes:
    """Start a run and send half of its tape, which the engine goes on to wait for."""
    weights, tape, _, _ = random_case(CONFIG, 8, sizes=(5, 4, 3, 2), mode=SieveMode.DENSE, masks="none")
    packets = device.set_sizes(*tape.sizes)
    device.load_weights(packets, weights)
    device.command("start")
    whole = packets.tape(tape)
    return whole[: len(whole) // 2 // packets.beat_bytes * packets.beat_bytes]


def test_a_new_host_finds_a_clean_engine(port: BoardPort) -> None:
    """The host before it died in the middle of a run, with packets open both ways."""
    dead = transport(port, patience=0.1)
    half = run_without_end(Device(CONFIG, dead))
    dead._session.payload_max = 200  # so that there is something that is not marked as the last of its packet
    with pytest.raises(DeviceError, match="neither taken nor given"):
        dead.exchange(np.concatenate([half[:-8], half[-8:]]), 1 << 20)
    check(Device(CONFIG, transport(port)), 3)


@pytest.mark.parametrize("fault", ["unplug", "reset"])
def test_a_host_reconnects_in_the_middle_of_a_run(port: BoardPort, fault: str) -> None:
    host = transport(port, patience=0.5)
    device = Device(CONFIG, host)
    check(device, 4)
    half = run_without_end(device)
    at = port.monotonic() + 0.01
    if fault == "unplug":
        port.unplug_at = at
    else:
        port.reset_at = at
    with pytest.raises(DeviceError):
        host.exchange(half, 1 << 20)
    port.unplug_at = None
    device.reconnect()
    check(device, 5)


def test_an_engine_error_is_part_of_the_message(port: BoardPort) -> None:
    host = transport(port, patience=0.1)
    device = Device(CONFIG, host)
    half = run_without_end(device)
    with pytest.raises(DeviceError, match=r" taken; it reports PACKET_LENGTH \(code 3\): reconnect\(\) brings"):
        device.perform(steps.exchange(half, 1 << 20))
    device.reconnect()
    check(device, 6)


def test_an_empty_end_of_a_packet_arrives(port: BoardPort) -> None:
    """The closing beat of a packet that a soft reset cut off has no bytes."""
    host = transport(port)
    device = Device(CONFIG, host)
    weights, tape, _, _ = random_case(CONFIG, 9, sizes=(8, 8, 6, 6), mode=SieveMode.DENSE, masks="none")
    packets = device.set_sizes(*tape.sizes)
    device.load_weights(packets, weights)
    device.command("read")  # more than the output queue holds: it stays open
    while not device.field("STATUS", "output_open"):
        pass
    device.soft_reset()
    cut = host.receive(packets.gradients_bytes())
    assert 0 < len(cut) < packets.gradients_bytes()
    assert not torch.from_numpy(cut.copy()).any()
    check(device, 7)
