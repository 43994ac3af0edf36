"""The interfaces of a generated top, found in its ports: buses, clock and reset, as IP-XACT and Vivado name them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from gradsieve.rtl_gen.netlist import Module, Port


@dataclass(frozen=True)
class Bus:
    """A kind of interface, each definition as vendor:library:name:version.

    `definition` and `abstraction` are what IP-XACT refers to, `vivado` is what Vivado's IP integrator infers.
    """

    definition: str
    abstraction: str
    vivado: str


@dataclass(frozen=True)
class Interface:
    """One interface of a top: its name, its kind, the port of each of the bus's signals by name, and parameters."""

    name: str
    bus: Bus
    mode: str
    """`slave` or `master`; a clock or reset that comes from outside is a slave."""
    signals: Mapping[str, Port] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)


AXI4_LITE = Bus(
    "amba.com:AMBA4:AXI4-Lite:r0p0_0", "amba.com:AMBA4:AXI4-Lite_rtl:r0p0_0", "xilinx.com:interface:aximm:1.0"
)
AXI4_STREAM = Bus(
    "amba.com:AMBA4:AXI4Stream:r0p0_1", "amba.com:AMBA4:AXI4Stream_rtl:r0p0_1", "xilinx.com:interface:axis:1.0"
)
# AMBA defines no interface for a clock or reset alone; Vivado's definitions are the common ones
CLOCK = Bus("xilinx.com:signal:clock:1.0", "xilinx.com:signal:clock_rtl:1.0", "xilinx.com:signal:clock:1.0")
RESET = Bus("xilinx.com:signal:reset:1.0", "xilinx.com:signal:reset_rtl:1.0", "xilinx.com:signal:reset:1.0")

CLOCK_PORT, RESET_PORT = "clk", "rst"
REGISTERS = "s_axil"
"""The interface that the register map is behind."""

_BUSES = (
    Interface(REGISTERS, AXI4_LITE, "slave", parameters={"PROTOCOL": "AXI4LITE"}),
    Interface("s_axis", AXI4_STREAM, "slave"),
    Interface("m_axis", AXI4_STREAM, "master"),
)


def interfaces(ports: Iterable[Port]) -> tuple[Interface, ...]:
    """The interfaces of a top with these ports: those of its buses that it has, its clock and its reset.

    The port `s_axis_tdata` is the signal TDATA of the bus `s_axis`; `clk` is the clock of all buses, `rst` its
    active-high reset.  A port that is none of these belongs to no interface.
    """
    by_name = {port.name: port for port in ports}
    found = []
    for bus in _BUSES:
        prefix = f"{bus.name}_"
        signals = {n.removeprefix(prefix).upper(): p for n, p in by_name.items() if n.startswith(prefix)}
        if signals:
            found.append(replace(bus, signals=signals))
    if CLOCK_PORT in by_name:
        parameters = {"ASSOCIATED_BUSIF": ":".join(bus.name for bus in found)} if found else {}
        if RESET_PORT in by_name:
            parameters["ASSOCIATED_RESET"] = RESET_PORT
        found.append(Interface(CLOCK_PORT, CLOCK, "slave", {"CLK": by_name[CLOCK_PORT]}, parameters))
    if RESET_PORT in by_name:
        parameters = {"POLARITY": "ACTIVE_HIGH"}
        found.append(Interface(RESET_PORT, RESET, "slave", {"RST": by_name[RESET_PORT]}, parameters))
    return tuple(found)


def with_attributes(module: Module) -> Module:
    """The module with the attributes at its ports from which Vivado infers the interfaces (X_INTERFACE_INFO, UG994)."""
    attributes: dict[str, list[str]] = {}
    for interface in interfaces(module.ports):
        parameters = ", ".join(f"{name} {value}" for name, value in interface.parameters.items())
        for signal, port in interface.signals.items():
            info = f"{interface.bus.vivado} {interface.name} {signal}"
            lines = attributes[port.name] = [f'  (* X_INTERFACE_INFO = "{info}" *)']
            if parameters:  # at one port for the whole interface
                lines.append(f'  (* X_INTERFACE_PARAMETER = "XIL_INTERFACENAME {interface.name}, {parameters}" *)')
                parameters = ""
    body: list[str] = []
    for line in module.body:
        if line.startswith(("  input ", "  output ")):
            body += attributes.get(line.removesuffix(";").split()[-1], [])
        body.append(line)
    return replace(module, body=tuple(body))
