"""What tests of bitstreams and of their loader need: small real bitstreams, and an openFPGALoader that runs."""

from __future__ import annotations

import importlib.resources
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from apycula import bitmatrix, bslib, chipdb, gowin_pack

from gradsieve.fpga.loader import program

_EBR = ".bram_init 3\n" + "1ff 002 0a5 000 155 07e 1c3 010\n" * 256 + "\n"
"""The contents of one memory block, in the words of ecppack's input."""


def ecp5_bitstream(path: Path, part: str, options: Sequence[str] = ("--compress",), memory: bool = False) -> Path:
    """Let ecppack write the bitstream of an empty design, with `memory` one that initialises a memory block."""
    config = path.with_suffix(".config")
    config.write_text(f".device {part}\n.comment a test\n\n" + (_EBR if memory else ""))
    # by relative names: for this program, /tmp is a folder of its own
    command = [
        str(Path(sys.executable).with_name("yowasp-ecppack")),
        *options,
        "--input",
        config.name,
        "--bit",
        path.name,
    ]
    subprocess.run(command, cwd=path.parent, check=True, capture_output=True)
    return path


def gowin_bitstream(path: Path, compress: bool) -> Path:
    """Let gowin_pack's writer make the GW2A-18 bitstream of an almost empty design."""
    with importlib.resources.as_file(importlib.resources.files("apycula") / "GW2A-18C.msgpack.xz") as database:
        db = chipdb.load_chipdb(str(database))
    fuses = bitmatrix.zeros(db.height, db.width)
    fuses[5][7] = fuses[800][1234] = 1
    gowin_pack.device = "GW2A-18C"
    gowin_pack.header_footer(db, fuses, compress)
    bslib.write_bitstream(str(path), fuses, db.cmd_hdr, db.cmd_ftr, compress, {})
    return path


_STAND_INS = {"libftdi1.so.2": "ftdi_", "libusb-1.0.so.0": "libusb_"}
_POINTERS = re.compile("_new$|_name$|_string$|_strerror$|_alloc_")
_OPENS = re.compile("open|libusb_")


def loader_environment(folder: Path) -> dict[str, str]:
    """An environment in which openFPGALoader starts, even where the libraries of its USB cables are not installed.

    For each library that the system lacks, a stand-in is compiled into `folder`: its functions find no USB device,
    and do nothing else.  Tests that use the virtual cable (TCP) need no more; with the real libraries none is made.
    """
    env = dict(os.environ)
    for _ in _STAND_INS:
        started = subprocess.run([program(), "--Version"], env=env, capture_output=True, text=True)
        missing = re.search(r"loading shared libraries: (\S+):", started.stderr)
        if not missing:
            break
        _compile_stand_in(folder, missing[1])
        env = _found_first(env, folder)
    return env


def dfu_environment(folder: Path) -> dict[str, str]:
    """That of `loader_environment`, with an OrangeCrab's DFU boot loader on the USB: see dfu_device.c."""
    env = loader_environment(folder)
    bus = folder / "dfu"
    bus.mkdir()
    _compile_stand_in(bus, "libusb-1.0.so.0", Path(__file__).with_name("dfu_device.c"))
    return _found_first(env, bus)


def _found_first(env: Mapping[str, str], folder: Path) -> dict[str, str]:
    """An environment in which libraries are looked for in `folder` before anywhere else."""
    return {**env, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, (str(folder), env.get("LD_LIBRARY_PATH"))))}


def _compile_stand_in(folder: Path, library: str, device: Path | None = None) -> None:
    """Compile a library of functions that do nothing, but for those in the source of a `device`."""
    listing = subprocess.run(["nm", "-D", "--undefined-only", program()], check=True, capture_output=True, text=True)
    symbols = set(re.findall(rf"\bU ({_STAND_INS[library]}\w+)", listing.stdout))
    source = folder / f"{library}.c"
    if device:
        symbols -= set(re.findall(r"\b(libusb_\w+)\(", device.read_text()))
    opened = "0" if device else "-3"
    # a pointer is to one text, which is also room enough for a context; -3 is libftdi's "no such device"
    results = {s: "(long)text" if _POINTERS.search(s) else opened if _OPENS.search(s) else "0" for s in symbols}
    lines = ['static char text[4096] = "no USB in this test";']
    lines += [f"long {name}(void) {{ return {result}; }}" for name, result in sorted(results.items())]
    source.write_text("\n".join(lines) + "\n")
    command = [os.environ.get("CC", "cc"), "-shared", "-fPIC", f"-Wl,-soname,{library}"]
    subprocess.run([*command, "-o", folder / library, source, *([device] if device else [])], check=True)
