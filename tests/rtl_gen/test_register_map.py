"""The register map as others read it is that of gradsieve.hw.host.registers."""

from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from systemrdl import RDLCompiler

from gradsieve.hw.config import EngineConfig, make, preset
from gradsieve.hw.host.registers import BY_NAME, REGISTERS, Access
from gradsieve.rtl_gen.register_map import fields_of, identity, member_docs, register_files, register_xml
from gradsieve.rtl_gen.verilog import top_name

CONFIG = preset("default")
SIZES = {"max_H": 7, "max_I": 9, "max_B": 11, "max_T": 13}
A, AB = make(name="a", R=3, C=5, **SIZES), make(name="a_b", R=7, C=2, **SIZES)
STANDARDS = ["c99", "c11", "c17", "gnu17", "c++11", "c++17"]
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


def test_ip_xact_has_every_register_and_field() -> None:
    space = {"i": "http://www.accellera.org/XMLSchema/IPXACT/1685-2014"}
    found = {}
    for r in ElementTree.fromstring(register_xml(CONFIG)).iterfind(".//i:register", space):
        offset = r.findtext("i:addressOffset", None, space) or ""
        names = [f.findtext("i:name", None, space) for f in r.iterfind("i:field", space)]
        found[r.findtext("i:name", None, space)] = (int(offset.removeprefix("'h"), 16), names)
    assert found == {r.name: (r.offset, [f.name for f in fields_of(r)]) for r in REGISTERS}


def compile_c(folder: Path, text: str, standard: str) -> None:
    """Compile a text that includes what is in `folder`, with every warning an error."""
    (folder / "check.c").write_text(text)
    command = ["cc", "-x", "c++" if "++" in standard else "c", f"-std={standard}", "-Wall", "-Wextra", "-pedantic"]
    done = subprocess.run(
        [*command, "-Werror", "-fsyntax-only", "check.c"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def holds(conditions: list[str]) -> list[str]:
    """Lines of C99 that compile if the constant conditions hold."""
    return [f"typedef char check_{i}[({condition}) ? 1 : -1];" for i, condition in enumerate(conditions)]


@pytest.mark.parametrize("standard", STANDARDS)
def test_c_header_compiles_and_has_the_map(files: dict[str, str], tmp_path: Path, standard: str) -> None:
    (tmp_path / "registers.h").write_text(files["registers.h"])
    top = top_name(CONFIG)
    prefix = f"{top.upper()}__"
    checks = [f"sizeof({top}_t) == {REGISTERS[-1].offset + 4}"]
    for r in REGISTERS:
        checks += [f"offsetof({top}_t, {r.name}) == {r.offset}", f"{prefix}{r.name}__OFFSET == {r.offset}"]
        for f in fields_of(r):
            name = f"{prefix}{r.name}__{f.name.upper()}"
            checks += [f"{name}_bp == {f.lsb}", f"{name}_bw == {f.width}"]
            checks += [f"{name}_bm == {((1 << f.width) - 1) << f.lsb:#x}"]
            checks += [f"{name}__{v.name} == {v.value}" for v in f.values or ()]
    lines = ['#include "registers.h"', '#include "registers.h"', "#include <stddef.h>", *holds(checks)]
    compile_c(tmp_path, "\n".join(lines) + "\n", standard)


def test_pointers_to_registers_are_pointers_to_words(files: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "registers.h").write_text(files["registers.h"])
    function = f"volatile uint32_t *control(volatile {top_name(CONFIG)}_t *engine)"
    compile_c(tmp_path, f'#include "registers.h"\n{function};\n{function} {{ return &engine->CONTROL; }}\n', "c99")


@pytest.mark.parametrize("standard", STANDARDS)
@pytest.mark.parametrize("order", [(A, AB), (AB, A)], ids=["a first", "a_b first"])
def test_headers_of_two_engines_are_used_in_one_file(
    tmp_path: Path, standard: str, order: tuple[EngineConfig, ...]
) -> None:
    for config in order:
        (tmp_path / config.name).mkdir()
        (tmp_path / config.name / "registers.h").write_text(register_files(config)["registers.h"])
    checks = []
    for config in order:
        name = top_name(config).upper()
        checks += [
            f"{name}__ARRAY__COLUMNS_reset == {config.R}",
            f"{name}__ARRAY__LANES_reset == {config.C}",
            f"{name}__STATUS__ERROR__BUSY == {next(v for v in BY_NAME['STATUS'].field('error').values or ()).BUSY}",
            f"sizeof(((const {top_name(config)}_t *)0)->STATUS) == 4",
        ]
    lines = [*(f'#include "{config.name}/registers.h"' for config in order), *holds(checks)]
    compile_c(tmp_path, "\n".join(lines) + "\n", standard)


def test_no_config_has_a_name_that_makes_headers_collide(files: dict[str, str]) -> None:
    """Names are the top's and a rest: two could be the same if one rest were another with something before it."""
    header, top = files["registers.h"], top_name(CONFIG)
    macros = re.findall(r"#define (\w+)", header)
    types = re.findall(r"^\} (\w+);", header, re.MULTILINE)
    assert len(macros) > len(REGISTERS)
    assert len(types) == 1
    assert len(set(macros)) == len(macros)
    assert all(name.startswith(top.upper()) for name in macros)
    assert all(name.startswith(top) for name in types)
    rests = [name[len(top) :] for name in (*macros, *types)]
    for one, other in itertools.permutations(rests, 2):
        assert not re.fullmatch(rf"\w*{re.escape(other)}", one) or one == other, (one, other)


@pytest.mark.parametrize("order", [(A, AB), (AB, A)], ids=["a first", "a_b first"])
def test_maps_of_two_engines_compile_together(tmp_path: Path, order: tuple[EngineConfig, ...]) -> None:
    compiler = RDLCompiler()
    for config in order:
        path = tmp_path / f"{config.name}.rdl"
        path.write_text(register_files(config)["registers.rdl"])
        compiler.compile_file(str(path))
    instances = "".join(f"{top_name(c)} {c.name} @ {i * 0x1000:#x};" for i, c in enumerate(order))
    (tmp_path / "system.rdl").write_text(f"addrmap system {{ {instances} }};")
    compiler.compile_file(str(tmp_path / "system.rdl"))
    system = compiler.elaborate(top_def_name="system").top
    for i, config in enumerate(order):
        array = system.find_by_path(f"{config.name}.ARRAY")
        assert array.absolute_address == i * 0x1000 + BY_NAME["ARRAY"].offset
        assert array.get_child_by_name("columns").get_property("reset") == config.R
