"""Every packet (docs/streams.md), declared once: its sections, the order of what they hold, and each number's format.

The engine's counters, widths and checks, the host's shapes and lengths, the cycle model's beats and the tables of
docs/streams.md are made from this.  A bitmap or vector that is declared inside a loop comes once for each of its turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from math import prod

from gradsieve.hw.config import BITMAP_WORD, GATES, EngineConfig

EXACT_BITS, SHORT_BITS = 64, 32
"""Bits of an element of dW or db in a packet: of the exact sum, and requantized."""
COUNT_BITS = 32
"""Bits of a count in a packet."""


class PacketKind(IntEnum):
    """Bits 7:0 of the header of an input packet."""

    WEIGHT_X = 1
    WEIGHT_H = 2
    BLOCK_MASK = 3
    COLUMN_MASK = 4
    SEED = 5
    TAPE = 6


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


@dataclass(frozen=True)
class Run:
    """What a packet's length follows from: the engine, the sizes of a run, and what the host asks for.

    With `state_out` the result has a state section; with `exact` the weight gradients are read as exact sums.
    """

    config: EngineConfig
    H: int
    I: int
    B: int
    T: int
    state_out: bool = True
    exact: bool = True
    gates = len(GATES)

    @property
    def x_tiles(self) -> int:
        """Column tiles of x."""
        return _ceil_div(self.I, self.config.R)

    @property
    def h_tiles(self) -> int:
        """Column tiles of h."""
        return _ceil_div(self.H, self.config.R)

    @property
    def batch_tiles(self) -> int:
        """Tiles of C lanes."""
        return _ceil_div(self.B, self.config.C)

    @property
    def bitmap_words(self) -> int:
        """Words of a bitmap of gate rows."""
        return _ceil_div(self.gates * self.H, BITMAP_WORD)


@dataclass(frozen=True)
class Loop:
    """A loop: `size` names the member of `Run` that says how often it turns; or its `parts` follow each other."""

    name: str
    size: str = ""
    descending: bool = False
    parts: tuple[Loop, ...] = ()

    def turns(self, run: Run) -> int:
        """How often it turns."""
        return sum(part.turns(run) for part in self.parts) if self.parts else int(getattr(run, self.size))


STEP, STEP_DOWN = Loop("step", "T"), Loop("step", "T", descending=True)
BATCH_TILE = Loop("batch_tile", "batch_tiles")
UNIT = Loop("unit", "H")
GATE = Loop("gate", "gates")
X_TILE, H_TILE = Loop("x_tile", "x_tiles"), Loop("h_tile", "h_tiles")
TILE = Loop("tile", parts=(X_TILE, H_TILE))
COLUMN = Loop("column", "I")
WORD = Loop("word_index", "bitmap_words")
"""Of a bitmap of gate rows that is taken a word at a time."""


class Slots(Enum):
    """How many numbers stand side by side; vectors are padded to a power of two."""

    ONE = "number"
    LANES = "lane vector"
    COLUMNS = "column vector"

    def used(self, config: EngineConfig) -> int:
        """Slots that hold a number."""
        return {Slots.ONE: 1, Slots.LANES: config.C, Slots.COLUMNS: config.R}[self]

    def count(self, config: EngineConfig) -> int:
        """All slots."""
        return {Slots.ONE: 1, Slots.LANES: config.lane_slots, Slots.COLUMNS: config.column_slots}[self]


@dataclass(frozen=True)
class Vector:
    """Numbers of one format: `format` names a member of `Formats`, or is "count" (unsigned, 32 bits)."""

    name: str
    format: str
    slots: Slots

    def number_bits(self, config: EngineConfig, exact: bool = True) -> int:
        """Bits of one number in the packet; sums have more of them when they are read as `exact` ones."""
        if self.format == "count":
            return COUNT_BITS
        if self.format in ("weight_grad", "bias_grad"):
            return EXACT_BITS if exact else SHORT_BITS
        return config.formats.element_bits

    def vector_bits(self, config: EngineConfig, exact: bool = True) -> int:
        """Bits with padding."""
        return self.slots.count(config) * self.number_bits(config, exact)

    def bits(self, run: Run) -> int:
        """Bits with padding, in a packet of this run."""
        return self.vector_bits(run.config, run.exact)


@dataclass(frozen=True)
class Bitmap:
    """A bit for each turn of the loops `over`, the innermost fastest, bit 0 first, padded to words of BITMAP_WORD."""

    name: str
    over: tuple[Loop, ...]

    def words(self, run: Run) -> int:
        """Words of one bitmap."""
        return _ceil_div(prod(loop.turns(run) for loop in self.over), BITMAP_WORD)

    def bits(self, run: Run) -> int:
        """Bits with padding."""
        return BITMAP_WORD * self.words(run)


@dataclass(frozen=True)
class Nest:
    """Loops from outer to inner, and what comes at each turn of the innermost, in order without gaps."""

    loops: tuple[Loop, ...]
    contents: tuple[Vector | Bitmap, ...]

    def bits(self, run: Run) -> int:
        """Bits of all turns."""
        return prod(loop.turns(run) for loop in self.loops) * sum(content.bits(run) for content in self.contents)


@dataclass(frozen=True)
class Section:
    """Nests that follow each other without gaps, from a beat's beginning to a beat's end."""

    name: str
    nests: tuple[Nest, ...]

    @property
    def nest(self) -> Nest:
        """The only nest of a section that has no other."""
        (nest,) = self.nests
        return nest

    @property
    def vectors(self) -> tuple[Vector, ...]:
        """The vectors that come at each turn of its only nest."""
        return tuple(content for content in self.nest.contents if isinstance(content, Vector))

    @property
    def bitmaps(self) -> tuple[Bitmap, ...]:
        """The bitmaps that come at each turn of its only nest."""
        return tuple(content for content in self.nest.contents if isinstance(content, Bitmap))

    def bits(self, run: Run) -> int:
        """Bits without what fills up the last beat."""
        return sum(nest.bits(run) for nest in self.nests)

    def beats(self, run: Run) -> int:
        """Beats, the last of which may be filled up."""
        return _ceil_div(self.bits(run), run.config.stream_width)


@dataclass(frozen=True)
class Group:
    """Sections that come in this order at each turn of `loops`; if it names an `option`, only in runs that have it."""

    loops: tuple[Loop, ...]
    sections: tuple[Section, ...]
    option: str = ""

    def there(self, run: Run) -> bool:
        """Whether a packet of this run has them."""
        return bool(getattr(run, self.option)) if self.option else True

    def turns(self, run: Run) -> int:
        """How often the sections come."""
        return prod(loop.turns(run) for loop in self.loops)


@dataclass(frozen=True)
class Packet:
    """Groups of sections, after a beat with the `kind` where there is one: on the way in."""

    name: str
    groups: tuple[Group, ...]
    kind: PacketKind | None = None
    while_running: bool = False
    """Whether it is taken during a run, and only then."""

    @property
    def sections(self) -> tuple[Section, ...]:
        """All sections, each once."""
        return tuple(section for group in self.groups for section in group.sections)

    def beats(self, run: Run) -> int:
        """Beats in all, with the header."""
        contents = sum(
            group.turns(run) * section.beats(run)
            for group in self.groups
            if group.there(run)
            for section in group.sections
        )
        return contents + (self.kind is not None)


def _packet(kind: PacketKind, loops: tuple[Loop, ...], *sections: Section, while_running: bool = False) -> Packet:
    return Packet(kind.name, (Group(loops, sections),), kind, while_running)


def _section(name: str, loops: tuple[Loop, ...], *contents: Vector | Bitmap) -> Section:
    return Section(name, (Nest(loops, contents),))


def _lanes(format_: str, *names: str) -> list[Vector]:
    return [Vector(name, format_, Slots.LANES) for name in names]


# in

WEIGHTS_X = _section("weights", (GATE, UNIT, X_TILE), Vector("W_ih", "weight", Slots.COLUMNS))
WEIGHTS_H = _section("weights", (GATE, UNIT, H_TILE), Vector("W_hh", "weight", Slots.COLUMNS))
BLOCKS = _section("blocks", (TILE,), Bitmap("block_mask", (UNIT, GATE)))
COLUMNS = _section("columns", (STEP,), Bitmap("column_mask", (TILE,)))
SEEDS = _section("seeds", (BATCH_TILE, UNIT), *_lanes("gradient", "dh", "dc"))
RECORDS = _section(
    "records",
    (UNIT,),
    *_lanes("activation", "i", "f", "g", "o", "tanh_c"),
    *_lanes("cell", "c_prev"),
    *_lanes("input", "h_prev"),
    *_lanes("gradient", "dy"),
)
X = _section("x", (COLUMN,), *_lanes("input", "x"))

INPUT: dict[PacketKind, Packet] = {
    packet.kind: packet
    for packet in (
        _packet(PacketKind.WEIGHT_X, (), WEIGHTS_X),
        _packet(PacketKind.WEIGHT_H, (), WEIGHTS_H),
        _packet(PacketKind.BLOCK_MASK, (), BLOCKS),
        _packet(PacketKind.COLUMN_MASK, (), COLUMNS),
        _packet(PacketKind.SEED, (), SEEDS),
        _packet(PacketKind.TAPE, (STEP_DOWN, BATCH_TILE), RECORDS, X, while_running=True),
    )
    if packet.kind
}
"""What comes in, by kind."""

# out

COUNTS = Nest((GATE,), (Vector("rows_kept", "count", Slots.ONE), Vector("elements_kept", "count", Slots.ONE)))
STATISTICS = Section("statistics", (Nest((), (Bitmap("row_kept", (UNIT, GATE)),)), COUNTS))
DX = _section("dx", (COLUMN,), *_lanes("gradient", "dx"))
STATE = _section("state", (BATCH_TILE, UNIT), *_lanes("gradient", "dh0", "dc0"))
RESULT = Packet("RESULT", (Group((STEP_DOWN, BATCH_TILE), (STATISTICS, DX)), Group((), (STATE,), option="state_out")))
"""What a run returns."""

BIAS = _section("bias", (GATE, UNIT), Vector("db", "bias_grad", Slots.ONE))
INPUT_WEIGHTS = _section("input", (GATE, UNIT, X_TILE), Vector("dW_ih", "weight_grad", Slots.COLUMNS))
HIDDEN_WEIGHTS = _section("hidden", (GATE, UNIT, H_TILE), Vector("dW_hh", "weight_grad", Slots.COLUMNS))
GRADIENTS = Packet("GRADIENTS", (Group((), (BIAS, INPUT_WEIGHTS, HIDDEN_WEIGHTS)),))
"""What the command `read` returns."""

STATISTICS_WORDS = len(GATES) * len(COUNTS.contents) * COUNT_BITS // BITMAP_WORD
"""Words of counts in a statistics section, after those of the bitmap: a gate each."""
