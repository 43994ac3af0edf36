"""Bench of the processing element: both dataflows against plain integer sums."""

from __future__ import annotations

from typing import Any

from gradsieve.hw.array.processing_element import ARRAY_CONTROL, ProcessingElement
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.formats import FixedPoint
from gradsieve.tb.coverage import CORNERS, corner, cover
from gradsieve.tb.environment import Bench, test
from gradsieve.tb.layout import Format

_sample = cover(
    "processing_element",
    {
        "dataflow": ["error", "gradient"],
        "length": ["1", "more"],
        "a": CORNERS,
        "dz": CORNERS,
        "gap": [False, True],
        "after": ["error", "gradient"],
    },
    [("dataflow", "a"), ("dataflow", "dz"), ("dataflow", "length"), ("dataflow", "after")],
)
_CONTROL = Format(ARRAY_CONTROL)


def signed(value: int, width: int) -> int:
    """The low bits as a signed number."""
    return ((value & ((1 << width) - 1)) ^ 1 << width - 1) - (1 << width - 1)


def draw(bench: Bench, form: FixedPoint) -> int:
    """A value of the format, often one of its ends."""
    corners = (form.minimum, form.maximum, 0, -1, 1)
    return bench.rng.choice(corners) if bench.rng.random() < 0.3 else bench.rng.randint(form.minimum, form.maximum)


def draw_tiles(bench: Bench, count: int) -> tuple[list[dict[str, Any]], list[tuple[int, int, bool]]]:
    """Inputs by cycle, and by cycle of result its value and whether it is a finished error sum."""
    c, f, rng = bench.config, bench.config.formats, bench.rng
    cycles: list[dict[str, Any]] = []
    results: list[tuple[int, int, bool]] = []
    stationary, free, loads, before = 0, 0, 0, "error"
    for _ in range(count):
        gradient = rng.random() < 0.5
        dataflow = "gradient" if gradient else "error"
        length = rng.choice((1, 1, 2, rng.randint(3, 20)))
        share = rng.choice((0.0, 0.3))
        if gradient:  # the stationary input, stored at any time after the gradient tile before has taken its own
            stationary = draw(bench, f.input)
            if len(cycles) == free or rng.random() < 0.3:
                cycles.append({})
            loads = rng.randrange(free, len(cycles))
            cycles[loads] |= {"input": stationary, "input_load": 1}
        total = 0
        for n in range(length):
            while rng.random() < share:
                cycles.append({})
            dz, weight = draw(bench, f.gradient), draw(bench, f.weight)
            if gradient and n == 0:  # the input is taken in the cycle before, which may be the last of another tile
                if loads == len(cycles) - 1:
                    cycles.append({})
                free = len(cycles) - 1
                cycles[free]["control"] = cycles[free].get("control", 0) | _CONTROL.pack({"swap": 1})
            control = {"valid": 1, "dataflow": gradient, "last": n == length - 1}
            cycles.append({"control": _CONTROL.pack(control), "dz": dz, "weight": weight})
            now = len(cycles) - 1
            if gradient:
                old = signed(rng.getrandbits(f.weight_grad_width), f.weight_grad_width - 2)
                cycles[now]["old"] = old
                results.append((now, old + stationary * dz, False))
            else:
                total += weight * dz
                results.append((now, total, n == length - 1))
            _sample(
                {
                    "dataflow": dataflow,
                    "length": "1" if length == 1 else "more",
                    "a": corner(stationary, f.input) if gradient else corner(weight, f.weight),
                    "dz": corner(dz, f.gradient),
                    "gap": share > 0,
                    "after": before if n == 0 else None,
                }
            )
        before = dataflow
    assert c.accumulator_width >= f.weight_grad_width
    return cycles, results


async def play(bench: Bench, cycles: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Apply the inputs, a cycle each, and return all outputs by cycle."""
    padded = cycles + [{}] * (ProcessingElement.latency + 2)
    ports = {n: [now.get(n, 0) for now in padded] for n in ("control", "weight", "dz", "input", "input_load")}
    ports["partial_sum"] = [0, 0, *[now.get("old", 0) for now in padded[:-2]]]
    return await bench.play(ports, "total", "finished", "done", "control_out", "weight_out", "dz_out")


def check(bench: Bench, cycles: list[dict[str, Any]], results: list[tuple[int, int, bool]], out: Any) -> None:
    """Compare sums, their marks, and what the neighbours get."""
    c: EngineConfig = bench.config
    f, latency = c.formats, ProcessingElement.latency
    finished = {n + latency for n, _, last in results if last}
    for n, value, _ in results:
        bench.scoreboard.equal(f"sum {n}", signed(out["total"][n + latency], c.accumulator_width), value)
    bench.scoreboard.equal("done", {n for n, d in enumerate(out["done"]) if d}, finished)
    sums = {n + latency: value for n, value, last in results if last}
    for n, value in enumerate(out["finished"]):
        bench.scoreboard.equal(f"finished in cycle {n}", signed(value, c.error_sum_width), sums.get(n, 0))
    for n, now in enumerate(cycles):
        passed_on = (
            out["control_out"][n + 1],
            signed(out["weight_out"][n + 1], f.weight.width),
            signed(out["dz_out"][n + 1], f.gradient.width),
        )
        given = (now.get("control", 0), now.get("weight", 0), now.get("dz", 0))
        bench.scoreboard.equal("control, weight and dz of the neighbours", passed_on, given)


@test
async def tiles(bench: Bench) -> None:
    """Tiles of both dataflows back to back, with and without gaps."""
    for _ in range(bench.rounds):
        cycles, results = draw_tiles(bench, 150)
        check(bench, cycles, results, await play(bench, cycles))


@test
async def reset_in_the_middle(bench: Bench) -> None:
    """A reset in the middle of a tile: nothing is finished afterwards, and the next tiles are right."""
    cycles, _ = draw_tiles(bench, 3)
    unfinished = {"control": _CONTROL.pack({"valid": 1}), "dz": 1, "weight": 1}
    await play(bench, [*cycles[: len(cycles) // 2], *[unfinished] * 3])
    await bench.reset()
    bench.scoreboard.equal("finished after the reset", sum((await play(bench, [{}] * 5))["done"]), 0)
    cycles, results = draw_tiles(bench, 10)
    check(bench, cycles, results, await play(bench, cycles))
