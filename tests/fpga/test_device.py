"""The host driver: accumulation, requantized reads, faults and the way back from each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch

from gradsieve.fpga.device import Device
from gradsieve.fpga.errors import DeviceError
from gradsieve.fpga.packets import PacketFormat
from gradsieve.fpga.simulator import Simulator
from gradsieve.golden.backward import backward
from gradsieve.golden.random_case import random_case
from gradsieve.golden.types import SieveMode
from gradsieve.hw.config import EngineConfig, preset
from gradsieve.hw.host.registers import ErrorCode
from gradsieve.rtl_gen.register_map import identity
from tests.fpga.conftest import simulator

CONFIG = preset("tiny")
SIZES = (7, 5, 5, 4)


def case(seed: int = 3, mode: SieveMode = SieveMode.ROW, extreme: bool = False):  # type: ignore[no-untyped-def]
    return random_case(CONFIG, seed, sizes=SIZES, mode=mode, masks="none", extreme=extreme)


@pytest.fixture
def device(devices: Callable[[EngineConfig], Device]) -> Device:
    """The session's tiny engine, after a soft reset."""
    device = devices(CONFIG)
    simulator(device).disturb(0, 0, 0)
    if device.read("STATUS") & 0x2:
        device.soft_reset(resync=True)
    device.soft_reset()
    return device


def clean_run(device: Device) -> None:
    """What every recovery must lead to."""
    for seed in (5, 6):
        inputs = case(seed, SieveMode.STOCHASTIC, extreme=True)
        assert device.backward(*inputs).mismatches(backward(CONFIG, *inputs)) == 0


def test_gradients_accumulate_over_runs(device: Device) -> None:
    weights, tape, sieve, masks = case(1)
    _, tape_2, sieve_2, _ = case(2)
    packets = device.set_sizes(*SIZES)
    device.load_weights(packets, weights)
    device.run(packets, tape, sieve, masks)
    device.run(packets, tape_2, sieve_2, masks)
    assert device.read("TERMS") == 2 * SIZES[2] * SIZES[3]
    read = device.read_gradients(packets)
    first, second = backward(CONFIG, weights, tape, sieve), backward(CONFIG, weights, tape_2, sieve_2)
    assert torch.equal(read.w_ih, first.dw_ih + second.dw_ih)
    assert torch.equal(read.w_hh, first.dw_hh + second.dw_hh)
    assert torch.equal(read.b, first.db + second.db)
    assert device.read("TERMS") == 0


def test_kept_gradients_can_be_read_again(device: Device) -> None:
    weights, tape, sieve, masks = case()
    packets = device.set_sizes(*SIZES)
    device.load_weights(packets, weights)
    device.run(packets, tape, sieve, masks)
    reads = [device.read_gradients(packets, keep=True), device.read_gradients(packets), device.read_gradients(packets)]
    golden = backward(CONFIG, weights, tape, sieve)
    assert torch.equal(reads[0].w_hh, golden.dw_hh) and torch.equal(reads[1].w_hh, golden.dw_hh)
    assert all(not t.any() for t in (reads[2].w_ih, reads[2].w_hh, reads[2].b))


def requantized(values: torch.Tensor, shift: int) -> tuple[list[int], int]:
    """32-bit elements and their saturations, by fractions: Python rounds halves to even."""
    low, high = -(1 << 31), (1 << 31) - 1
    rounded = [round(Fraction(int(v), 1 << shift)) for v in values.flatten()]
    return [min(max(v, low), high) for v in rounded], sum(not low <= v <= high for v in rounded)


@pytest.mark.parametrize("fraction", [0, 3, 8, 12])
@pytest.mark.parametrize("extreme", [False, True])
def test_requantized_read(device: Device, fraction: int, extreme: bool) -> None:
    weights, tape, sieve, masks = case(9, SieveMode.DENSE, extreme)
    packets = device.set_sizes(*SIZES)
    device.load_weights(packets, weights)
    device.run(packets, tape, sieve, masks)
    read = device.read_gradients(packets, exact=False, fraction=fraction)
    golden = backward(CONFIG, weights, tape, sieve, masks)
    f = CONFIG.formats
    saturations = 0
    for got, exact, form in (
        (read.w_ih, golden.dw_ih, f.weight_grad),
        (read.w_hh, golden.dw_hh, f.weight_grad),
        (read.b, golden.db, f.bias_grad),
    ):
        want, saturated = requantized(exact, form.fraction - fraction)
        assert got.flatten().tolist() == want
        saturations += saturated
    assert device.read("SATURATED_READ") == saturations


def test_run_without_seed_and_state(device: Device) -> None:
    weights, tape, _, _ = case(4)
    zero = torch.zeros_like(tape.dh)
    tape = type(tape)(**{**vars(tape), "dh": zero, "dc": zero})
    packets = device.set_sizes(*SIZES)
    device.load_weights(packets, weights)
    device.transport.send(packets.seed(zero + 7, zero - 3))  # must not matter
    device.write_fields("MODE", sieve=0)
    device.command("start")
    result = packets.result(device.transport.exchange(packets.tape(tape), packets.result_bytes(False)), False)
    device.wait_idle()
    golden = backward(CONFIG, weights, tape)
    assert torch.equal(result.dx, golden.dx) and result.dh0 is None
    assert torch.equal(device.read_gradients(packets).w_hh, golden.dw_hh)


def expect(device: Device, code: ErrorCode, fatal: bool) -> None:
    simulator(device).wait(50)
    assert device.error() is code
    assert bool(device.field("STATUS", "fatal")) is fatal
    assert not device.field("STATUS", "busy")


@pytest.mark.parametrize("register", ["H", "I", "B", "T"])
@pytest.mark.parametrize("value", [0, 9, 1 << 20])
def test_bad_size_is_refused_and_harms_nothing(device: Device, register: str, value: int) -> None:
    weights, tape, sieve, masks = case()
    packets = device.set_sizes(*SIZES)
    device.load_weights(packets, weights)
    device.run(packets, tape, sieve, masks)
    good = device.read(register)
    device.write(register, value)
    device.command("start")
    expect(device, ErrorCode.BAD_SIZE, fatal=False)
    device.write(register, good)
    device.acknowledge()
    assert torch.equal(device.read_gradients(packets).w_hh, backward(CONFIG, weights, tape, sieve).dw_hh)
    clean_run(device)


def test_packet_of_unknown_kind(device: Device) -> None:
    device.set_sizes(*SIZES)
    packet = np.zeros(8, np.uint8)
    packet[0] = 77
    device.transport.send(packet)
    expect(device, ErrorCode.PACKET_KIND, fatal=True)
    device.acknowledge()
    assert device.error() is ErrorCode.PACKET_KIND, "a fatal error was acknowledged away"
    device.soft_reset()
    clean_run(device)


@pytest.mark.parametrize("kind", ["weights", "tape", "seed", "block", "column"])
@pytest.mark.parametrize("beats", [-3, -1, 1, 3])
def test_packet_of_wrong_length(device: Device, kind: str, beats: int) -> None:
    weights, tape, _, _ = case()
    packets = device.set_sizes(*SIZES)
    tiles = packets.of_run.x_tiles + packets.of_run.h_tiles
    packet = {
        "weights": lambda: packets.weights(weights)[1],
        "tape": lambda: packets.tape(tape),
        "seed": lambda: packets.seed(tape.dh, tape.dc),
        "block": lambda: packets.block_mask(torch.ones(4 * SIZES[0], tiles, dtype=torch.bool)),
        "column": lambda: packets.column_mask(torch.ones(SIZES[3], tiles, dtype=torch.bool)),
    }[kind]()
    size = beats * packets.beat_bytes
    packet = packet[:size] if beats < 0 else np.pad(packet, (0, size))
    if kind == "tape":
        device.load_weights(packets, weights)
        device.command("start")
    transport = simulator(device)
    transport.quiet_cycles = 3000
    if kind == "tape":
        # the result never ends: the host's receive gives up, and the soft reset closes it
        with contextlib.suppress(DeviceError):
            transport.exchange(packet, packets.result_bytes())
    else:
        transport.send(packet)
    transport.wait(3000)
    assert device.error() is ErrorCode.PACKET_LENGTH
    assert device.field("STATUS", "fatal")
    open_packet = device.field("STATUS", "output_open")
    device.soft_reset()
    if open_packet:
        rest = transport.receive(packets.result_bytes())
        assert len(rest) <= packets.beat_bytes
    clean_run(device)


def test_packet_during_a_run(device: Device) -> None:
    weights, _, _, _ = case()
    packets = device.set_sizes(*SIZES)
    device.load_weights(packets, weights)
    device.command("start")
    simulator(device).wait(20)  # a packet whose header came before the run began is loaded first
    device.transport.send(packets.weights(weights)[0])
    assert device.error() is ErrorCode.PACKET_KIND
    device.soft_reset()
    clean_run(device)


def test_start_while_busy_leaves_the_run_alone(device: Device) -> None:
    weights, tape, sieve, _ = case(8, SieveMode.DENSE)
    packets = device.set_sizes(*SIZES)
    device.load_weights(packets, weights)
    device.transport.send(packets.seed(tape.dh, tape.dc))
    device.write_fields("MODE", seed=1, state_out=1)
    device.command("start")
    for name in ("start", "read", "clear"):
        device.command(name)
    assert device.error() is ErrorCode.BUSY
    result = packets.result(device.transport.exchange(packets.tape(tape), packets.result_bytes()))
    golden = backward(CONFIG, weights, tape, sieve)
    assert torch.equal(result.dx, golden.dx)
    simulator(device).wait(200)
    device.acknowledge()
    assert torch.equal(device.read_gradients(packets).w_ih, golden.dw_ih)
    clean_run(device)


def test_too_many_terms(device: Device) -> None:
    config = CONFIG
    sizes = (1, 1, config.max_B, config.max_T)
    weights, tape, sieve, _ = random_case(config, 1, sizes=sizes, mode=SieveMode.DENSE, masks="none")
    packets = device.set_sizes(*sizes)
    device.load_weights(packets, weights)
    golden, runs = backward(config, weights, tape, sieve), config.max_terms // (config.max_B * config.max_T)
    for _ in range(runs):
        device.write_fields("MODE", seed=0)
        device.command("start")
        device.transport.exchange(packets.tape(tape), packets.result_bytes(False))
        device.wait_idle()
    assert device.read("TERMS") == runs * config.max_B * config.max_T
    device.command("start")
    expect(device, ErrorCode.TOO_MANY_TERMS, fatal=False)
    device.acknowledge()
    zero = torch.zeros_like(tape.dh)
    golden = backward(config, weights, type(tape)(**{**vars(tape), "dh": zero, "dc": zero}), sieve)
    read = device.read_gradients(packets)
    assert torch.equal(read.w_ih, runs * golden.dw_ih) and torch.equal(read.b, runs * golden.db)
    clean_run(device)


def test_bad_modes(device: Device) -> None:
    device.set_sizes(*SIZES)
    device.write_fields("MODE", sieve=3)
    device.write("RANDOM", 0)
    device.command("start")
    expect(device, ErrorCode.BAD_MODE, fatal=False)
    device.acknowledge()
    device.write_fields("READ_MODE", fraction=CONFIG.formats.bias_grad.fraction + 1)
    device.command("read")
    expect(device, ErrorCode.BAD_MODE, fatal=False)
    device.acknowledge()
    clean_run(device)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.97])
@pytest.mark.parametrize("resync", [False, True])
def test_soft_reset_in_the_middle_of_a_run(device: Device, share: float, resync: bool) -> None:
    weights, tape, _, _ = case(8, SieveMode.DENSE)
    packets = device.set_sizes(*SIZES)
    device.load_weights(packets, weights)
    device.command("start")
    packet = packets.tape(tape)
    cut = int(len(packet) * share) // packets.beat_bytes * packets.beat_bytes
    transport = simulator(device)
    transport.quiet_cycles = 2000
    with pytest.raises(DeviceError):  # the result does not end
        transport.stream(packet[:cut], packets.result_bytes(), end_packet=False)
    device.soft_reset(resync=resync)
    if device.field("STATUS", "output_open"):
        assert len(transport.receive(packets.result_bytes())) <= packets.beat_bytes
    if cut and not resync:
        transport.send(packet[cut:])  # thrown away to its end
    clean_run(device)


def test_hard_reset_in_the_middle_of_a_run(device: Device) -> None:
    weights, tape, _, _ = case()
    packets = device.set_sizes(*SIZES)
    device.load_weights(packets, weights)
    device.command("start")
    simulator(device).stream(packets.tape(tape)[:400], 0, end_packet=False, await_packet=False)
    simulator(device).reset()
    clean_run(Device(CONFIG, simulator(device)))


def test_a_new_device_finds_a_clean_engine(device: Device) -> None:
    """The host before it went while a packet was on its way out, and another on its way in."""
    weights, _, _, _ = case()
    packets = device.set_sizes(*SIZES)
    simulator(device).stream(packets.weights(weights)[0][:16], 0, end_packet=False, await_packet=False)
    device.command("read")
    simulator(device).wait(100)
    assert device.field("STATUS", "output_open") and device.field("STATUS", "input_open")
    new = Device(CONFIG, simulator(device))
    assert new.read("STATUS") == 0
    clean_run(new)


def test_wrong_config_is_refused(devices: Callable[[EngineConfig], Device]) -> None:
    other = EngineConfig(**{**CONFIG.model_dump(mode="python"), "max_T": 5})
    with pytest.raises(DeviceError, match=CONFIG.digest):
        Device(other, devices(CONFIG).transport)


def test_sizes_over_the_engine_are_refused_before_any_work(device: Device) -> None:
    with pytest.raises(ValueError, match="H must be from 1 to 8, got 9"):
        PacketFormat(CONFIG, 9, 1, 1, 1)


def test_missing_register_is_an_error(device: Device) -> None:
    with pytest.raises(DeviceError, match="0xfc"):
        device.transport.read_register(0xFC)
    with pytest.raises(DeviceError, match="0x00"):
        device.transport.write_register(0x00, 1)


def test_broken_build_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RuntimeError, match="is not installed"):
        Simulator(CONFIG)


def test_identity_registers_are_those_of_the_generated_map(device: Device) -> None:
    for name, value in identity(CONFIG).items():
        assert device.read(name) == value, name
