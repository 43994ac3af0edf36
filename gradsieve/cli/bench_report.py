"""What the bench measured: the figures of a level, as tables and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from gradsieve.hw.config import EngineConfig

STALLS = ("gates", "tape", "input", "drain", "output")
"""Causes of stalls, as in the counters STALL_*."""


@dataclass(frozen=True)
class Level:
    """One run: `counters` by their names in the register map, those of load and readout for this run alone.

    `dense` is the dense run, None in itself.
    """

    kept: float
    rows: int
    rows_kept: int
    counters: dict[str, int]
    peak_macs: int
    mismatches: int
    dense: Level | None

    @property
    def cycles(self) -> int:
        """Of the run as the counter CYCLES defines it, tape streaming included."""
        return self.counters["CYCLES"]

    @property
    def indices(self) -> int:
        """Row indices streamed into the array."""
        return self.counters["INDICES"]

    @property
    def transfer_cycles(self) -> int:
        """The run with loading the weights before it and reading the weight gradients out after it."""
        return self.cycles + self.counters["LOAD_CYCLES"] + self.counters["READOUT_CYCLES"]

    @property
    def stream_efficiency(self) -> float:
        """Indices streamed a cycle."""
        return self.indices / self.cycles

    @property
    def array_utilisation(self) -> float:
        """Useful multiply-accumulates of those that the array could do."""
        return self.counters["MACS"] / (self.peak_macs * self.cycles)

    @property
    def speedup(self) -> float:
        """Over the dense run."""
        return (self.dense or self).cycles / self.cycles

    @property
    def speedup_with_transfers(self) -> float:
        """Over the dense run, loading weights and reading gradients included on both sides."""
        return (self.dense or self).transfer_cycles / self.transfer_cycles

    @property
    def indices_ratio(self) -> float:
        """How many times more indices the dense run streams: the speedup that there is to be had."""
        return (self.dense or self).indices / self.indices

    def as_json(self) -> dict[str, Any]:
        """Every figure by its name."""
        return {
            "kept": self.kept,
            "rows": self.rows,
            "rows_kept": self.rows_kept,
            "cycles": self.cycles,
            "load_cycles": self.counters["LOAD_CYCLES"],
            "readout_cycles": self.counters["READOUT_CYCLES"],
            "busy_cycles": self.counters["BUSY_CYCLES"],
            "indices": self.indices,
            "macs": self.counters["MACS"],
            "stream_efficiency": self.stream_efficiency,
            "array_utilisation": self.array_utilisation,
            "speedup": self.speedup,
            "indices_ratio": self.indices_ratio,
            "speedup_with_transfers": self.speedup_with_transfers,
            "stalls": {cause: self.counters[f"STALL_{cause.upper()}"] for cause in STALLS},
            "mismatches": self.mismatches,
        }


@dataclass(frozen=True)
class Bench:
    """All levels of one layer of sizes H, I, B, T, in the order in which they were asked for."""

    config: EngineConfig
    sizes: tuple[int, int, int, int]
    dense: Level
    levels: list[Level]
    cycles_per_second: float

    @property
    def runs(self) -> list[Level]:
        """Every run that was made, once: the dense one first, unless it is one of the levels."""
        distinct = list({level.kept: level for level in self.levels}.values())
        return distinct if self.dense in distinct else [self.dense, *distinct]


def as_json(result: Bench) -> dict[str, Any]:
    """The content of the file of `--json`."""
    return {
        "config": result.config.model_dump(mode="json") | {"digest": result.config.digest},
        "layer": dict(zip("HIBT", result.sizes, strict=True)),
        "rows_chosen": "at random for each step and batch tile; row sieve, tau = 1, the other rows' gradients are zero",
        "simulated_cycles_per_second": result.cycles_per_second,
        "dense": result.dense.as_json(),
        "levels": [level.as_json() for level in result.levels],
    }


def show(result: Bench, screen: Console) -> None:
    """Print the tables."""
    levels = result.runs
    H, I, B, T = result.sizes
    c = result.config
    screen.print(_work(levels, f"{c.name} ({c.R}×{c.C} array): H = {H}, I = {I}, B = {B}, T = {T}"))
    screen.print(_transfers(levels))
    screen.print(_stalls(levels))
    rounded = [v for v in levels if v.rows_kept != v.kept * v.rows]
    if rounded:
        exact = ", ".join(f"{_percent(v.kept)} is {_percent(v.rows_kept / v.rows)}" for v in rounded)
        screen.print(f"kept is rounded to whole rows of a tile: {exact}", highlight=False, markup=False, soft_wrap=True)
    for line in (
        "Rows are drawn at random for each step and batch tile; the others have a gradient of exactly zero, and the",
        "row sieve with tau = 1 drops them. 100 % is the dense mode; speedups refer to it.",
        f"simulated {result.cycles_per_second:,.0f} cycles a second of one core's time",
    ):
        screen.print(line, highlight=False, markup=False, soft_wrap=True)


def _table(title: str, headings: tuple[str, ...]) -> Table:
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def _work(levels: list[Level], title: str) -> Table:
    headings = ("kept", "rows kept", "cycles", "indices", "stream eff.", "array util.", "speedup", "indices ratio")
    table = _table(title, (*headings, "mismatches"))
    for v in levels:
        table.add_row(
            _percent(v.kept),
            f"{v.rows_kept:,}",
            f"{v.cycles:,}",
            f"{v.indices:,}",
            f"{v.stream_efficiency:.3f}",
            f"{v.array_utilisation:.3f}",
            f"{v.speedup:.2f}×",
            f"{v.indices_ratio:.2f}×",
            f"{v.mismatches:,}",
        )
    return table


def _transfers(levels: list[Level]) -> Table:
    headings = ("kept", "load", "run", "readout", "all", "speedup of all")
    table = _table("with loading the weights and reading dW out, cycles", headings)
    for v in levels:
        load, readout = v.counters["LOAD_CYCLES"], v.counters["READOUT_CYCLES"]
        cycles = (f"{n:,}" for n in (load, v.cycles, readout, v.transfer_cycles))
        table.add_row(_percent(v.kept), *cycles, f"{v.speedup_with_transfers:.2f}×")
    return table


def _stalls(levels: list[Level]) -> Table:
    table = _table("waiting, cycles by cause (causes can coincide)", ("kept", *STALLS, "array idle"))
    for v in levels:
        stalls = (f"{v.counters[f'STALL_{cause.upper()}']:,}" for cause in STALLS)
        table.add_row(_percent(v.kept), *stalls, f"{v.cycles - v.counters['BUSY_CYCLES']:,}")
    return table
