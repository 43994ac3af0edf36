"""Bench of the operand fetch: indices to operands of the array, its interlocks, and dW written back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gradsieve.hw.array.operand_fetch import STORE_LATENCY, OperandFetch
from gradsieve.hw.array.systolic_array import SUM_DELAY, gradient_latency
from gradsieve.hw.array.weight_gradient_store import WeightGradientStore
from gradsieve.hw.array.weight_store import WeightStore
from gradsieve.hw.layouts import gate_rows_layout, index_layout, job_layout, operand_layout
from gradsieve.tb.coverage import cover
from gradsieve.tb.environment import Bench, test
from gradsieve.tb.layout import Format
from gradsieve.tb.stream import Pulses

_sample = cover(
    "operand_fetch",
    {
        "dataflow": ["error", "gradient"],
        "job": ["empty", "1", "more"],
        "fence": [False, True],
        "indices": ["steady", "with gaps"],
        "interlocks": ["open", "held"],
    },
    [("dataflow", "job"), ("indices", "interlocks")],
)


def draw_jobs(bench: Bench, count: int) -> list[list[dict[str, Any]]]:
    """Beats of the compactor, job by job."""
    c, rng = bench.config, bench.rng
    jobs = []
    for _ in range(count):
        gradient = rng.random() < 0.5
        job: dict[str, Any] = {
            "dataflow": int(gradient),
            "slot": rng.randrange(2),
            "tile": rng.randrange(c.tiles),
            "columns": rng.randint(1, c.R),
            "lanes": rng.randint(1, c.C),
            "fence": int(gradient and rng.random() < 0.3),
            "ends_step": int(gradient and rng.random() < 0.3),
        }
        length = rng.choice((0, 1, rng.randint(2, min(20, c.gate_rows))))
        rows = sorted(rng.sample(range(c.gate_rows), length))
        beats: list[dict[str, Any]] = [{"q": q, "empty": 0} for q in rows] or [{"q": 0, "empty": 1}]
        for n, beat in enumerate(beats):
            beat |= {"first": int(n == 0), "last": int(n == len(beats) - 1), "job": job}
        jobs.append(beats)
        size = "empty" if not length else "1" if length == 1 else "more"
        _sample({"dataflow": "gradient" if gradient else "error", "job": size, "fence": bool(job["fence"])})
        if gradient and 0 < length < 4:  # the same words again, while they are in the array but for the fence
            again = {**job, "fence": 1}
            jobs.append([{**beat, "job": again} for beat in beats])
    return jobs


class Store:
    """Has the word of a request at its port OperandFetch's STORE_LATENCY cycles later, and anything otherwise."""

    def __init__(self, bench: Bench, name: str, shape: Any, read: Callable[[int], Any]) -> None:
        self.bench, self.port, self.format, self.read = bench, f"{name}_word", Format(shape), read
        self.valid = getattr(bench.dut, f"{name}_request__valid")
        self.address = getattr(bench.dut, f"{name}_request__payload", None)
        self.coming: list[int] = [0] * (STORE_LATENCY - 1)
        bench.steps.append(self.step)

    def step(self, cycle: int) -> None:
        """One clock edge."""
        noise = self.bench.rng.getrandbits(self.format.width)
        address = 0 if self.address is None else int(self.address.value)
        self.coming.append(self.format.pack(self.read(address)) if self.valid.value else noise)
        self.bench.set(**{self.port: self.coming.pop(0)})


class Values:
    """The value of a port in every cycle."""

    def __init__(self, bench: Bench, port: str) -> None:
        self.handle = getattr(bench.dut, port)
        self.at: dict[int, int] = {}
        bench.steps.append(self.step)

    def step(self, cycle: int) -> None:
        """One clock edge."""
        self.at[cycle] = int(self.handle.value)


class Neighbours:
    """The input store and the drain around the block."""

    def __init__(self, bench: Bench, held: bool) -> None:
        self.bench, self.held = bench, held
        self.loaded = self.ready = False
        self.taken_without_inputs = self.ended_without_room = 0
        bench.steps.insert(0, self.step)

    def step(self, cycle: int) -> None:
        """One clock edge."""
        dut, rng = self.bench.dut, self.bench.rng
        if dut.inputs_taken.value:
            self.taken_without_inputs += not self.loaded
            self.loaded = False
        elif not self.loaded:
            self.loaded = not self.held or rng.random() < 0.1
        if dut.drain_jobs__valid.value:
            self.ended_without_room += not self.ready
            self.ready = False
        elif not self.ready:
            self.ready = not self.held or rng.random() < 0.1
        self.bench.set(inputs_loaded=int(self.loaded), drain_ready=int(self.ready))


async def run(bench: Bench, gaps: bool, held: bool) -> None:
    """Jobs through the block."""
    c, rng, f = bench.config, bench.rng, bench.config.formats
    rate = c.gate_rows_per_cycle
    bench.fresh()
    groups = 2 * c.gate_rows // rate

    def words(count: int, length: int, width: int) -> list[list[int]]:
        return [[rng.randrange(-(1 << width - 1), 1 << width - 1) for _ in range(length)] for _ in range(count)]

    rows = [words(rate, c.C, f.gradient.width) for _ in range(groups)]
    operands = bench.sink("operands", operand_layout(c))
    neighbours = Neighbours(bench, held)
    Store(bench, "row", gate_rows_layout(c), lambda a: rows[a])
    weights, gradients = Values(bench, "weight_address"), Values(bench, "gradient_address")
    macs = Values(bench, "macs")
    writes = bench.sink("gradient_write", range(c.weight_words))
    drains = bench.sink("drain_jobs", job_layout(c))
    pulses = Pulses(bench, "step_done", "streamed", "busy", "inputs_taken", "idle")
    indices = bench.source("indices", index_layout(c), bench.pattern() if gaps else "none")
    # within a batch tile no word of dW comes twice: that is what the fence is for
    jobs: list[list[dict[str, Any]]] = []
    used: set[int] = set()
    for beats in draw_jobs(bench, 60):
        job = beats[0]["job"]
        if job["dataflow"]:
            if job["fence"] or job["tile"] in used:
                job["fence"], used = 1, set()
            used.add(job["tile"])
        jobs.append(beats)
    beats = [b for j in jobs for b in j]
    indices.send(beats)
    await bench.run(lambda: len(operands) >= len(beats), limit=100_000)
    await bench.run(lambda: bool(bench.dut.idle.value), limit=1000)
    await bench.run_for(5)

    expected, expected_writes, expected_drains, asked = [], [], [], []
    written: dict[int, int] = {}
    for beat, cycle in zip(beats, operands.cycles, strict=True):
        job, q, empty = beat["job"], beat["q"], beat["empty"]
        address = job["tile"] * c.gate_rows + q
        operand: dict[str, Any] = {"dataflow": job["dataflow"], "last": beat["last"]}
        operand["dz"] = [0] * c.C if empty else rows[job["slot"] * (groups // 2) + q // rate][q % rate]
        # the word must be at row 0 with the operand; an old sum, SUM_DELAY cycles later
        if not empty and job["dataflow"]:
            read = cycle + SUM_DELAY - WeightGradientStore.latency
            asked.append((gradients.at[read], address))
            # the store reads a cycle later, and writes a cycle after its announcement: in that cycle, not the same word
            bench.scoreboard.equal("old sums read before they are written", read <= written.get(address, -1), False)
            written[address] = cycle + gradient_latency(c) - 1
            expected_writes.append((written[address], address))
        elif not empty:
            asked.append((weights.at[cycle - WeightStore.latency], address))
        expected.append(operand)
        if beat["last"] and not job["dataflow"]:
            expected_drains.append(job)
    values = operands.values
    actual = [{k: v[k] for k in e} for v, e in zip(values, expected, strict=False)]
    bench.scoreboard.equal("count of operands", len(values), len(expected))
    bench.scoreboard.sequence("operand", actual, expected)
    bench.scoreboard.sequence("address", [a for a, _ in asked], [a for _, a in asked])
    bench.scoreboard.sequence("write", writes.values, [address for _, address in expected_writes])
    bench.scoreboard.sequence("cycle of a write", writes.cycles, [at for at, _ in expected_writes])
    if expected_writes:  # the last row's sum is written R cycles after the announcement
        last = expected_writes[-1][0]
        soon = [n for n in pulses.cycles["idle"] if last - 1 <= n <= last + c.R]
        bench.scoreboard.equal("idle before all is written", soon, [])
    on_its_way = {n - stage for n in operands.cycles for stage in range(1, STORE_LATENCY + 1)}
    bench.scoreboard.equal("idle with an operand on its way", on_its_way.intersection(pulses.cycles["idle"]), set())
    bench.scoreboard.sequence(
        "drain job",
        [{k: v[k] for k in e} for v, e in zip(drains.values, expected_drains, strict=False)],
        expected_drains,
    )
    bench.scoreboard.equal("count of drain jobs", len(drains), len(expected_drains))
    starts = [n - 1 for n, b in zip(operands.cycles, beats, strict=True) if b["first"] and b["job"]["dataflow"]]
    bench.scoreboard.equal("inputs taken", pulses.cycles["inputs_taken"], starts)
    bench.scoreboard.equal("steps done", len(pulses.cycles["step_done"]), sum(j[0]["job"]["ends_step"] for j in jobs))
    bench.scoreboard.equal("indices streamed", len(pulses.cycles["streamed"]), sum(not b["empty"] for b in beats))
    counted = [macs.at[n] for n in pulses.cycles["streamed"]]
    products = [b["job"]["columns"] * b["job"]["lanes"] for b in beats if not b["empty"]]
    bench.scoreboard.sequence("multiply-accumulates", counted, products)
    bench.scoreboard.equal("operands taken", len(pulses.cycles["busy"]), len(beats))
    interlocks = (neighbours.taken_without_inputs, neighbours.ended_without_room)
    bench.scoreboard.equal("tiles begun without inputs or ended without room", interlocks, (0, 0))
    if not gaps and not held:
        bench.scoreboard.equal("latency", operands.cycles[0] - indices.sent[0], OperandFetch.latency)
    _sample({"indices": "with gaps" if gaps else "steady", "interlocks": "held" if held else "open"})


@test
async def jobs(bench: Bench) -> None:
    """Indices at full speed and with gaps, open and held interlocks."""
    for _ in range(2 * bench.rounds):
        for gaps in (False, True):
            for held in (False, True):
                await run(bench, gaps, held)
