"""The schedule is a table: the array sequencer walks another one too."""

from __future__ import annotations

from typing import Any

import pytest
from amaranth.sim import Simulator

from gradsieve.hw.array.array_sequencer import ArraySequencer
from gradsieve.hw.array.schedule import BACKWARD, Phase
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.dataflow import Dataflow

CONFIG = EngineConfig(name="schedule", R=2, C=2, max_H=6, max_I=4, max_B=4, max_T=3)
STEPS, BATCH_TILES, X_TILES, H_TILES = 2, 2, 2, 3
WITHOUT_GRADIENTS = BACKWARD[:2]
REVERSED = (
    Phase("dx", Dataflow.ERROR, "x", waits_for="rows"),
    Phase("dh_rec", Dataflow.ERROR, "h"),
    Phase("dW_hh", Dataflow.GRADIENT, "h", waits_for="inputs"),
    Phase("dW_ih", Dataflow.GRADIENT, "x", waits_for="inputs"),
)


def jobs(phases: tuple[Phase, ...]) -> list[tuple[int, int, int, int, int, int]]:
    """dataflow, hidden, tile, batch_tile, ends_hidden and ends_step of each job of a run, simulated."""
    design = ArraySequencer(CONFIG, phases)
    found = []

    async def run(context: Any) -> None:
        sizes = {"T": STEPS, "batch_tiles": BATCH_TILES, "x_tiles": X_TILES, "h_tiles": H_TILES}
        for name, value in sizes.items():
            context.set(design.run[name], value)
            context.set(design.run.end[name], value - 1)
        for ready in (design.jobs.ready, design.input_jobs.ready, design.steps.valid, design.steps.payload):
            context.set(ready, 1)
        for name in ("inputs_done", "inputs_done", "start"):
            context.set(getattr(design, name), 1)
            await context.tick()
            context.set(getattr(design, name), 0)
        waits = sum(phase.waits_for == "inputs" for phase in phases)
        for cycle in range(400):
            if context.get(design.jobs.valid):
                job = context.get(design.jobs.payload)
                names = ("dataflow", "hidden", "tile", "batch_tile", "ends_hidden", "ends_step")
                found.append(tuple(int(job[name]) for name in names))
            context.set(design.inputs_done, waits > 0 and cycle % 20 == 0)
            await context.tick()

    simulator = Simulator(design)
    simulator.add_clock(1e-6)
    simulator.add_testbench(run)
    simulator.run()
    return found


def expected(phases: tuple[Phase, ...]) -> list[tuple[int, int, int, int, int, int]]:
    """The same from the table, in plain loops."""
    out = []
    for _ in range(STEPS):
        for batch_tile in range(BATCH_TILES):
            for n, phase in enumerate(phases):
                hidden = int(phase.columns == "h")
                count = H_TILES if hidden else X_TILES
                for tile in range(count):
                    last = tile == count - 1
                    ends_hidden, ends_step = phase.result == "dh_rec" and last, n == len(phases) - 1 and last
                    place = tile + CONFIG.x_tiles * hidden
                    out.append((int(phase.dataflow), hidden, place, batch_tile, int(ends_hidden), int(ends_step)))
    return out


@pytest.mark.parametrize("phases", [BACKWARD, WITHOUT_GRADIENTS, REVERSED], ids=["backward", "no dW", "reversed"])
def test_walks_the_table(phases: tuple[Phase, ...]) -> None:
    assert jobs(phases) == expected(phases)
