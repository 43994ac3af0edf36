"""Bitstream files: which device they are for, and whether they are whole.

Read are the `.bit` files of ecppack (ECP5), the `.fs` files of gowin_pack (Gowin) and the `.bit` files of Vivado
(Xilinx).  All but Xilinx's are checked against the CRCs that they hold, as the device would do.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from fastcrc import crc16

from gradsieve.fpga.errors import DeviceError
from gradsieve.fpga.parts import PARTS, Part, describe, part_of


class BitstreamError(DeviceError):
    """A file is no bitstream, a damaged one, or one for an unknown device; the message says which and where."""


@dataclass(frozen=True)
class Bitstream:
    """A bitstream that was read and found whole.

    `sha256` is the digest of the file; `payload` is what a device gets of an ECP5 file, and else the whole file;
    `crc_checked` tells that the bitstream's own CRCs were right, `digest_checked` that a report's digest was.
    """

    path: Path
    part: Part
    sha256: str
    payload: bytes
    crc_checked: bool
    digest_checked: bool

    @property
    def file_type(self) -> str:
        """What openFPGALoader calls the format."""
        return "fs" if self.part.family == "Gowin" else "bit"


def read(path: Path) -> Bitstream:
    """Read and check a bitstream file.

    If a report `<name>.json` lies beside it (`gradsieve build` writes one), its `sha256` must be the file's.
    Raises BitstreamError if the file cannot be read, is no bitstream, is damaged, or does not match its report.
    """
    data = _bytes_of(path)
    digest = hashlib.sha256(data).hexdigest()
    try:
        if data.startswith(b"\xff\x00"):
            part, payload, crc_checked = *_read_ecp5(data), True
        elif data.startswith(_XILINX_MAGIC):
            part, payload, crc_checked = _read_xilinx(data), data, False
        elif data[:1] in (b"/", b"1"):
            part, payload, crc_checked = _read_gowin(data), data, True
        else:
            raise _Damage("does not start as an ECP5 or Xilinx .bit or a Gowin .fs file does", 0)
    except _Damage as damage:
        what = damage.args[0]
        raise BitstreamError(f"{path}: {what} (at byte {damage.args[1]}): no whole bitstream, not loaded") from None
    return Bitstream(path, part, digest, payload, crc_checked, _matches_report(path, digest))


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BitstreamError(f"{path}: cannot be read ({error.strerror})") from None


def _matches_report(path: Path, digest: str) -> bool:
    """Whether the report's digest was compared.  Raises BitstreamError if it differs."""
    report = path.with_suffix(".json")
    if not report.exists():
        return False
    try:
        expected = json.loads(_bytes_of(report)).get("sha256")
    except (ValueError, AttributeError):
        raise BitstreamError(f"{report}: is no JSON report of a build: delete it or build again") from None
    if expected is None:
        return False
    if expected != digest:
        raise BitstreamError(
            f"{path}: its sha256 is {digest}, and {report.name} says {expected!r}: damaged, or of another build"
        )
    return True


class _Damage(Exception):
    """What is wrong, and the offset of the byte where that was seen."""


class _Reader:
    """Takes bytes from the start of a file on, and never more than there are."""

    def __init__(self, data: bytes, position: int = 0) -> None:
        self.data = data
        self.position = position

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        taken = self.data[self.position : self.position + count]
        if len(taken) < count:
            raise _Damage("ends too early", len(self.data))
        self.position += count
        return taken

    def word(self) -> int:
        """The next four bytes, as a number."""
        return int.from_bytes(self.take(4))

    @property
    def at_end(self) -> bool:
        return self.position >= len(self.data)


# ---- ECP5: Lattice TN1260 and docs/architecture/bitstream_format.rst of Project Trellis

_ECP5_START = re.compile(rb"\xff\x00[\x00\t\n\r -~]*\xff{3,}\xbd\xb3")
_ECP5_DUMMY = b"\xff"
_ECP5_TRAILER = 4
"""Dummy bytes at the end, whose clocks start the device."""


class _Command(IntEnum):
    WRITE_COMPRESSION_DICTIONARY = 0x02
    PROGRAM_CONTROL_0 = 0x22
    RESET_CRC = 0x3B
    INIT_ADDRESS = 0x46
    PROGRAM_DONE = 0x5E
    SPI_MODE = 0x79
    PROGRAM_FRAMES = 0x82
    EBR_WRITE = 0xB2
    PROGRAM_COMPRESSED_FRAMES = 0xB8
    USERCODE = 0xC2
    SECURITY = 0xCE
    VERIFY_ID = 0xE2
    EBR_ADDRESS = 0xF6


_ECP5_OPERANDS: dict[int, int] = {  # of the commands without options: the bytes of their operand
    _Command.RESET_CRC: 0,
    _Command.VERIFY_ID: 4,
    _Command.WRITE_COMPRESSION_DICTIONARY: 8,
    _Command.PROGRAM_CONTROL_0: 4,
    _Command.INIT_ADDRESS: 0,
    _Command.EBR_ADDRESS: 4,
    _Command.SECURITY: 0,
    _Command.PROGRAM_DONE: 0,
}
_SPI_MODES = (0x49, 0x51, 0x59)
_EBR_FRAME_BYTES = 9


class _Ecp5Reader(_Reader):
    """Keeps the CRC of the bytes taken, as the device does."""

    crc = 0

    def take(self, count: int) -> bytes:
        taken = super().take(count)
        self.crc = crc16.umts(taken, self.crc)
        return taken

    def check_crc(self) -> None:
        """Take the CRC that stands here."""
        start = self.position
        self.take(2)
        # over a text and its own CRC, this CRC is zero
        if self.crc != 0:
            raise _Damage("has a wrong CRC", start)

    def options(self) -> int:
        """The count in the three bytes after a command that is checked by CRC."""
        start = self.position
        flags, *count = self.take(3)
        if not flags & 0x80:
            raise _Damage("has data without a CRC", start)
        return int.from_bytes(count)


def _read_ecp5(data: bytes) -> tuple[Part, bytes]:
    """The part and the payload, from the dummy byte that ends the comment on."""
    start = _ECP5_START.match(data)
    if start is None:
        raise _Damage("has no preamble", 2)
    reader = _Ecp5Reader(data, start.end())
    part: Part | None = None
    reset = frames_done = False
    command = -1
    while command != _Command.PROGRAM_DONE:
        position = reader.position
        if reader.data[position : position + 1] == _ECP5_DUMMY:
            reader.position += 1  # not part of the CRC
            continue
        command = reader.take(1)[0]
        if command in _ECP5_OPERANDS:
            if reader.take(3) != bytes(3):
                raise _Damage(f"has an unknown option of command 0x{command:02x}", position)
            operand = reader.take(_ECP5_OPERANDS[command])
            if command == _Command.RESET_CRC:
                reader.crc, reset = 0, True
            elif command == _Command.VERIFY_ID:
                part = _known(int.from_bytes(operand), "ECP5", position)
        elif command == _Command.SPI_MODE:
            mode, *rest = reader.take(3)
            if mode not in _SPI_MODES or any(rest):
                raise _Damage(f"has the unknown SPI mode 0x{mode:02x}{bytes(rest).hex()}", position)
        elif command in (_Command.PROGRAM_FRAMES, _Command.PROGRAM_COMPRESSED_FRAMES):
            if part is None or not reset:
                raise _Damage("has configuration data before the device code", position)
            _check_frames(reader, part, compressed=command == _Command.PROGRAM_COMPRESSED_FRAMES)
            frames_done = True
        elif command == _Command.USERCODE:
            reader.options()
            reader.take(4)
            reader.check_crc()
        elif command == _Command.EBR_WRITE:
            reader.take(_EBR_FRAME_BYTES * reader.options())
            reader.check_crc()
        else:
            raise _Damage(f"has the unknown command 0x{command:02x}", position)
    if part is None or not frames_done:
        raise _Damage("ends without configuration data", reader.position)
    trailer = reader.take(len(data) - reader.position)
    if len(trailer) < _ECP5_TRAILER or trailer.strip(_ECP5_DUMMY):
        raise _Damage("does not end with dummy bytes", len(data) - len(trailer))
    return part, data[start.end() - 5 :]


def _check_frames(reader: _Ecp5Reader, part: Part, compressed: bool) -> None:
    """Take the configuration frames, each of which has a CRC."""
    position = reader.position
    flags = reader.data[position : position + 1]
    count = reader.options()
    if flags != b"\x91" or count != part.frames:  # a CRC and one dummy byte after each frame
        raise _Damage(f"has {count} frames with options 0x{flags.hex()}: {part.name} has {part.frames}", position)
    for _ in range(count):
        length = _compressed_length(reader, part.frame_bytes) if compressed else part.frame_bytes
        reader.take(length)
        reader.check_crc()
        if reader.take(1) != _ECP5_DUMMY:
            raise _Damage("has no dummy byte after a frame", reader.position - 1)


def _decoding_table() -> list[list[tuple[int, int]]]:
    """For the state of the decompressor and a byte: the next state, and how many codes ended in the byte.

    A code is `0`, `10` and four bits, or `11` and eight bits.  State 0: between codes; 1: after a `1`; 1 + n: n bits
    of the code are to come.
    """
    between, after_one = 0, 1
    table = []
    for start in range(10):
        row = []
        for byte in range(256):
            state, ended = start, 0
            for shift in range(7, -1, -1):
                bit = byte >> shift & 1
                if state == between:
                    state, ended = (after_one, ended) if bit else (between, ended + 1)
                elif state == after_one:
                    state = 1 + (8 if bit else 4)
                elif state == 2:
                    state, ended = between, ended + 1
                else:
                    state -= 1
            row.append((state, ended))
        table.append(row)
    return table


_DECODING = _decoding_table()


def _compressed_length(reader: _Reader, frame_bytes: int) -> int:
    """How many bytes the next compressed frame fills: it decodes to whole 64-bit words, and is padded with zeros."""
    missing = -(-frame_bytes // 8) * 8
    state, position, data = 0, reader.position, reader.data
    while missing > 0:
        if position == len(data):
            raise _Damage("ends too early", position)
        state, ended = _DECODING[state][data[position]]
        missing -= ended
        position += 1
    return position - reader.position


def _known(code: int, family: str, position: int) -> Part:
    part = part_of(code)
    if part is None or part.family != family:
        names = ", ".join(p.name for p in PARTS if p.family == family)
        raise _Damage(f"is for device {describe(code)}, which is none of {family}'s {names}", position)
    return part


# ---- Gowin: doc/commandstructure.md and bslib.py of apycula

_GOWIN_PREAMBLE = (b"\xff" * 20, b"\xff\xff", b"\xa5\xc3")
_GOWIN_FRAMES, _GOWIN_ID, _GOWIN_FLASH_ADDRESS = 0x3B, 0x06, 0xD2
_GOWIN_HEADER = {_GOWIN_ID: 8, 0x10: 8, 0x51: 8, 0x0B: 4, _GOWIN_FLASH_ADDRESS: 8, 0x12: 4, _GOWIN_FRAMES: 4}
"""The commands before the frames, and their bytes."""
_GOWIN_END = b"\xff" * 18 + b"\x34\x73"
_GOWIN_FOOTER = re.compile(rb"\x0a\0{3}.{4}(\xff\xff)*\x08\0{3}(\xff\xff)+", re.DOTALL)
"""The user code and the command that starts the device."""


def _read_gowin(data: bytes) -> Part:
    lines = []
    offset = 0
    for raw in data.splitlines(keepends=True):
        text = raw.strip()
        if text and not text.startswith(b"//"):
            if len(text) % 8 or text.strip(b"01"):
                raise _Damage("has a line that is not bytes of 0 and 1", offset)
            lines.append((offset, int(text, 2).to_bytes(len(text) // 8)))
        offset += len(raw)
    if tuple(line for _, line in lines[:3]) != _GOWIN_PREAMBLE:
        raise _Damage("has no preamble", 0)
    part: Part | None = None
    crc = 0
    rest = iter(lines[3:])
    for offset, line in rest:
        if _GOWIN_HEADER.get(line[0]) != len(line):
            raise _Damage(f"has the unknown command {line[:8].hex()}", offset)
        if line[0] != _GOWIN_FLASH_ADDRESS:
            crc = crc16.arc(line, crc)
        if line[0] == _GOWIN_ID:
            part = _known(int.from_bytes(line[4:]), "Gowin", offset)
        if line[0] == _GOWIN_FRAMES:
            break
    else:
        raise _Damage("has no configuration data", offset)
    if part is None or line[1] != 0x80:
        raise _Damage("has no device code or no CRCs", offset)
    for _ in range(int.from_bytes(line[2:])):
        offset, line = next(rest, (len(data), b""))
        frame, stored, filler = line[:-8], line[-8:-6], line[-6:]
        if filler != b"\xff" * 6 or crc16.arc(frame, crc) != int.from_bytes(stored, "little"):
            raise _Damage("has a wrong CRC or a missing row", offset)
        crc = crc16.arc(filler)
    offset, line = next(rest, (len(data), b""))
    footer = b"".join(text for _, text in rest)
    if line != _GOWIN_END or not _GOWIN_FOOTER.fullmatch(footer):
        raise _Damage("does not end as a bitstream does", offset)
    return part


# ---- Xilinx 7 series: the fields of the file's header, and UG470 on the packets

_XILINX_MAGIC = bytes.fromhex("0009 0ff00ff00ff00ff000 0001")
_SYNC = bytes.fromhex("aa995566")
_NOP, _WRITE, _WRITE_MORE = 0x20000000, 0b001_10, 0b010_10
_COMMAND_REGISTER, _ID_REGISTER = 4, 12
_DESYNC = 13


def _read_xilinx(data: bytes) -> Part:
    reader = _Reader(data, len(_XILINX_MAGIC))
    fields = {}
    for key in b"abcd":  # design, part, date, time
        if reader.take(1)[0] != key:
            raise _Damage(f"has no field {chr(key)!r} in its header", reader.position - 1)
        fields[chr(key)] = reader.take(int.from_bytes(reader.take(2))).rstrip(b"\0").decode("latin-1")
    if reader.take(1) != b"e" or reader.word() != len(data) - reader.position:
        raise _Damage("is not as long as its header says", reader.position)
    sync = data.find(_SYNC, reader.position)
    if sync < 0:
        raise _Damage("has no synchronisation word", reader.position)
    reader.position = sync + len(_SYNC)
    part: Part | None = None
    written = b""
    register = -1
    while not (register == _COMMAND_REGISTER and written[-1:] == bytes([_DESYNC])):
        position = reader.position
        packet = reader.word()
        operation = packet >> 27
        if operation == _WRITE:
            register, count = packet >> 13 & 0x3FFF, packet & 0x7FF
        elif operation == _WRITE_MORE:
            count = packet & 0x7FFFFFF
        elif packet == _NOP:
            continue
        else:
            raise _Damage(f"has the unknown packet 0x{packet:08x}", position)
        written = reader.take(4 * count)
        if register == _ID_REGISTER:
            part = _known(int.from_bytes(written), "Xilinx", position)
    if part is None or not f"xc{fields['b']}".lower().startswith(part.name.lower()):
        found = part.name if part else "none"
        raise _Damage(f"is for {fields['b']!r} by its header and for {found} by its device code", sync)
    return part
