"""Why some lines of the generated Verilog never run in the benches: the known reasons, and the gaps they are of."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gradsieve.tb.line_coverage import Coverage, Gap

FILE = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True)
class Reason:
    """Why a block's gaps that have `part` in their text are there; `block` as `Gap.block`."""

    block: str
    part: str
    why: str

    def explains(self, gap: Gap) -> bool:
        """Whether this is the reason of a gap."""
        return self.block == gap.block and self.part in gap.text


def known_reasons(file: Path = FILE) -> list[Reason]:
    """The reasons in a file, a table `reason` each.  Raises ValueError if it is no such file."""
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))["reason"]
        return [Reason(**table) for table in tables]
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file} must have tables [[reason]] of block, part and why: {error}") from None


@dataclass(frozen=True)
class Explained:
    """The gaps, each with its reason or None, and the reasons that are of no gap."""

    gaps: list[tuple[Gap, Reason | None]]
    idle: list[Reason]


def explain(coverage: Iterable[Coverage], reasons: Iterable[Reason]) -> Explained:
    """Match gaps with reasons: the first one that explains a gap."""
    reasons = list(reasons)
    gaps = [(gap, next((r for r in reasons if r.explains(gap)), None)) for each in coverage for gap in each.gaps]
    used = {reason for _, reason in gaps}
    return Explained(gaps, [r for r in reasons if r not in used])
