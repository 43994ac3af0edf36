"""What a build reached: a report for people and for machines."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gradsieve.fpga.boards.board import Board, Clocking
from gradsieve.fpga.toolchain.critical_path import CriticalPath
from gradsieve.hw.config import EngineConfig

MARGIN = 1.1
"""Place and route aims at so many times the engine's clock, as it stops optimising where its goal is reached."""
KEPT = 0.2
"""The share of rows kept for which the effective rate is told."""


@dataclass(frozen=True)
class Seed:
    """One placement and routing: its seed, its Fmax in MHz by clock, or why there is none."""

    seed: int
    fmax_mhz: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""

    @property
    def worst_mhz(self) -> float:
        """The Fmax of the slowest clock; 0 if this seed failed."""
        return min(self.fmax_mhz.values(), default=0.0)


@dataclass(frozen=True)
class Resource:
    """A resource of the part: what people call it, and how much is used and there."""

    title: str
    used: int
    available: int

    @property
    def left(self) -> int:
        """What another design could use."""
        return self.available - self.used


@dataclass(frozen=True)
class BuildReport:
    """A build of an engine for a board.

    `bitstream` is None if none was made, and then `refusal` says why.  `seconds` are those of each stage when it ran,
    which may be in an earlier build.
    """

    board: Board
    config: EngineConfig
    clocking: Clocking
    tools: Mapping[str, str]
    resources: Mapping[str, Resource]
    array_luts: int
    """LUTs whose names say that they are in the systolic array."""
    seeds: tuple[Seed, ...]
    best: Seed | None
    path: CriticalPath | None
    seconds: Mapping[str, float]
    files: tuple[Path, ...] = ()
    bitstream: Path | None = None
    sha256: str | None = None
    refusal: str = ""

    @property
    def clock_mhz(self) -> float:
        """The engine's clock."""
        return self.clocking.hz / 1e6

    @property
    def fmax_mhz(self) -> dict[str, float]:
        """Minimum, median and best routed Fmax over the seeds that were routed; empty if none was."""
        routed = [s.worst_mhz for s in self.seeds if not s.failure]
        if not routed:
            return {}
        return {"minimum": min(routed), "median": statistics.median(routed), "best": max(routed)}

    @property
    def luts_per_pe(self) -> float:
        """LUTs of the whole design for each processing element."""
        return self.resources["luts"].used / self.config.peak_macs

    @property
    def array_luts_per_pe(self) -> float:
        """LUTs of the array alone for each processing element."""
        return self.array_luts / self.config.peak_macs

    @property
    def peak_macs_per_second(self) -> float:
        """Multiply-accumulates a second while the array is busy."""
        return self.config.peak_macs * self.clocking.hz

    def facts(self) -> list[tuple[str, str]]:
        """What people want to know besides the resources: names and values."""
        rows = [
            (
                "LUTs for each processing element",
                f"{self.luts_per_pe:.0f} (the array alone: {self.array_luts_per_pe:.0f})",
            ),
            ("engine clock", f"{self.clock_mhz:.4g} MHz; serial line at {self.clocking.baud:,} baud"),
        ]
        if self.best:
            f, routed = self.fmax_mhz, sum(not s.failure for s in self.seeds)
            rows.append(
                (
                    "routed Fmax (estimate of nextpnr)",
                    f"{f['minimum']:.1f} / {f['median']:.1f} / {f['best']:.1f} MHz: minimum, median, best of {routed}",
                )
            )
            rows.append(("best seed", f"{self.best.seed}"))
        else:
            rows.append(("place and route", "not run"))
        rows += [(f"seed {s.seed}", f"failed: {s.failure}") for s in self.seeds if s.failure]
        if self.path:
            rows.append(("critical path", self.path.words()))
        peak = self.peak_macs_per_second / 1e9
        rows += [
            ("peak rate", f"{peak:.3g} G multiply-accumulates a second, {self.config.peak_macs} a cycle"),
            (
                "dense equivalent of the peak",
                f"{peak / KEPT:.3g} G a second at most, if {100 * KEPT:g} % of the rows are kept",
            ),
            ("seconds", ", ".join(f"{stage} {s:.0f}" for stage, s in self.seconds.items())),
        ]
        if self.sha256:
            rows.append(("SHA-256 of the bitstream", self.sha256))
        return rows

    def as_json(self) -> dict[str, Any]:
        """Everything, as values for JSON; `sha256` is that of the bitstream."""
        return {
            "board": self.board.name,
            "part": self.board.part,
            "config": self.config.model_dump(mode="json"),
            "config_digest": self.config.digest,
            "bitstream": self.bitstream.name if self.bitstream else None,
            "sha256": self.sha256,
            "refusal": self.refusal,
            "place_and_route": "run" if self.seeds else "not run",
            "clock_mhz": self.clock_mhz,
            "baud": self.clocking.baud,
            "resources": {
                name: {"title": r.title, "used": r.used, "available": r.available, "left": r.left}
                for name, r in self.resources.items()
            },
            "luts_per_pe": self.luts_per_pe,
            "array_luts_per_pe": self.array_luts_per_pe,
            "multipliers_of_the_engine": self.config.multipliers,
            "fmax_mhz": self.fmax_mhz,
            "seeds": [asdict(s) for s in self.seeds],
            "best_seed": self.best.seed if self.best else None,
            "critical_path": asdict(self.path) | {"words": self.path.words()} if self.path else None,
            "peak_macs_per_second": self.peak_macs_per_second,
            "dense_equivalent_macs_per_second": {
                "rows_kept": KEPT,
                "at_most": self.peak_macs_per_second / KEPT,
            },
            "seconds": dict(self.seconds),
            "tools": dict(self.tools),
        }
