"""Coverage of the generated Verilog: which lines the benches have run and which bits they have toggled, by block.

Verilator counts the lines where the flow can part: those of `always` and `initial` blocks, of the branches of `if` and
`case` in them, of declarations with an initial value, and each `assign` with a choice `? :`.  Other assigns have no
flow, and are in the toggles alone.  A line counts as run if all points that lie on it were reached (both sides of a
choice), in any of the module's instances; a toggle is one bit going one way.

A module's points are the same ones in all designs that have it, from whichever bench: two modules are one if their
lines are the same, whatever the names of the modules, of clock and reset, and the order of the ports.  It counts once,
for the first block in the order of `BLOCKS` that has it; for the engine is left what no block's own design has in that
form.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gradsieve.tb.runner import COUNTS_FILE, DESIGN_FILE

_HEADER = "# SystemC::Coverage-3"
_POINT = re.compile(r"^C '(.*)' (\d+)$")
_MODULE = re.compile(r"^module (\S+?) ?\(")
_INSTANCE = re.compile(r"^  (\S+)  \S+ +\($")
_NAMES = {"engine_clk": "clk", "core_reset": "rst"}
_DOMAIN = re.compile(rf"(?<![\w$\\.])({'|'.join(_NAMES)})\b")
_PROCESS = re.compile(r"  always |module ")
_LONG_NAME = re.compile(r"\\(\S+) ")
_ESCAPED = re.compile("__0([0-9A-Fa-f]{2})")
"""How Verilator writes a character in a name."""
_NUMBER = re.compile(r"(?<=\w)\$\d+|(?<=\$)\d+")
"""What makes names unique that would be the same; it changes with everything that comes before it."""
_WAKES = "$initial:"
"""The signal by which Yosys makes `always` blocks run at first: it never falls."""
Line = tuple[str, int]
"""The text of a line, and how many equal ones stand before it in its module."""


@dataclass(frozen=True)
class Point:
    """A point that Verilator counts: its kind, module, lines in the file, comment (a toggle's bit), and its count."""

    kind: str
    module: str
    lines: tuple[int, ...]
    comment: str
    count: int


@dataclass(frozen=True)
class Gap:
    """Adjacent lines of a module that never ran, joined by spaces, with the heads of the blocks around them.

    `lines` has each of them with those heads.  Numbers that only make names unique are left out.
    """

    block: str
    module: str
    text: str
    lines: tuple[str, ...] = field(default=(), compare=False)


@dataclass
class Module:
    """A module's lines and toggles, in their order, and whether they were reached."""

    name: str
    lines: dict[Line, bool] = field(default_factory=dict)
    toggles: dict[str, bool] = field(default_factory=dict)
    places: dict[Line, int] = field(default_factory=dict)
    """Where each line is in `body`, all lines of the module."""
    body: list[str] = field(default_factory=list)

    def merge(self, other: Module) -> None:
        """Add what another run, or another design, has reached in the same module."""
        for line, reached in other.lines.items():
            self.lines[line] = self.lines.get(line, False) or reached
        for toggle, reached in other.toggles.items():
            self.toggles[toggle] = self.toggles.get(toggle, False) or reached
        self.places, self.body = self.places or other.places, self.body or other.body

    def gaps(self) -> list[tuple[str, tuple[str, ...]]]:
        """The lines that never ran, as text and lines of a `Gap`, in the order of the file."""
        groups: list[list[int]] = []
        for place in sorted(self.places[line] for line, reached in self.lines.items() if not reached):
            if not groups or place != groups[-1][-1] + 1:
                groups.append([])
            groups[-1].append(place)
        return [(self._text(group), tuple(self._text([n]) for n in group)) for group in groups]

    def ran(self) -> set[str]:
        """The lines that ran, each as in `Gap.lines`."""
        return {self._text([self.places[line]]) for line, reached in self.lines.items() if reached}

    def _text(self, group: list[int]) -> str:
        return " ".join(_tidy(self.body[n]) for n in (*self._around(group[0]), *group))

    def _around(self, place: int) -> list[int]:
        """The heads of the blocks that a line stands in, the outermost first."""
        heads: list[int] = []
        depth = _depth(self.body[place])
        for n in range(place - 1, -1, -1):
            if _depth(self.body[n]) < depth:
                depth = _depth(self.body[n])
                if self.body[n].strip() != "begin" and not _PROCESS.match(self.body[n]):
                    heads.insert(0, n)
        return heads


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def _tidy(line: str) -> str:
    return _NUMBER.sub("", _LONG_NAME.sub(r"\1", line.strip()))


def points(text: str) -> Iterator[Point]:
    """The points in a file of counts that Verilator wrote.  Raises ValueError if it is none."""
    lines = text.split("\n")
    if lines[0] != _HEADER:
        raise ValueError(f"the first line of counts must be {_HEADER!r}, got {lines[0][:40]!r}")
    for line in filter(None, lines[1:]):
        match = _POINT.match(line)
        if match is None:
            raise ValueError(f"a line of counts must be of the form C 'KEYS' COUNT, got {line[:80]!r}")
        keys = dict(item.split("\x02", 1) for item in match[1].split("\x01") if item)
        kind, module = keys["page"].removeprefix("v_").split("/", 1)
        yield Point(kind, module, tuple(_spans(keys.get("S", ""))), _plain(keys.get("o", "")), int(match[2]))


def _plain(name: str) -> str:
    return _ESCAPED.sub(lambda m: chr(int(m[1], 16)), name)


def _spans(text: str) -> Iterator[int]:
    """The numbers of a list such as 3-5,8."""
    for span in filter(None, text.split(",")):
        first, _, last = span.partition("-")
        yield from range(int(first), int(last or first) + 1)


def modules(design: str, counts: str) -> dict[str, Module]:
    """The modules of a design by what they are made of, with what the counts of its simulation say of them."""
    texts = design.split("\n")
    numbered = list(_numbered(texts))
    digests: dict[str, str] = {}
    bodies = _bodies(texts)

    def digest(name: str) -> str:
        if name not in digests:
            lines = (_INSTANCE.sub(lambda m: digest(m[1]) if m[1] in bodies else m[0], line) for line in bodies[name])
            digests[name] = hashlib.sha256("\n".join(sorted(map(_normal, lines))).encode()).hexdigest()
        return digests[name]

    found = {name: Module(name, body=body) for name, body in bodies.items()}
    for point in points(counts):
        module = found[point.module]
        if point.kind == "toggle" and not point.comment.startswith(_WAKES):
            signal = _DOMAIN.sub(lambda m: _NAMES[m[1]], point.comment)
            module.toggles[signal] = module.toggles.get(signal, False) or point.count > 0
        for number in point.lines:
            line, place = numbered[number - 1]
            module.lines[line] = module.lines.get(line, True) and point.count > 0
            module.places[line] = place
    merged: dict[str, Module] = {}
    for name, module in found.items():
        merged.setdefault(digest(name), Module(name)).merge(module)
    return merged


def _bodies(lines: Iterable[str]) -> dict[str, list[str]]:
    """The lines of each module after its first, which has its name and ports."""
    bodies: dict[str, list[str]] = {}
    body: list[str] = []
    for line in lines:
        if match := _MODULE.match(line):
            bodies[match[1]] = body = []
        else:
            body.append(line)
    return bodies


def _numbered(lines: Iterable[str]) -> Iterator[tuple[Line, int]]:
    """Each line of a file as a line of its module, and its place in the module's body."""
    before: Counter[str] = Counter()
    place = -1
    for line in lines:
        if _MODULE.match(line):
            before.clear()
            place = -1
        text = _normal(line)
        yield (text, before[text]), place
        before[text] += 1
        place += 1


def _normal(line: str) -> str:
    return _DOMAIN.sub(lambda m: _NAMES[m[1]], line.strip())


@dataclass
class Coverage:
    """Lines and toggles of a block's modules: how many there are, and those that were not reached."""

    block: str
    modules: list[Module]

    @property
    def lines(self) -> tuple[int, int]:
        """Lines run, and all."""
        return _share(m.lines.values() for m in self.modules)

    @property
    def toggles(self) -> tuple[int, int]:
        """Toggles seen, and all."""
        return _share(m.toggles.values() for m in self.modules)

    @property
    def gaps(self) -> list[Gap]:
        """All lines that never ran."""
        return [Gap(self.block, module.name, *gap) for module in self.modules for gap in module.gaps()]

    @property
    def still(self) -> dict[str, list[str]]:
        """By module, the bits that never went one way or the other."""
        found = {m.name: [t for t, reached in m.toggles.items() if not reached] for m in self.modules}
        return {name: missed for name, missed in found.items() if missed}


def _share(groups: Iterable[Iterable[bool]]) -> tuple[int, int]:
    flags = [reached for group in groups for reached in group]
    return sum(flags), len(flags)


def merge(folders: Mapping[str, Path]) -> list[Coverage]:
    """The coverage of each block from the folders that `run_bench` left for them, in the order of `folders`.

    What is left for the engine is divided into its own blocks: `engine.core.array.compactor` and so on.
    """
    owned: dict[str, tuple[str, Module]] = {}
    for block, folder in folders.items():
        design, counts = ((folder / name).read_text(encoding="utf-8") for name in (DESIGN_FILE, COUNTS_FILE))
        for key, module in modules(design, counts).items():
            name = ".".join([block, *module.name.split("__")[1:4]]) if block == "engine" else block
            owned.setdefault(key, (name, Module(module.name)))[1].merge(module)
    by_block: dict[str, list[Module]] = {}
    for name, module in owned.values():
        by_block.setdefault(name, []).append(module)
    return [Coverage(name, members) for name, members in by_block.items()]
