"""Why some lines of the generated Verilog never run in the benches: the known reasons, and the gaps they are of."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradsieve.tb.line_coverage import Coverage, Gap

FILE = Path(__file__).with_suffix(".toml")
RAN_ALONE = "the same lines ran in the block's own bench; the engine's design of it differs elsewhere"
"""The reason of a gap in the engine that its block does not have alone."""


@dataclass(frozen=True)
class Reason:
    """Why gaps are there: those of `block`, as `Gap.block`, that have `part` in their text."""

    block: str
    part: str
    why: str

    def explains(self, gap: Gap) -> bool:
        """Whether this is the reason of a gap."""
        return self.block == gap.block and self.part in gap.text


def known_reasons(file: Path = FILE) -> list[Reason]:
    """The reasons in a file: tables `reason` of blocks, parts and why.  Raises ValueError for any other file."""
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))["reason"]
        return [Reason(b, p, t["why"]) for t in tables for b in t["blocks"] for p in t["parts"]]
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file} must have tables [[reason]] of blocks, parts and why: {error}") from None


@dataclass(frozen=True)
class Explained:
    """The gaps, each with why it is there or None, and the reasons that are of no gap."""

    gaps: list[tuple[Gap, str | None]]
    idle: list[Reason]


def explain(coverage: Sequence[Coverage], reasons: Iterable[Reason]) -> Explained:
    """Match gaps with reasons: the first one that explains a gap, or that its lines ran in the block's own bench."""
    reasons = list(reasons)
    alone = {c.block: set().union(*(m.ran() for m in c.modules)) for c in coverage if "." not in c.block}
    gaps: list[tuple[Gap, str | None]] = []
    used = set()
    for gap in (gap for each in coverage for gap in each.gaps):
        reason = next((r for r in reasons if r.explains(gap)), None)
        used.add(reason)
        elsewhere = "." in gap.block and alone.get(gap.block.rpartition(".")[2], set()).issuperset(gap.lines)
        gaps.append((gap, reason.why if reason else RAN_ALONE if elsewhere else None))
    return Explained(gaps, [r for r in reasons if r not in used])
