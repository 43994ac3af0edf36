"""Bench of the sieve: golden's sieve on random and corner rows, in all modes."""

from __future__ import annotations

import torch

from gradsieve.golden.arithmetic import xorshift32_states
from gradsieve.golden.sieve import sift
from gradsieve.golden.types import Sieve, SieveMode
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.gates.sieve import Sieve as SieveBlock
from gradsieve.hw.host.registers import BY_NAME
from gradsieve.hw.layouts import gate_rows_layout, sieved_rows_layout
from gradsieve.tb.coverage import CORNERS, corner, cover
from gradsieve.tb.environment import Bench, config, test

GROUPS = 120
TAUS = ("zero", "one", "small", "large", "top")

_sample = cover(
    "sieve",
    {
        "mode": [m.name for m in SieveMode],
        "tau": TAUS,
        "kept": [False, True],
        "element": CORNERS,
        "saturated": [False, True],
        "shift": range(17),
    },
    [("mode", "tau"), ("mode", "kept")],
    impossible=[("DENSE", False)],
)


def reference(config: EngineConfig, group: list[list[int]], sieve: Sieve, words: list[int]) -> dict[str, object]:
    """The sieved group, by golden: every row a gate row of one batch tile."""
    width = -(-len(group) // 4) * 4  # golden wants whole hidden units
    dz = torch.zeros(config.C, width, dtype=torch.int64)
    dz[:, : len(group)] = torch.tensor(group).T
    randoms = torch.tensor([words + [1] * (width - len(group))])
    sieved = sift(dz, sieve, config.C, config.formats.gradient, randoms)
    rows = sieved.dz[:, : len(group)].T
    return {
        "rows": rows.tolist(),
        "kept": sum(int(k) << n for n, k in enumerate(sieved.rows[0, : len(group)])),
        "elements": (rows != 0).sum(dim=1).tolist(),
        "saturated": sieved.saturations,
    }


def draw_tau(bench: Bench, kind: str) -> int:
    """A threshold of the class."""
    width = bench.config.formats.gradient.width
    low, high = {
        "zero": (0, 0),
        "one": (1, 1),
        "small": (2, 1 << width // 2),
        "large": (1 << width // 2, 1 << width),
    }.get(kind, (0, 0))
    return (1 << width) - 1 if kind == "top" else min(bench.rng.randint(low, high), (1 << width) - 1)


def draw_element(bench: Bench, tau: int) -> int:
    """Mostly around the threshold or one of its halvings; now and then a corner."""
    form, rng = bench.config.formats.gradient, bench.rng
    choice = rng.random()
    if choice < 0.3:
        return rng.choice((form.minimum, form.minimum + 1, -1, 0, 0, 0, 1, form.maximum))
    if choice < 0.8:
        value = (tau >> rng.randint(0, form.width)) + rng.randint(-1, 1)
        return max(form.minimum, min(form.maximum, rng.choice((-1, 1)) * value))
    return rng.randint(form.minimum, form.maximum)


async def run(bench: Bench, mode: SieveMode, tau: int, idle: str, stall: str, seed: int) -> None:
    """One stream of groups through the sieve, compared to the last bit."""
    c, rate = bench.config, bench.config.gate_rows_per_cycle
    bench.fresh()
    bench.set(mode=int(mode), tau=tau)
    source = bench.source("rows", gate_rows_layout(c), idle)
    sink = bench.sink("sieved", sieved_rows_layout(c), stall)
    load = bench.source("random_load", 32)
    load.send([seed])
    await bench.run_for(6)  # mode and tau are steady before the first row
    groups = []
    for _ in range(GROUPS):
        group = [[draw_element(bench, tau) for _ in range(c.C)] for _ in range(rate)]
        if bench.rng.random() < 0.1:
            group[bench.rng.randrange(rate)] = [0] * c.C
        groups.append(group)
    source.send(groups)
    await bench.run(lambda: len(sink) == GROUPS)

    stochastic = mode == SieveMode.STOCHASTIC
    states = xorshift32_states(seed, GROUPS * rate).tolist()
    sieve = Sieve(mode=mode, tau=tau, random=seed)
    for n, (group, actual) in enumerate(zip(groups, sink.values, strict=True)):
        expected = reference(c, group, sieve, states[n * rate : (n + 1) * rate])
        bench.scoreboard.equal(f"{mode.name} tau {tau} group {group}", actual, expected)
        for r, row in enumerate(group):
            score = max(abs(v) for v in row)
            shift = next((s for s in range(16) if score << s >= tau), 16)
            for element in row:
                _sample(
                    {
                        "mode": mode.name,
                        "tau": next(k for k, v in _classes(c, tau) if v),
                        "kept": bool(actual["kept"] >> r & 1),
                        "element": corner(element, c.formats.gradient),
                        "saturated": bool(actual["saturated"]),
                        "shift": shift if stochastic and score else None,
                    }
                )
    bench.scoreboard.equal("random state afterwards", bench.get("random"), states[-1] if stochastic else seed)
    if idle == stall == "none":
        for taken, left in zip(source.sent, sink.cycles, strict=True):
            bench.scoreboard.equal("latency", left - taken, SieveBlock(c).latency)
        bench.scoreboard.equal("cycles for the whole stream", source.sent[-1] - source.sent[0], GROUPS - 1)


def _classes(c: EngineConfig, tau: int) -> list[tuple[str, bool]]:
    width = c.formats.gradient.width
    top = (1 << width) - 1
    return [
        ("zero", tau == 0),
        ("one", tau == 1),
        ("top", tau == top),
        ("small", tau <= 1 << width // 2),
        ("large", True),
    ]


@test
async def all_modes(bench: Bench) -> None:
    """Every mode with every class of threshold, at full speed and with gaps on both sides."""
    bench.scoreboard.equal("random state after reset", bench.get("random"), BY_NAME["RANDOM"].reset)
    for _ in range(bench.rounds):
        for mode in SieveMode:
            for kind in TAUS:
                idle, stall = ("none", "none") if kind == "small" else (bench.pattern(), bench.pattern())
                await run(bench, mode, draw_tau(bench, kind), idle, stall, bench.rng.randrange(1, 1 << 32))


@test
async def reset_in_the_middle(bench: Bench) -> None:
    """A reset while rows are inside leaves nothing behind."""
    source = bench.source("rows", gate_rows_layout(config()))
    sink = bench.sink("sieved", sieved_rows_layout(config()))
    for held in range(4):
        bench.set(mode=int(SieveMode.STOCHASTIC), tau=3)
        source.send([[[1] * bench.config.C] * bench.config.gate_rows_per_cycle] * 6)
        await bench.run_for(3 + held)
        await bench.reset()
        await bench.run_for(8)
        bench.scoreboard.equal("words after the reset", len(sink), 0)
        bench.scoreboard.equal("random state after the reset", bench.get("random"), BY_NAME["RANDOM"].reset)
    await run(bench, SieveMode.STOCHASTIC, 100, "none", "none", 12345)
