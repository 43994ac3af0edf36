"""Opening ports, and losing them: each cause has its own message, in bounded time."""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import serial

from gradsieve.fpga.errors import DeviceError
from gradsieve.fpga.serial_port import SILENCE_SECONDS, SerialTransport

SHORT = 0.3
LOOK = 0.001
"""What a clock that goes by looks goes on by."""


@dataclass
class Terminal:
    """Both ends of a pseudo-terminal, behind which is no board."""

    controller: int
    name: str


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """A port on which nobody answers."""
    controller, user = os.openpty()
    terminal = Terminal(controller, os.ttyname(user))
    yield terminal
    os.close(user)
    if terminal.controller >= 0:
        os.close(terminal.controller)


def test_a_missing_port() -> None:
    with pytest.raises(DeviceError, match=r"there is no port /dev/ttyNONE: is the board plugged in\?  Ports of this"):
        SerialTransport("/dev/ttyNONE")


def test_a_silent_port_within_the_stated_time(terminal: Terminal) -> None:
    looks = itertools.count()
    with pytest.raises(DeviceError, match=f"no board answers on {terminal.name} at 115200 baud within 0\\.3 s: is it"):
        SerialTransport(terminal.name, 115200, silence=SHORT, clock=lambda: LOOK * next(looks))
    assert SHORT < LOOK * next(looks) < SHORT + 10 * LOOK
    assert SILENCE_SECONDS == 2.0, "docs/link.md says so"


def test_waiting_takes_no_processor_time(terminal: Terminal) -> None:
    start = time.process_time()
    with pytest.raises(DeviceError):
        SerialTransport(terminal.name, silence=1.0)
    assert time.process_time() - start < 0.3


def test_noise_on_the_port_is_told(terminal: Terminal) -> None:
    # the port throws away what came before it was opened
    original = serial.Serial.open

    def noisy(self: serial.Serial) -> None:
        original(self)
        os.write(terminal.controller, b"\x12\x34\x7e\x7e garbage")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serial.Serial, "open", noisy)
        with pytest.raises(DeviceError, match=r"is the baud rate right\? \(12 bytes came, and no answer in them"):
            SerialTransport(terminal.name, silence=SHORT)


def test_a_port_in_use(terminal: Terminal) -> None:
    with serial.Serial(terminal.name, exclusive=True), pytest.raises(DeviceError, match="is in use by another program"):
        SerialTransport(terminal.name, silence=SHORT)


def test_a_port_without_permission(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: serial.Serial) -> None:
        raise serial.SerialException(errno.EACCES, "could not open port")

    monkeypatch.setattr(serial.Serial, "open", denied)
    with pytest.raises(DeviceError, match=r"no permission to open /dev/.*: join its group .*usermod -aG dialout"):
        SerialTransport(terminal.name)


@pytest.mark.parametrize(("port", "baud"), [("nonsense://x", 115200), ("loop://", -5)])
def test_what_is_no_port(port: str, baud: int) -> None:
    with pytest.raises(
        DeviceError, match=f"{port} at {baud} baud cannot be opened .*: give a port such as /dev/ttyUSB0"
    ):
        SerialTransport(port, baud)


@pytest.mark.parametrize("there", ["file", "folder", "null"])
def test_what_is_there_and_no_port(there: str, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("kept")
    port = {"file": str(file), "folder": str(tmp_path), "null": os.devnull}[there]
    with pytest.raises(DeviceError, match=f"{port} is no serial port: give one such as /dev/ttyUSB0.  Ports of"):
        SerialTransport(port)
    assert file.read_text() == "kept"


def test_a_line_that_ends_in_itself() -> None:
    """The host's own frames come back: they are no answers."""
    with pytest.raises(DeviceError, match=r"no board answers on loop:// .* bytes came, and no answer in them"):
        SerialTransport("loop://", silence=SHORT)


def test_unplugged_while_waiting(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    original = serial.Serial.write

    def unplug(self: serial.Serial, data: bytes) -> int | None:
        written = original(self, data)
        if terminal.controller >= 0:
            os.close(terminal.controller)
            terminal.controller = -1
        return written

    monkeypatch.setattr(serial.Serial, "write", unplug)
    with pytest.raises(DeviceError, match=r"failed \(.*\): was the board unplugged\?  Plug it in; reconnect"):
        SerialTransport(terminal.name, silence=SHORT)


def test_nothing_stays_open_after_an_error(terminal: Terminal) -> None:
    for _ in range(2):
        with pytest.raises(DeviceError, match="no board answers"):
            SerialTransport(terminal.name, silence=0.1)
