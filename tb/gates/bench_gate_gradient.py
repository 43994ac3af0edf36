"""Bench of the gate gradient unit: golden's elementwise step on random and corner values."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch

from gradsieve.golden.gate_gradient import derivative_factors, gate_gradients
from gradsieve.golden.types import Tape
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.formats import FixedPoint
from gradsieve.hw.gates.gate_gradient import GateGradientUnit, saturation_layout
from gradsieve.hw.layouts import gate_input_layout, gate_rows_layout, lanes_layout
from gradsieve.tb.coverage import CORNERS, corner, cover
from gradsieve.tb.environment import Bench, config, test
from gradsieve.tb.stream import gaps

UNITS = 100
ACTIVATIONS = ("i", "f", "g", "o", "tanh_c")
GRADIENTS = ("dy", "dh", "dc")

_ACTIVATION = config().formats.activation
# with factors below one no product reaches the smallest value: |dz| <= maximum
_DZ = CORNERS[1:] if _ACTIVATION.fraction == _ACTIVATION.width - 1 else CORNERS

_sample = cover(
    "gate_gradient",
    {
        **dict.fromkeys((*ACTIVATIONS, "c_prev", *GRADIENTS), CORNERS),
        "dz": _DZ,
        "lanes": ["none", "some or all"],
        "gate_saturated": [False, True],
        "factor_saturated": [False, True],
    },
)


def form_of(c: EngineConfig, name: str) -> FixedPoint:
    """The number format of an input."""
    f = c.formats
    return f.cell if name == "c_prev" else f.gradient if name in GRADIENTS else f.activation


def draw(bench: Bench, form: FixedPoint, kind: str) -> int:
    """A value: `usual` ones are of any magnitude, `full` the whole range, `corner` its ends, `even` makes ties."""
    rng = bench.rng
    if kind == "even":  # products and squares of numbers with many low zeros end in just one half
        power = rng.choice(((form.fraction - 1) // 2, rng.randrange(form.width)))
        odd = rng.randint(form.minimum >> power, form.maximum >> power) | 1
        return max(form.minimum, min(form.maximum, odd << power))
    if kind == "corner":
        return rng.choice((form.minimum, form.minimum + 1, -1, 0, 1, form.maximum - 1, form.maximum))
    if kind == "full":
        return rng.randint(form.minimum, form.maximum)
    return rng.randint(form.minimum, form.maximum) >> rng.randint(0, form.width - 1)


def draw_unit(bench: Bench) -> dict[str, Any]:
    """One hidden unit of C lanes."""
    kinds = ("usual", "full", "corner", "even")
    kind = bench.rng.choice((*kinds, "corner", "any"))
    unit: dict[str, Any] = {}
    for name in (*ACTIVATIONS, "c_prev", *GRADIENTS):
        form = form_of(bench.config, name)
        unit[name] = [
            draw(bench, form, bench.rng.choice(kinds) if kind == "any" else kind) for _ in range(bench.config.C)
        ]
    unit["lane_valid"] = bench.rng.getrandbits(bench.config.C)
    return unit


def reference(c: EngineConfig, units: list[dict[str, Any]], lanes: list[int]) -> tuple[Any, Any, int, int]:
    """dz (lanes, 4, units), dc (lanes, units) and both counts of saturations, by golden."""
    values = {
        name: torch.tensor([[u[name][n] for u in units] for n in lanes]) for name in units[0] if name != "lane_valid"
    }
    empty = torch.zeros(1, len(lanes), 0, dtype=torch.int64)
    steps = {f.name: values[f.name][None] if f.name in values else empty for f in fields(Tape)}
    tape = Tape(**(steps | {"dh": values["dh"], "dc": values["dc"]}))
    factors = derivative_factors(c.formats, tape)
    dz, dc, gate = gate_gradients(c.formats, tape, factors, 0, values["dh"], values["dc"])
    return dz.unflatten(1, (4, -1)), dc, gate, factors.saturations


def check(bench: Bench, units: list[dict[str, Any]], rows: list[Any], cells: list[Any], counts: list[Any]) -> None:
    """Compare everything that came out with golden; saturations by their sums, in lanes that hold a sample."""
    c = bench.config
    dz, dc, _, _ = reference(c, units, list(range(c.C)))
    expected = dz.permute(2, 1, 0).reshape(-1, c.C).tolist()
    bench.scoreboard.sequence("gate row", [row for group in rows for row in group], expected)
    bench.scoreboard.sequence("cell", cells, dc.T.tolist())
    gate = factor = 0
    for n, unit in enumerate(units):
        valid = [lane for lane in range(c.C) if unit["lane_valid"] >> lane & 1]
        counted = reference(c, [unit], valid)[2:] if valid else (0, 0)
        gate, factor = gate + counted[0], factor + counted[1]
        for lane in range(c.C):
            _sample(
                {
                    **{name: corner(unit[name][lane], form_of(c, name)) for name in unit if name != "lane_valid"},
                    "dz": corner(expected[4 * n][lane], c.formats.gradient),
                    "lanes": "some or all" if valid else "none",
                    "gate_saturated": counted[0] > 0,
                    "factor_saturated": counted[1] > 0,
                }
            )
    bench.scoreboard.equal("gate saturations", sum(v["gate"] for v in counts), gate)
    bench.scoreboard.equal("factor saturations", sum(v["factor"] for v in counts), factor)


async def run(bench: Bench, units: int, idle: str, stall: str) -> None:
    """One stream of hidden units."""
    c = bench.config
    bench.fresh()
    source = bench.source("inputs", gate_input_layout(c), idle)
    rows = bench.sink("rows", gate_rows_layout(c), stall)
    cells = bench.sink("cells", lanes_layout(c))
    saturated = bench.sink("saturated", saturation_layout(c))
    drawn = [draw_unit(bench) for _ in range(units)]
    source.send(drawn)
    groups = 4 // c.gate_rows_per_cycle
    await bench.run(lambda: len(rows) == groups * units)
    # the last counts follow, and nothing else may
    rows.stall = gaps("none", bench.rng)
    await bench.run_for(4 * groups)
    check(bench, drawn, rows.values, cells.values, saturated.values)
    if idle == stall == "none":
        latency = GateGradientUnit(c).latency
        for n, taken in enumerate(source.sent):
            bench.scoreboard.equal("latency", rows.cycles[n * groups] - taken, latency)
            bench.scoreboard.equal("latency of the cell", cells.cycles[n] - taken, GateGradientUnit(c).pipeline)
        bench.scoreboard.equal("cycles of all units", source.sent[-1] - source.sent[0], (units - 1) * groups)


@test
async def streams(bench: Bench) -> None:
    """Long streams at full speed, then with gaps on both sides."""
    for _ in range(bench.rounds):
        await run(bench, UNITS, "none", "none")
        for _ in range(4):
            await run(bench, UNITS // 2, bench.pattern(), bench.pattern())


@test
async def single_units(bench: Bench) -> None:
    """Units one by one, so that each one's saturations are compared alone."""
    for _ in range(25 * bench.rounds):
        await run(bench, 1, "none", bench.pattern())


@test
async def reset_in_the_middle(bench: Bench) -> None:
    """A reset while units are inside leaves nothing behind."""
    c = bench.config
    for held in range(4):
        bench.fresh()
        source = bench.source("inputs", gate_input_layout(c))
        rows, cells = bench.sink("rows", gate_rows_layout(c)), bench.sink("cells", lanes_layout(c))
        source.send([draw_unit(bench) for _ in range(20)])
        await bench.run_for(10 + 7 * held)
        await bench.reset()
        await bench.run_for(60)
        bench.scoreboard.equal("rows after the reset", len(rows), 0)
        bench.scoreboard.equal("cells after the reset", len(cells), 0)
        await run(bench, 5, "none", "none")
