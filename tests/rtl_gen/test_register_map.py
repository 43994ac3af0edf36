"""The register map as others read it is that of gradsieve.hw.registers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from systemrdl import RDLCompiler

from gradsieve.hw.config import make, preset
from gradsieve.hw.registers import BY_NAME, REGISTERS, Access
from gradsieve.rtl_gen.register_map import fields_of, identity, member_docs, register_files

CONFIG = preset("default")
ACCESS = {Access.READ_ONLY: "r", Access.READ_WRITE: "rw", Access.PULSE: "w"}


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return register_files(CONFIG)


def test_the_same_config_gives_the_same_bytes(files: dict[str, str]) -> None:
    assert register_files(CONFIG) == files


def test_no_file_names_a_path(files: dict[str, str]) -> None:
    for name, text in files.items():
        assert "/tmp" not in text, name
        assert str(Path.cwd()) not in text, name


def test_compiled_rdl_has_every_address_field_access_and_reset(files: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "registers.rdl").write_text(files["registers.rdl"])
    compiler = RDLCompiler()
    compiler.compile_file(str(tmp_path / "registers.rdl"))
    found = {}
    for register in compiler.elaborate().top.registers():
        assert register.size == 4
        for field in register.fields():
            encode = field.get_property("encode")
            values = {m.name: m.value for m in encode} if encode else {}
            place = (register.absolute_address, field.lsb, field.width)
            found[register.inst_name, field.inst_name] = (
                *place,
                field.get_property("sw").name,
                field.get_property("reset"),
                field.get_property("singlepulse"),
                values,
            )
    constants = identity(CONFIG)
    expected = {}
    for r in REGISTERS:
        for f in fields_of(r):
            reset = constants.get(r.name, r.reset) >> f.lsb & ((1 << f.width) - 1)
            values = {v.name: v.value for v in f.values} if f.values else {}
            pulse = r.access is Access.PULSE
            expected[r.name, f.name] = (r.offset, f.lsb, f.width, ACCESS[r.access], reset, pulse, values)
    assert found == expected


def test_identity_registers_hold_the_config() -> None:
    config = make(R=3, C=5, max_H=7, max_I=9, max_B=11, max_T=13, gate_rows_per_cycle=2, stream_width=256)
    values = identity(config)
    assert values["ARRAY"] == 3 | 5 << 8 | 2 << 16 | 32 << 24
    assert values["MAX_HI"] == 7 | 9 << 16
    assert values["MAX_BT"] == 11 | 13 << 16
    assert f"{values['DIGEST_HIGH']:08x}{values['DIGEST_LOW']:08x}" == config.digest


def test_page_has_every_register_field_and_value(files: dict[str, str]) -> None:
    page = files["registers.md"]
    for r in REGISTERS:
        assert re.search(rf"\|\s*0x{r.offset:02X}\s*\|\s*{r.name}\s*\|\s*{re.escape(r.doc)}\s*\|", page), r.name
        section = page.split(f"### {r.name} register\n")[1].split("\n### ")[0]
        for f in fields_of(r):
            assert re.search(rf"\|\s*{f.name}\s*\|\s*{ACCESS[r.access]}\s*\|", section), (r.name, f.name)
            for v in f.values or ():
                assert f"{v.value} = {v.name}" in section
    assert member_docs(type(next(iter(BY_NAME["STATUS"].field("error").values or ()))))["BUSY"] in page


def test_ip_xact_has_every_register_and_field(files: dict[str, str]) -> None:
    space = {"i": "http://www.accellera.org/XMLSchema/IPXACT/1685-2014"}
    found = {}
    for r in ElementTree.fromstring(files["registers.xml"]).iterfind(".//i:register", space):
        offset = r.findtext("i:addressOffset", None, space) or ""
        names = [f.findtext("i:name", None, space) for f in r.iterfind("i:field", space)]
        found[r.findtext("i:name", None, space)] = (int(offset.removeprefix("'h"), 16), names)
    assert found == {r.name: (r.offset, [f.name for f in fields_of(r)]) for r in REGISTERS}


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
@pytest.mark.parametrize("language", ["c", "c++"])
def test_c_header_compiles_and_has_the_map(files: dict[str, str], tmp_path: Path, language: str) -> None:
    (tmp_path / "registers.h").write_text(files["registers.h"])
    prefix = "GRADSIEVE__"
    checks = []
    for r in REGISTERS:
        checks += [f"offsetof(gradsieve_t, {r.name}) == {r.offset}", f"{prefix}{r.name}__OFFSET == {r.offset}"]
        for f in fields_of(r):
            name = f"{prefix}{r.name}__{f.name.upper()}"
            checks += [f"{name}_bp == {f.lsb}", f"{name}_bw == {f.width}"]
            checks += [f"{name}_bm == {((1 << f.width) - 1) << f.lsb:#x}"]
            checks += [f"{name}__{v.name} == {v.value}" for v in f.values or ()]
    lines = ["#include <stddef.h>", '#include "registers.h"', '#include "registers.h"']
    lines += [f'static_assert({check}, "{check}");' for check in checks]
    (tmp_path / "check.c").write_text("\n".join(lines) + "\n")
    standard = "-std=gnu11" if language == "c" else "-std=gnu++17"
    command = ["cc", "-x", language, standard, "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "check.c"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
