"""The tables of packets in docs/streams.md, from their declaration."""

from __future__ import annotations

from collections.abc import Iterable

from gradsieve.hw.packets import GRADIENTS, INPUT, RESULT, Bitmap, Group, Loop, Packet, Section, Vector


def _table(headings: list[str], rows: Iterable[list[str]]) -> str:
    lines = (headings, ["---"] * len(headings), *rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _loop(loop: Loop) -> str:
    if loop.parts:
        return "tile: " + ", then ".join(_loop(part) for part in loop.parts)
    name = loop.name.replace("_", " ")
    return f"{name} (last first)" if loop.descending else name


def _loops(loops: tuple[Loop, ...]) -> str:
    return "; ".join(map(_loop, loops))


def _contents(contents: tuple[Vector | Bitmap, ...]) -> str:
    """Vectors of one format and shape together."""
    texts: list[tuple[str, list[str]]] = []
    for content in contents:
        if isinstance(content, Bitmap):
            kind = f"bitmap: a bit for each {_loops(content.over)}"
        else:
            kind = f"{content.slots.value}, {content.format}"
        if not texts or texts[-1][0] != kind:
            texts.append((kind, []))
        texts[-1][1].append(f"`{content.name}`")
    return "; ".join(f"{', '.join(names)} ({kind})" for kind, names in texts)


def _section(group: Group, section: Section) -> list[str]:
    around = _loops(group.loops) or ("once, if asked for" if group.option else "once")
    nests = [f"{_loops(nest.loops) or 'once'}: {_contents(nest.contents)}" for nest in section.nests]
    return [section.name, around, "<br>".join(nests)]


def _rows(packet: Packet) -> list[list[str]]:
    return [_section(group, section) for group in packet.groups for section in group.sections]


def input_packets() -> str:
    """A row for each section that comes in."""
    rows = []
    for kind, packet in INPUT.items():
        when = "after start" if packet.while_running else "idle"
        rows += [[str(int(kind)), f"`{packet.name}`", when, *row] for row in _rows(packet)]
    return _table(["kind", "name", "when", "section", "comes for each", "holds for each"], rows)


def output_packets() -> str:
    """A row for each section that goes out."""
    rows = [[f"`{packet.name}`", *row] for packet in (RESULT, GRADIENTS) for row in _rows(packet)]
    return _table(["name", "section", "comes for each", "holds for each"], rows)
