"""The modules of the Verilog text that Yosys writes: taken apart, made canonical, shared, and put together again.

Amaranth writes one module an instance, so an array of R x C equal processing elements becomes R * C equal modules.
`share` keeps one of each, after `canonical` has removed what differs from one copy to the next without meaning.
Only the layout that `write_verilog` of Yosys produces is understood; any other text raises NetlistError.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

IDENTIFIER = r"(?:\\\S+ |[A-Za-z_][A-Za-z0-9_$]*)"
"""A Verilog identifier; an escaped one ends with the blank that closes it."""

SEPARATOR = "__"
"""Between the names of instances in the name of a module; no config's name contains it or ends with a part of it."""

_HEADER = re.compile(rf"module ({IDENTIFIER})\s*\(([^;]*)\);")
_INSTANCE = re.compile(rf"  ({IDENTIFIER})\s*({IDENTIFIER})\s*\($")
_CONNECTION = re.compile(rf"    \.({IDENTIFIER})\s*\(")
_PORT = re.compile(rf"  (input|output|inout) (?:signed )?(?:\[(\d+):(\d+)\] )?({IDENTIFIER})\s*;")
_MEMORY = re.compile(rf"  reg (?:signed )?(?:\[(\d+):(\d+)\] )?({IDENTIFIER})\s*\[(\d+):(\d+)\];")
_DECLARATION = re.compile(rf"  (?:input|output|inout|wire|reg) (?:signed )?(?:\[\d+:\d+\] )?({IDENTIFIER})")
_EMPTY_NET = re.compile(rf"  (?:wire|reg) (?:signed )?\[-1:0\] ({IDENTIFIER})\s*;")
_ASSIGNMENT = re.compile(r"    [^=;]* = [^;]*;")
_INITIAL_WORD = re.compile(r"    ([A-Za-z_]\w*)\[\d+\] = ")
_TEMPORARY = re.compile(r"\\\$auto\$\S+ ")
_OWN_WAKE = re.compile(r"  reg \\\$auto\$verilog_backend\S+  = 0;")
_OWN_WAKE_READ = re.compile(r"    if \(\\\$auto\$verilog_backend\S+ \) begin end")
_WAKE = "\\$initial "
_WAKE_READ = f"    if ({_WAKE}) begin end"
_NET_PORT = re.compile(r"\\port\$\d+\$\d+ ")


class NetlistError(ValueError):
    """A text that is not laid out as Yosys writes Verilog."""


@dataclass(frozen=True)
class Port:
    """A port of a module."""

    name: str
    direction: str
    width: int


@dataclass(frozen=True)
class MemoryArray:
    """A memory of a module: `words` words of `bits` bits."""

    name: str
    words: int
    bits: int


@dataclass(frozen=True)
class Module:
    """One Verilog module: its name, the names of its ports in order, and the lines between header and `endmodule`.

    Names are as in the text; an escaped identifier keeps its closing blank.
    """

    name: str
    port_names: tuple[str, ...]
    body: tuple[str, ...]

    @cached_property
    def ports(self) -> tuple[Port, ...]:
        """The ports in the order of the header."""
        found: dict[str, Port] = {}
        for match in filter(None, map(_PORT.match, self.body)):
            width = int(match[2]) - int(match[3]) + 1 if match[2] else 1
            found[match[4]] = Port(plain(match[4]), match[1], width)
        missing = [n for n in self.port_names if n not in found]
        if missing:
            raise NetlistError(f"module {self.name} does not declare its ports {', '.join(missing)}")
        return tuple(found[n] for n in self.port_names)

    @cached_property
    def memories(self) -> tuple[MemoryArray, ...]:
        """The memory arrays in the order of their declarations."""
        found = []
        for match in filter(None, map(_MEMORY.match, self.body)):
            bits = int(match[1]) - int(match[2]) + 1 if match[1] else 1
            found.append(MemoryArray(plain(match[3]), abs(int(match[4]) - int(match[5])) + 1, bits))
        return tuple(found)

    def text(self) -> str:
        """The module as Verilog."""
        lines = [f"module {self.name}({', '.join(self.port_names)});", *self.body, "endmodule"]
        return "\n".join(lines) + "\n"


def plain(identifier: str) -> str:
    """The identifier without the escape of Verilog."""
    return identifier.strip().removeprefix("\\")


def parse(text: str) -> dict[str, Module]:
    """The modules of a text that Yosys wrote, by name and in order.  Raises NetlistError on any other layout."""
    modules: dict[str, Module] = {}
    header: re.Match[str] | None = None
    body: list[str] = []
    opening = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header is not None:
            if line == "endmodule":
                names = tuple(re.findall(IDENTIFIER, header[2]))
                if header[1] in modules:
                    raise NetlistError(f"line {number}: module {header[1]} is defined twice")
                modules[header[1]] = Module(header[1], names, tuple(body))
                header = None
            else:
                body.append(line)
        elif line.startswith("module ") or opening:
            opening += line  # long lists of ports go on over several lines
            if line.endswith(");"):
                header, body = _HEADER.fullmatch(opening), []
                if header is None:
                    raise NetlistError(f"line {number}: not understood as a module header: {opening[:80]!r}")
                opening = ""
        elif line and not line.startswith(("/*", "(*", "//")):
            raise NetlistError(f"line {number}: outside of any module: {line[:80]!r}")
    if header is not None or opening:
        raise NetlistError(f"module {header[1] if header else opening[7:40]} has no end")
    if not modules:
        raise NetlistError("there is no module in the text")
    return modules


def instances(module: Module, modules: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(module name, instance name) of each instance in `module` of one of `modules`, in order."""
    known = set(modules)
    for match in filter(None, map(_INSTANCE.match, module.body)):
        if match[1] in known:
            yield match[1], plain(match[2])


def hierarchy(modules: Mapping[str, Module], top: str) -> Iterator[tuple[tuple[str, ...], Module]]:
    """Every instance below and including `top`, as (instance names from the top, module), depth first."""
    stack: list[tuple[tuple[str, ...], str]] = [((), top)]
    while stack:
        path, name = stack.pop()
        yield path, modules[name]
        below = [((*path, instance), module) for module, instance in instances(modules[name], modules)]
        stack += reversed(below)


def _bottom_up(modules: Mapping[str, Module]) -> list[str]:
    order: dict[str, None] = {}

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise NetlistError(f"module {name} contains itself")
        if name not in order:
            for child, _ in instances(modules[name], modules):
                visit(child, (*above, name))
            order[name] = None

    for name in modules:
        visit(name, ())
    return list(order)


def _port_order(name: str) -> tuple[bool, bool, list[str | int]]:
    parts = re.split(r"(\d+)", plain(name))
    natural: list[str | int] = [int(p) if i % 2 else p for i, p in enumerate(parts)]
    return name != "clk", name != "rst", natural


def _rename_ports(names: Iterable[str]) -> dict[str, str]:
    """New names for the ports that carry a net number of the whole design."""
    numbered = sorted((n for n in names if _NET_PORT.fullmatch(n)), key=_port_order)
    return {old: f"\\unnamed$port${i} " for i, old in enumerate(numbered)}


def _in_instances(
    module: Module, known: Iterable[str], change: Callable[[str, str], str], head: Callable[[str], str]
) -> tuple[str, ...]:
    """The body with `head(child)` naming each instance's module and `change(child, port)` each connected port."""
    known = set(known)
    child: str | None = None
    body = []
    for line in module.body:
        match = _INSTANCE.match(line)
        if match is not None and match[1] in known:
            child = match[1]
            line = f"  {head(child)}{line[2 + len(child) :]}"
        elif child is not None:
            connection = _CONNECTION.match(line)
            if connection is not None:
                line = f"    .{change(child, connection[1])}{line[connection.end(1) :]}"
            elif line == "  );":
                child = None
        body.append(line)
    return tuple(body)


def _declarations_sorted(body: Iterable[str]) -> tuple[str, ...]:
    """The body with its leading block of declarations in natural order of the names declared."""
    lines = list(body)
    groups: list[tuple[list[str | int], list[str]]] = []
    attributes: list[str] = []
    end = 0
    for i, line in enumerate(lines):
        match = _DECLARATION.match(line)
        if match is not None and line.endswith(";") and not _MEMORY.match(line):
            groups.append((_port_order(match[1])[2], [*attributes, line]))
            attributes = []
            end = i + 1
        elif line.startswith("  (*") and line.endswith("*)"):
            attributes.append(line)
        else:
            break
    groups.sort(key=lambda g: g[0])
    return (*(line for _, group in groups for line in group), *lines[end:])


def _without_empty_nets(body: tuple[str, ...]) -> tuple[str, ...]:
    """The body without nets of no bits: Verilog would give `[-1:0]` two.  One that is used is left for lint to find."""
    empty = {line: match[1] for line in body if (match := _EMPTY_NET.match(line))}
    if not empty:
        return body
    used = {i for line in body if line not in empty for i in re.findall(IDENTIFIER, line)}
    return tuple(line for line in body if line not in empty or empty[line] in used)


def _processes_woken(body: tuple[str, ...]) -> tuple[str, ...]:
    """The body with an event at time 0 for every `always @*`.

    A process waits for a change of what it reads, and what is constant from the start never changes.  Yosys wakes most
    of them by a register with an initial value in its declaration, which in Verilog is assigned by a process of its
    own, before or after the others begin to wait, and in SystemVerilog before any of them (IEEE 1800-2017, 6.8).  A
    nonblocking assignment takes effect once all processes wait (4.4.2.4), in every language mode.
    """
    result: list[str] = []
    lines = iter(body)
    for line in lines:
        if _OWN_WAKE.fullmatch(line):
            continue
        if line.startswith("  always @*"):
            first = next(lines)
            if line == "  always @* begin":
                result += [line, _WAKE_READ, *([] if _OWN_WAKE_READ.fullmatch(first) else [first])]
            elif line == "  always @*" and _ASSIGNMENT.fullmatch(first):
                result += ["  always @* begin", _WAKE_READ, first, "  end"]
            else:
                raise NetlistError(f"not understood as a combinational process: {line!r}, {first!r}")
        else:
            result.append(line)
    if _WAKE_READ not in result:
        return body
    return (f"  reg {_WAKE};", f"  initial {_WAKE}<= 1'h1;", *result)


def _memories_zeroed(body: tuple[str, ...]) -> tuple[str, ...]:
    """The body with a loop of zeros for every memory that has no initial words: Amaranth's memories begin as zeros."""
    set_up = {match[1] for line in body if (match := _INITIAL_WORD.match(line))}
    result: list[str] = []
    for line in body:
        result.append(line)
        match = _MEMORY.fullmatch(line)
        if match is not None and match[3] not in set_up:
            name, last = match[3], max(int(match[4]), int(match[5]))
            width = abs(int(match[1] or 0) - int(match[2] or 0)) + 1
            result += [
                f"  initial begin : zero_{name}",
                "    integer i;",
                f"    for (i = 0; i <= {last}; i = i + 1) {name}[i] = {width}'d0;",
                "  end",
            ]
    return tuple(result)


def canonical(modules: Mapping[str, Module]) -> dict[str, Module]:
    """The same modules without what depends on their place in the text.

    Ports are ordered (clk, rst, then by name: instances connect them by name); ports that Amaranth named after a net
    number are numbered anew, in each module from 0; the temporaries of Yosys, numbered through the text, likewise.
    Two faults of the text are mended on the way: nets of no bits, and processes that simulators might never execute.
    Memories without initial words get zeros, in a loop.
    """
    renamed = {name: _rename_ports(m.port_names) for name, m in modules.items()}
    result = {}
    for name, module in modules.items():
        own = renamed[name]
        temporaries: dict[str, str] = {}

        def temporary(match: re.Match[str], seen: dict[str, str] = temporaries) -> str:
            return seen.setdefault(match[0], f"\\$temporary${len(seen)} ")

        def net(match: re.Match[str], own: dict[str, str] = own) -> str:
            return own.get(match[0], match[0])

        # the ports of the instances first: a number in a child and in its parent are two names
        child_ports = {child: renamed[child] for child, _ in instances(module, modules)}
        marked = _in_instances(
            module,
            modules,
            lambda child, port, table=child_ports: table[child].get(port, port),  # type: ignore[misc]
            lambda child: child,
        )
        body = _processes_woken(_without_empty_nets(marked))
        body = _memories_zeroed(tuple(_TEMPORARY.sub(temporary, _NET_PORT.sub(net, line)) for line in body))
        ports = sorted((own.get(n, n) for n in module.port_names), key=_port_order)
        result[name] = Module(name, tuple(ports), _declarations_sorted(body))
    return result


def share(modules: Mapping[str, Module], top: str) -> dict[str, Module]:
    """The modules with only the first of equal ones, everything that used another using that one.

    Two modules are equal when their ports and bodies are the same text, once the modules of their instances have been
    replaced by the ones kept; `top` always stays.
    """
    kept: dict[str, str] = {}
    first: dict[tuple[tuple[str, ...], tuple[str, ...]], str] = {}
    rewritten: dict[str, Module] = {}
    for name in _bottom_up(modules):
        body = _in_instances(modules[name], modules, lambda _, port: port, lambda child: kept[child])
        module = replace(modules[name], body=body)
        key = (module.port_names, body)
        kept[name] = name if name == top else first.setdefault(key, name)
        if kept[name] == name:
            rewritten[name] = module
    return {name: rewritten[name] for name in modules if name in rewritten}


def plain_names(modules: Mapping[str, Module]) -> dict[str, Module]:
    """The modules with names that need no escape: `\\a.b.c` becomes `a__b__c`, with a number where that is taken.

    No name of a config, and so of a top module, contains the separator: designs of two configs share no module.
    """
    names: dict[str, str] = {n: n for n in modules if not n.startswith("\\")}
    taken = set(names.values())
    for name in modules:
        if name not in names:
            base = candidate = re.sub(r"[^A-Za-z0-9_]", "_", plain(name).replace(".", SEPARATOR))
            number = 2
            while candidate in taken:
                candidate, number = f"{base}_{number}", number + 1
            taken.add(candidate)
            names[name] = candidate
    result = {}
    for name, module in modules.items():
        body = _in_instances(
            module, modules, lambda _, port: port, lambda child: names[child] + (" " if child[0] == "\\" else "")
        )
        result[names[name]] = replace(module, name=names[name], body=body)
    return result
