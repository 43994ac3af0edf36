"""The critical path in words, from the report of nextpnr."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_MADE_BY_TOOLS = re.compile(
    r"_(?:TRELLIS_FF|LUT\d|PFUMX|CCU2C|L6MUX21|TRELLIS_DPR16X4|DP16KD|MULT18X18D?|DFF\w*?|ALU|MUX2_LUT\d)(?:_|$).*"
)
_WRAPPERS = ("core.engine.core.", "core.engine.blocks.", "core.")
"""Levels of hierarchy that hold everything, and so tell nothing."""


@dataclass(frozen=True)
class CriticalPath:
    """The slowest path between two registers of one clock: its ends, the blocks that it visits, its time in ns."""

    start: str
    end: str
    blocks: tuple[str, ...]
    logic_ns: float
    routing_ns: float
    levels: int
    """Stretches of logic between the two registers."""

    def words(self) -> str:
        """One sentence."""
        through = [b for b in self.blocks if b not in (_block(self.start), _block(self.end))]
        way = f" through {', '.join(through)}" if through else ""
        return (
            f"from {self.start} to {self.end}{way}: {self.logic_ns + self.routing_ns:.2f} ns, "
            f"{self.logic_ns:.2f} in {self.levels} levels of logic and {self.routing_ns:.2f} in routing"
        )


def readable(name: str) -> str:
    """The name that a cell or a net has in the design, without what the tools append."""
    name = _MADE_BY_TOOLS.sub("", name.split("$")[0]).rstrip(".")
    for wrapper in _WRAPPERS:
        if name.startswith(wrapper):
            return name.removeprefix(wrapper)
    return name


def _block(name: str) -> str:
    return name.rpartition(".")[0] or name


def critical_path(paths: Sequence[Mapping[str, Any]], clock: str) -> CriticalPath | None:
    """The path within `clock` of the `critical_paths` of a report; None if the report has none."""
    ends = f"posedge {clock}"
    path = next((p["path"] for p in paths if p["from"] == ends and p["to"] == ends), None)
    if not path:
        return None
    names = [readable(path[0]["from"]["cell"]), *(readable(step["to"]["cell"]) for step in path)]
    blocks = dict.fromkeys(_block(name) for name in names if name)
    return CriticalPath(
        start=names[0],
        end=names[-1],
        blocks=tuple(blocks),
        logic_ns=sum(step["delay"] for step in path if step["type"] != "routing"),
        routing_ns=sum(step["delay"] for step in path if step["type"] == "routing"),
        # a carry chain is one level: its cells are joined without delay
        levels=max(0, sum(step["type"] == "routing" and step["delay"] > 0 for step in path) - 1),
    )
