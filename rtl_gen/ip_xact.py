"""One engine as an IP-XACT component (IEEE 1685-2014): interfaces, register map, ports and files."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from gradsieve.hw.config import EngineConfig
from gradsieve.rtl_gen.interfaces import REGISTERS, Interface, interfaces
from gradsieve.rtl_gen.netlist import Port
from gradsieve.rtl_gen.register_map import register_xml
from gradsieve.rtl_gen.verilog import top_name

NAMESPACE = "http://www.accellera.org/XMLSchema/IPXACT/1685-2014"
_DIRECTIONS = {"input": "in", "output": "out", "inout": "inout"}

ElementTree.register_namespace("ipxact", NAMESPACE)


def _tag(name: str) -> str:
    return f"{{{NAMESPACE}}}{name}"


def _add(parent: Element, name: str, text: str | None = None, /, **attributes: str) -> Element:
    element = SubElement(parent, _tag(name), attributes)
    element.text = text
    return element


def _reference(parent: Element, name: str, definition: str) -> None:
    vendor, library, definition_name, version = definition.split(":")
    _add(parent, name, vendor=vendor, library=library, name=definition_name, version=version)


def _bounds(parent: Element, name: str, port: Port) -> None:
    """The range of a port that is wider than a bit."""
    if port.width > 1:
        element = _add(parent, name)
        _add(element, "left", str(port.width - 1))
        _add(element, "right", "0")


def _bus_interface(parent: Element, interface: Interface, memory_map: str) -> None:
    element = _add(parent, "busInterface")
    _add(element, "name", interface.name)
    _reference(element, "busType", interface.bus.definition)
    abstraction = _add(_add(element, "abstractionTypes"), "abstractionType")
    _reference(abstraction, "abstractionRef", interface.bus.abstraction)
    maps = _add(abstraction, "portMaps")
    for signal, port in interface.signals.items():
        port_map = _add(maps, "portMap")
        logical = _add(port_map, "logicalPort")
        _add(logical, "name", signal)
        _bounds(logical, "range", port)
        _add(_add(port_map, "physicalPort"), "name", port.name)
    mode = _add(element, interface.mode)
    if interface.name == REGISTERS:
        _add(mode, "memoryMapRef", memoryMapRef=memory_map)
    if interface.parameters:
        parameters = _add(element, "parameters")
        for name, value in interface.parameters.items():
            parameter = _add(parameters, "parameter", type="string")
            _add(parameter, "name", name)
            _add(parameter, "value", f'"{value}"')  # a value is an expression: a text of it has quotes


def _model(parent: Element, top: str, ports: Sequence[Port]) -> None:
    model = _add(parent, "model")
    view = _add(_add(model, "views"), "view")
    _add(view, "name", "rtl")
    for purpose in ("Simulation", "Synthesis"):
        _add(view, "envIdentifier", f":*{purpose}:")
    _add(view, "componentInstantiationRef", "verilog")
    instantiation = _add(_add(model, "instantiations"), "componentInstantiation")
    _add(instantiation, "name", "verilog")
    _add(instantiation, "language", "Verilog")
    _add(instantiation, "moduleName", top)
    _add(_add(instantiation, "fileSetRef"), "localName", "rtl")
    elements = _add(model, "ports")
    for port in ports:
        element = _add(elements, "port")
        _add(element, "name", port.name)
        wire = _add(element, "wire")
        _add(wire, "direction", _DIRECTIONS[port.direction])
        if port.width > 1:
            _bounds(_add(wire, "vectors"), "vector", port)


def _file_set(parent: Element, name: str, file: str, kind: str) -> Element:
    file_set = _add(parent, "fileSet")
    _add(file_set, "name", name)
    element = _add(file_set, "file")
    _add(element, "name", file)
    _add(element, "fileType", kind)
    return element


def component(config: EngineConfig, ports: Sequence[Port]) -> str:
    """The engine of `config`, whose top module has these ports, as the text of an IP-XACT component."""
    top = top_name(config)
    root = ElementTree.fromstring(register_xml(config))
    maps = root.find(_tag("memoryMaps"))
    memory_map = root.findtext(f"{_tag('memoryMaps')}/{_tag('memoryMap')}/{_tag('name')}")
    assert maps is not None
    assert memory_map is not None
    buses = Element(_tag("busInterfaces"))
    for interface in interfaces(ports):
        _bus_interface(buses, interface, memory_map)
    root.insert(list(root).index(maps), buses)
    _model(root, top, ports)
    file_sets = _add(root, "fileSets")
    _file_set(file_sets, "rtl", f"{top}.v", "verilogSource")
    _add(_file_set(file_sets, "software", "registers.h", "cSource"), "isIncludeFile", "true")
    _add(root, "description", f"Sparse-gradient LSTM backward engine, config digest {config.digest}.")
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'
