"""What every bench has: its config and seed from outside, clock, reset, one loop a cycle, and its results."""

from __future__ import annotations

import functools
import json
import os
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.simtime import get_sim_time

from gradsieve.hw.config import EngineConfig, load
from gradsieve.tb.coverage import covered
from gradsieve.tb.scoreboard import Scoreboard
from gradsieve.tb.stream import PATTERNS, Sink, Source, gaps

CONFIG, RESULT, ROUNDS = "GRADSIEVE_BENCH_CONFIG", "GRADSIEVE_BENCH_RESULT", "GRADSIEVE_BENCH_ROUNDS"
"""Environment variables: the config's TOML file, the file for the results, and how often each random test repeats."""
PERIOD_NS = 10


def config() -> EngineConfig:
    """The config that this simulation verifies."""
    return _load(os.environ[CONFIG])


@functools.cache
def _load(path: str) -> EngineConfig:
    return load(path)


class _Totals:
    """Sums over all tests of the simulation."""

    comparisons = 0
    mismatches = 0
    cycles = 0


class Bench:
    """One test's access to the block under test.

    `run` is the only loop: each clock cycle it lets every driver and monitor act once.
    """

    def __init__(self, dut: Any, name: str) -> None:
        self.dut, self.name = dut, name
        self.config = config()
        self.seed = int(os.environ.get("COCOTB_RANDOM_SEED", "1"))
        self.rounds = int(os.environ.get(ROUNDS, "1"))
        self.rng = random.Random(f"{self.seed} {name}")
        self.scoreboard = Scoreboard()
        self.cycle = 0
        self.slow = False
        """Whether the stores of this test answer with random delays."""
        self.agents: list[Source | Sink] = []
        self.steps: list[Callable[[int], None]] = []

    async def start(self) -> None:
        """Start the clock and reset the block."""
        self.dut.rst.value = 1
        Clock(self.dut.clk, PERIOD_NS, unit="ns").start()
        await self.cycles(2)
        self.dut.rst.value = 0

    def source(self, name: str, shape: Any, idle: str = "none") -> Source:
        """A driver of the port `name`."""
        source = Source(self.dut, name, shape)
        source.idle = gaps(idle, self.rng)
        self.agents.append(source)
        self.steps.append(source.step)
        return source

    def sink(self, name: str, shape: Any, stall: str = "none", steady: bool = True) -> Sink:
        """A monitor of the port `name`, which drives `ready` if there is one."""
        sink = Sink(self.dut, name, shape, self.scoreboard, steady)
        sink.stall = gaps(stall, self.rng)
        self.agents.append(sink)
        self.steps.append(sink.step)
        return sink

    def fresh(self) -> None:
        """Give up all drivers and monitors."""
        for agent in self.agents:
            agent.clear()
        self.agents.clear()
        self.steps.clear()

    def pattern(self) -> str:
        """A random idle or backpressure pattern."""
        return self.rng.choice(PATTERNS)

    def set(self, **ports: int) -> None:
        """Drive plain inputs; one without bits is passed over."""
        for name, value in ports.items():
            handle = getattr(self.dut, name, None)
            if handle is not None:
                handle.value = value

    def get(self, name: str) -> int:
        """Sample a plain output."""
        return int(getattr(self.dut, name).value)

    async def reset(self) -> None:
        """Reset the block in the middle of whatever it does; drivers and monitors forget everything."""
        self.dut.rst.value = 1
        for agent in self.agents:
            agent.clear()
        await self.cycles(2)
        self.dut.rst.value = 0

    async def cycles(self, count: int) -> None:
        """Let cycles pass in which no driver or monitor acts."""
        edge = self.dut.clk.rising_edge
        for _ in range(count):
            await edge
        self.cycle += count

    async def run(self, until: Callable[[], bool], limit: int = 100_000) -> None:
        """Run until the condition holds.  Raises AssertionError after `limit` cycles: the block hangs."""
        edge, steps, start = self.dut.clk.rising_edge, self.steps, self.cycle
        while not until():
            await edge
            self.cycle += 1
            for step in steps:
                step(self.cycle)
            if self.cycle - start >= limit:
                state = ", ".join(
                    f"{a.name}: {len(a.queue)} queued" if isinstance(a, Source) else f"{a.name}: {len(a)} came"
                    for a in self.agents
                )
                raise AssertionError(f"nothing ends within {limit} cycles ({state})")

    async def play(self, inputs: Mapping[str, Sequence[int]], *outputs: str) -> dict[str, list[int]]:
        """Drive plain inputs with a value a cycle; what plain outputs were in the same cycles."""
        driven = [getattr(self.dut, name) for name in inputs]
        handles = {name: getattr(self.dut, name) for name in outputs}
        came: dict[str, list[int]] = {name: [] for name in outputs}
        edge = self.dut.clk.rising_edge
        await edge
        for values in zip(*inputs.values(), strict=True):
            for port, value in zip(driven, values, strict=True):
                port.value = value
            await edge
            for name, handle in handles.items():
                came[name].append(int(handle.value))
        self.cycle += 1 + len(came[outputs[0]])
        return came

    async def sent(self, *sources: Source, limit: int = 100_000) -> None:
        """Run until everything that is queued has been taken."""
        await self.run(lambda: all(s.done for s in sources), limit)

    async def came(self, sink: Sink, count: int, limit: int = 100_000) -> None:
        """Run until so many words have come."""
        await self.run(lambda: len(sink) >= count, limit)

    async def run_for(self, cycles: int) -> None:
        """Run for that many cycles."""
        end = self.cycle + cycles
        await self.run(lambda: self.cycle >= end, limit=cycles + 1)


def test(function: Callable[[Bench], Awaitable[None]]) -> Any:
    """A cocotb test of a function of a Bench: clock started, block reset, verdict and results at the end."""

    @functools.wraps(function)
    async def wrapped(dut: Any) -> None:
        bench = Bench(dut, function.__name__)
        try:
            await bench.start()
            await function(bench)
        finally:
            _Totals.comparisons += bench.scoreboard.comparisons
            _Totals.mismatches += bench.scoreboard.mismatches
            _Totals.cycles = round(get_sim_time("ns") / PERIOD_NS)
            _save()
        bench.scoreboard.verdict()

    # cocotb looks at the signature, which `wraps` would make that of the function
    del wrapped.__wrapped__
    return cocotb.test()(wrapped)


def _save() -> None:
    path = os.environ.get(RESULT)
    if path:
        result = {
            "comparisons": _Totals.comparisons,
            "mismatches": _Totals.mismatches,
            "cycles": _Totals.cycles,
            "coverage": covered(),
        }
        Path(path).write_text(json.dumps(result), encoding="utf-8")
