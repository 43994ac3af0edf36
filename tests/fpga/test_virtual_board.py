"""The virtual board: a real process behind a real pseudo-terminal, driven as a board is."""

from __future__ import annotations

import json
import os
import queue
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from gradsieve.cli.application import main
from gradsieve.fpga import virtual_board
from gradsieve.fpga.device import Device
from gradsieve.fpga.errors import DeviceError
from gradsieve.fpga.serial_port import SerialTransport
from gradsieve.fpga.virtual_board import VirtualBoard
from gradsieve.golden.backward import backward
from gradsieve.golden.random_case import MASK_KINDS, random_case
from gradsieve.golden.types import SieveMode
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.host.registers import IDENTITY
from gradsieve.training.backends import Backend, DeviceBackend, GoldenBackend
from gradsieve.training.lstm import SievedLSTM
from gradsieve.training.methods.sieves import DenseSieve, RowSieve, StochasticSieve
from tests.conftest import session_seed
from tests.fpga.virtual import CONFIG, BoardProcess
from tests.waiting import until

SILENCE = 1.0
SHORT, LONG = 4, 50
UNPLUGGED_AT = 3_000
"""Bytes that the board is sent before it goes: it is in the middle of its work."""
STILL_SECONDS = 30
"""A clock that has not stopped by then runs on."""


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BoardProcess]:
    with BoardProcess(tmp_path_factory.mktemp("board") / "port") as board:
        yield board


@pytest.fixture
def device(board: BoardProcess) -> Iterator[Device]:
    with Device(CONFIG, SerialTransport(str(board.link))) as device:
        yield device


@pytest.mark.parametrize("mode", SieveMode, ids=lambda m: m.name)
def test_every_mode_equals_golden(device: Device, mode: SieveMode) -> None:
    rng = random.Random(f"{session_seed()} {mode}")
    kinds = rng.sample(MASK_KINDS, 2)
    for kind in kinds:
        case = random_case(CONFIG, rng.getrandbits(32), mode=mode, masks=kind)
        wrong = {k: n for k, n in device.backward(*case).differences(backward(CONFIG, *case)).items() if n}
        assert not wrong, f"seed {session_seed()}, sizes {case[1].sizes}, {case[2]}, {kind}: {wrong}"


@pytest.mark.parametrize("steps", [SHORT, pytest.param(LONG, marks=pytest.mark.heavy)])
def test_training_through_the_board_equals_golden_in_every_weight(device: Device, steps: int) -> None:
    results = [_trained(backend, steps) for backend in (GoldenBackend(CONFIG), DeviceBackend(device))]
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(results[0][0], _trained(GoldenBackend(CONFIG), 0)[0])


def _trained(backend: Backend, steps: int) -> list[torch.Tensor]:
    """The weights after so many steps; they do not depend on the machine's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.manual_seed(3)
        lstm, head = SievedLSTM(5, 7, backend=backend), nn.Linear(7, 3)
        optimizer = torch.optim.Adam([*lstm.parameters(), *head.parameters()], lr=0.01)
        state = None
        for step in range(steps):
            x = torch.randn(4, 5, 5)
            lstm.sieve = (DenseSieve(), StochasticSieve(target=0.4), RowSieve(target=0.3))[step % 3]
            y, state = lstm(x, state)
            state = tuple(s.detach() for s in state)
            loss = nn.functional.cross_entropy(head(y).flatten(0, 1), x[:, :, :3].argmax(dim=2).flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return [p.detach().clone() for p in (*lstm.parameters(), *head.parameters())]
    finally:
        torch.set_num_threads(threads)


def test_another_config_is_refused(board: BoardProcess) -> None:
    other = EngineConfig(**{**CONFIG.model_dump(mode="python"), "max_T": 5})
    transport = SerialTransport(str(board.link))
    with pytest.raises(DeviceError, match=f"from another config: its digest is {CONFIG.digest}, that of 'tiny' is"):
        Device(other, transport)
    transport.close()


def test_a_port_in_use_is_an_error(board: BoardProcess, device: Device) -> None:
    with pytest.raises(DeviceError, match="is in use by another program"):
        SerialTransport(str(board.link))


def test_the_reset_button_ends_the_session_and_reconnect_begins_another(board: BoardProcess, device: Device) -> None:
    transport = device.transport
    assert isinstance(transport, SerialTransport)
    board.press_reset()
    with pytest.raises(DeviceError, match=r"was reset.*reconnect\(\) begins a new session"):
        until(lambda: device.read("ID") != IDENTITY, "the reset", seconds=20)
    device.reconnect()
    _works(device)


def test_an_unplugged_board_is_an_error_and_another_takes_its_place(tmp_path: Path) -> None:
    link = tmp_path / "port"
    with BoardProcess(link) as board:
        transport = SerialTransport(str(link), silence=SILENCE)
        device = Device(CONFIG, transport)
        sent = transport.statistics.bytes_sent

        def kill_soon() -> None:
            until(lambda: transport.statistics.bytes_sent > sent + UNPLUGGED_AT, "work for the board", seconds=20)
            board.process.kill()

        killer = threading.Thread(target=kill_soon)
        killer.start()
        with pytest.raises(DeviceError, match=r"was the board unplugged\?  Plug it in; reconnect\(\) begins"):
            _run_on(device)
        killer.join()
        target = link.readlink()
        link.unlink()
        with pytest.raises(DeviceError, match=r"there is no port .*: is the board plugged in\?"):
            device.reconnect()
        link.symlink_to(target)
    with BoardProcess(link):  # takes the dead board's name over
        device.reconnect()
        _works(device)
        device.close()


def test_a_port_without_a_board_is_an_error() -> None:
    host, port = os.openpty()
    with pytest.raises(DeviceError, match=r"no board answers on /dev/\S+ at 3000000 baud within 1\.0 s: is it powered"):
        SerialTransport(os.ttyname(port), silence=SILENCE)
    os.close(host)
    os.close(port)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_board_and_its_figures_are_shown(tmp_path: Path, number: signal.Signals) -> None:
    link, file = tmp_path / "port", tmp_path / "figures.json"
    with BoardProcess(link, "--divisor", "4", "--json", str(file)) as board:
        transport = SerialTransport(str(link))
        transport.close()
        status, said = board.interrupt(number)
    figures = json.loads(file.read_text())
    statistics = transport.statistics
    assert status == 0 and not os.path.lexists(link)
    assert f"{figures['cycles']:,} cycles, " in said and len(said.splitlines()) == 1
    assert figures["digest"] == CONFIG.digest and figures["divisor"] == 4
    assert (figures["bytes_sent"], figures["bytes_received"]) == (statistics.bytes_sent, statistics.bytes_received)
    assert figures["cycles"] > 40 * (figures["bytes_sent"] + figures["bytes_received"]) / 2  # ten bits of four cycles


class WatchedBoard(VirtualBoard):
    """One that tells when it rests, and at which cycle."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        self.rests: queue.Queue[int] = queue.Queue()

    def _exchange(self, seconds: float) -> bytes:
        if seconds:
            self.rests.put(self.cycles)
        return super()._exchange(seconds)

    def wait_until_still(self) -> None:
        """Wait until it begins a rest where the one before it began.  Fails if the clock runs on."""
        while not self.rests.empty():
            self.rests.get()
        last, now = -1, self.rests.get(timeout=STILL_SECONDS)
        end = time.monotonic() + STILL_SECONDS
        while last != now:
            assert time.monotonic() < end, "the clock runs on"
            last, now = now, self.rests.get(timeout=STILL_SECONDS)


def test_a_board_at_rest_stands_still_and_wakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual_board, "QUIET_CYCLES", 50_000)
    board = WatchedBoard(CONFIG)
    thread = threading.Thread(target=board.serve)
    thread.start()
    try:
        for _ in range(2):  # the host opens the port, goes, and comes back
            with Device(CONFIG, SerialTransport(board.port)) as device:
                _works(device)
            before = board.cycles
            board.wait_until_still()
            assert board.cycles - before >= 20_000  # it went on for a while, as the engine might have been at work
            assert not board.leds["line"] and not board.leds["streams"] and not board.leds["error"]
    finally:
        board.stop()
        thread.join()
        board.close()


def _run_on(device: Device) -> None:
    case = random_case(CONFIG, 1, mode=SieveMode.DENSE)
    for _ in range(100):
        device.backward(*case)


def _works(device: Device) -> None:
    case = random_case(CONFIG, 2, sizes=(5, 3, 2, 2))
    assert device.backward(*case).mismatches(backward(CONFIG, *case)) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "tiny"], "only a virtual board can be run: give --virtual"),
        (["--virtual"], "there is no config: give a CONFIG.toml, or --preset"),
        (["--virtual", "--preset", "tiny", "--divisor", "3"], "--divisor must be at least 4, got 3"),
        (
            ["--virtual", "--preset", "tiny", "--link", "/nowhere/port"],
            "--link must be a free name in a writable folder, got /nowhere/port",
        ),
        (
            ["--virtual", "--preset", "tiny", "--link", __file__],
            f"--link must be a free name in a writable folder, got {__file__}",
        ),
    ],
)
def test_bad_options_are_one_line(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["board", *options]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and len(err.splitlines()) == 1
