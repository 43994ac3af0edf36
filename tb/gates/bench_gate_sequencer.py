"""Bench of the gate sequencer: records, state and seeds to the gate gradient unit, and what must wait for what."""

from __future__ import annotations

from collections import deque
from typing import Any

from amaranth.hdl import signed
from amaranth.lib import data

from gradsieve.hw.gates.gate_sequencer import GateSequencer
from gradsieve.hw.layouts import gate_input_layout, lanes_layout, record_layout, state_layout
from gradsieve.hw.lib.stream_memory import write_layout
from gradsieve.tb.coverage import cover, fit, fits
from gradsieve.tb.environment import Bench, config, test
from gradsieve.tb.run_values import draw_run, set_run, tops
from gradsieve.tb.stream import Pulses, Responder

_CONFIG = config()
_sample = cover(
    "gate_sequencer",
    {
        "seed": [False, True],
        "B": fits(_CONFIG.C, tops(_CONFIG)["B"]),
        "T": ["one", "more"] if tops(_CONFIG)["T"] > 1 else ["one"],
        "slow": [False, True],
    },
)


class Engine:
    """The blocks around: the unit's cells, the drain's dh_rec, and the steps that the array finishes."""

    def __init__(self, bench: Bench, run: dict[str, Any]) -> None:
        c = bench.config
        self.bench, self.run, self.form = bench, run, c.formats.gradient
        depth = c.batch_tiles * c.max_H
        self.state = [{"dh": self.lanes(), "dc": self.lanes()} for _ in range(depth)]
        self.reads: list[Any] = []
        self.early: list[str] = []
        self.inputs = bench.sink("gate_inputs", gate_input_layout(c), bench.pattern() if bench.slow else "none")
        self.cells = bench.source("cells", lanes_layout(c))
        Responder(bench, "state_request", "state", (range(depth), state_layout(c)), self.read)
        self.cell_writes = bench.sink("cell_write", write_layout(lanes_layout(c), depth))
        self.tiles = bench.sink("tile", 1, bench.pattern() if bench.slow else "none")
        self.order = [(t, b) for t in reversed(range(run["T"])) for b in range(run["batch_tiles"])]
        self.expected_cells: list[Any] = []
        self.seen = self.written = self.hidden = self.steps = 0
        self.pending: deque[tuple[int, Any]] = deque()
        self.hidden_at: deque[int] = deque()
        self.step_at: deque[int] = deque()
        bench.steps.append(self.step)

    def lanes(self) -> list[int]:
        """Random gradients."""
        return [self.bench.rng.randint(self.form.minimum, self.form.maximum) for _ in range(self.bench.config.C)]

    def read(self, address: int) -> Any:
        """A read of the state store, which must not come before what it reads is written."""
        n = len(self.reads) // self.run["H"]
        _, b = self.order[n]
        previous = n - self.run["batch_tiles"]
        if previous >= 0 and (self.hidden <= previous or self.written < (previous + 1) * self.run["H"]):
            self.early.append(f"state of batch tile {n} is read before it is complete")
        due = b * self.bench.config.max_H + len(self.reads) % self.run["H"]
        if address != due:
            self.early.append(f"state is read at {address}, not {due}")
        self.reads.append(self.state[address])
        return self.state[address]

    def step(self, cycle: int) -> None:
        """One clock edge."""
        bench, H = self.bench, self.run["H"]
        delay = bench.rng.randint(1, 30)
        while self.seen < len(self.inputs):
            last = self.pending[-1][0] if self.pending else 0
            word = self.lanes()
            self.pending.append((max(cycle + 20, last + 1), word))
            self.expected_cells.append(word)
            self.seen += 1
            if self.seen % H == 0:
                self.hidden_at.append(cycle + 40 + delay)
                self.step_at.append(cycle + 60 + 2 * delay)
        if self.pending and self.pending[0][0] <= cycle:
            self.cells.send([self.pending.popleft()[1]])
        while self.written < len(self.cell_writes):
            value = self.cell_writes.format.unpack(self.cell_writes.words[self.written])
            self.state[value["address"]] = {**self.state[value["address"]], "dc": value["word"]}
            self.written += 1
        bench.set(hidden_done=0, step_done=0)
        if self.hidden_at and self.hidden_at[0] <= cycle:
            self.hidden_at.popleft()
            b = self.order[self.hidden][1]
            for unit in range(H):
                address = b * bench.config.max_H + unit
                self.state[address] = {**self.state[address], "dh": self.lanes()}
            self.hidden += 1
            bench.set(hidden_done=1)
        if self.step_at and self.step_at[0] <= cycle and self.steps < self.hidden:
            self.step_at.popleft()
            self.steps += 1
            bench.set(step_done=1)
        if len(self.tiles) > self.steps + 2:
            self.early.append(f"batch tile {len(self.tiles) - 1} begins while two slots are in use")


async def one_run(bench: Bench, seed: bool, slow: bool) -> None:
    """One run."""
    c, rng, f = bench.config, bench.rng, bench.config.formats
    bench.fresh()
    bench.slow = slow
    run = draw_run(c, rng, seed=seed)
    await set_run(bench, run)
    forms = {"c_prev": f.cell, "h_prev": f.input, "dy": f.gradient}
    lanes = data.ArrayLayout(signed(f.input.width), c.C)
    records = bench.source("records", record_layout(c), bench.pattern() if slow else "none")
    x = bench.source("x", lanes, bench.pattern() if slow else "none")
    writes = bench.sink("input_write", write_layout(lanes, GateSequencer(c).input_depth))
    pulses = Pulses(bench, "done", "inputs_done")
    engine = Engine(bench, run)
    sent, expected_writes = [], []

    def draw(name: str) -> list[int]:
        form = forms.get(name, f.input if name == "x" else f.activation)
        return [rng.randint(form.minimum, form.maximum) for _ in range(c.C)]

    for n in range(len(engine.order)):
        base = n % 2 * (GateSequencer(c).input_depth // 2)
        for unit in range(run["H"]):
            sent.append({name: draw(name) for name, _ in record_layout(c)})
            expected_writes.append({"address": base + c.max_I + unit, "word": sent[-1]["h_prev"]})
        vectors = [draw("x") for _ in range(run["I"])]
        x.send(vectors)
        expected_writes += [{"address": base + i, "word": v} for i, v in enumerate(vectors)]
    records.send(sent)
    bench.set(start=1)
    await bench.run_for(1)
    bench.set(start=0)
    await bench.run(lambda: bool(pulses.cycles["done"]), limit=100_000)
    await bench.run_for(100)

    expected = []
    for n, record in enumerate(sent):
        t, b = engine.order[n // run["H"]]
        valid = run["last_lanes"] if b == run["batch_tiles"] - 1 else c.C
        state = engine.reads[n] if seed or t < run["T"] - 1 else {"dh": [0] * c.C, "dc": [0] * c.C}
        masked = {"dy": record["dy"], **state}
        due = {name: record[name] for name in ("i", "f", "g", "o", "tanh_c", "c_prev")}
        due |= {name: [v if lane < valid else 0 for lane, v in enumerate(v)] for name, v in masked.items()}
        expected.append({**due, "lane_valid": (1 << valid) - 1})
    names = list(expected[0])
    actual = [{name: v[name] for name in names} for v in engine.inputs.values]
    bench.scoreboard.sequence("gate input", actual, expected)
    bench.scoreboard.sequence("input write", writes.values, expected_writes)
    addresses = [b * c.max_H + u for _, b in engine.order for u in range(run["H"])]
    cells = [{"address": a, "word": w} for a, w in zip(addresses, engine.expected_cells, strict=True)]
    bench.scoreboard.sequence("cell write", engine.cell_writes.values, cells)
    bench.scoreboard.equal("slots", engine.tiles.values, [n % 2 for n in range(len(engine.order))])
    bench.scoreboard.equal("pulses of inputs_done", len(pulses.cycles["inputs_done"]), len(engine.order))
    bench.scoreboard.equal("what came too early", engine.early[:3], [])
    T = "one" if run["T"] == 1 else "more"
    _sample({"seed": seed, "B": fit(run["B"], c.C, tops(c)["B"]), "T": T, "slow": slow})


@test
async def runs(bench: Bench) -> None:
    """Runs with and without seeds, everything around fast or slow."""
    for _ in range(4 * bench.rounds):
        for seed in (False, True):
            for slow in (False, True):
                await one_run(bench, seed, slow)
