"""Bench of the operand fetch: indices to operands of the array, its interlocks, and dW written back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hw.compactor import index_layout, job_layout
from hw.gate_gradient import gate_rows_layout
from hw.memory import write_layout
from hw.operand_fetch import STORE_LATENCY, OperandFetch, gradient_word_layout, weight_word_layout
from hw.systolic_array import gradient_latency, operand_layout
from tb.coverage import cover
from tb.environment import Bench, test
from tb.layout import Format
from tb.stream import Pulses

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
            "gradient": int(gradient),
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


class Neighbours:
    """The array, the input store and the drain around the block."""

    def __init__(self, bench: Bench, operands: Any, held: bool) -> None:
        c = bench.config
        self.bench, self.operands, self.held = bench, operands, held
        self.partial_sums = bench.source("partial_sums", gradient_word_layout(c))
        self.latency = gradient_latency(c)
        self.due: list[tuple[int, Any]] = []
        self.seen = 0
        self.loaded = self.ready = False
        self.taken_without_inputs = self.ended_without_room = 0
        bench.steps.insert(0, self.step)

    def step(self, cycle: int) -> None:
        """One clock edge."""
        dut, rng = self.bench.dut, self.bench.rng
        while self.due and self.due[0][0] <= cycle:
            self.partial_sums.send([self.due.pop(0)[1]])
        while self.seen < len(self.operands):
            value = self.operands.format.unpack(self.operands.words[self.seen])
            if value["gradient"]:  # each column of the new word is the old one plus its number
                new = [v + n for n, v in enumerate(value["partial_sum"])]
                self.due.append((cycle - 1 + self.latency - 1, new))
            self.seen += 1
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
    """Jobs through the block; the stores keep what is written back."""
    c, rng, f = bench.config, bench.rng, bench.config.formats
    rate = c.gate_rows_per_cycle
    bench.fresh()
    groups = 2 * c.gate_rows // rate

    def words(count: int, length: int, width: int) -> list[list[int]]:
        return [[rng.randrange(-(1 << width - 1), 1 << width - 1) for _ in range(length)] for _ in range(count)]

    rows = [words(rate, c.C, f.gradient.width) for _ in range(groups)]
    weights = words(c.weight_words, c.R, f.weight.width)
    gradients = words(c.weight_words, c.R, f.weight_grad_width - 8)
    operands = bench.sink("operands", operand_layout(c))
    neighbours = Neighbours(bench, operands, held)
    store = [list(w) for w in gradients]
    Store(bench, "row", gate_rows_layout(c), lambda a: rows[a])
    Store(bench, "weight", weight_word_layout(c), lambda a: weights[a])
    Store(bench, "gradient", gradient_word_layout(c), lambda a: store[a])
    writes = bench.sink("gradient_write", write_layout(gradient_word_layout(c), c.weight_words))
    drains = bench.sink("drain_jobs", job_layout(c))
    written = 0

    def write_back(cycle: int) -> None:
        nonlocal written
        while written < len(writes):
            value = writes.format.unpack(writes.words[written])
            store[value["address"]] = value["word"]
            written += 1

    bench.steps.append(write_back)
    pulses = Pulses(bench, "step_done", "streamed", "busy", "inputs_taken")
    indices = bench.source("indices", index_layout(c), bench.pattern() if gaps else "none")
    # within a batch tile no word of dW comes twice: that is what the fence is for
    jobs: list[list[dict[str, Any]]] = []
    used: set[int] = set()
    for beats in draw_jobs(bench, 60):
        job = beats[0]["job"]
        if job["gradient"]:
            if job["fence"] or job["tile"] in used:
                job["fence"], used = 1, set()
            used.add(job["tile"])
        jobs.append(beats)
    beats = [b for j in jobs for b in j]
    indices.send(beats)
    await bench.run(lambda: len(operands) >= len(beats), limit=100_000)
    await bench.run(lambda: bool(bench.dut.idle.value), limit=1000)
    await bench.run_for(5)

    model = [list(w) for w in gradients]
    expected, expected_writes, expected_drains = [], [], []
    for beat in beats:
        job, q, empty = beat["job"], beat["q"], beat["empty"]
        address = job["tile"] * c.gate_rows + q
        operand: dict[str, Any] = {"gradient": job["gradient"], "first": beat["first"], "last": beat["last"]}
        operand["dz"] = [0] * c.C if empty else rows[job["slot"] * (groups // 2) + q // rate][q % rate]
        if not empty and job["gradient"]:
            operand["partial_sum"] = list(model[address])
            model[address] = [v + n for n, v in enumerate(model[address])]
            expected_writes.append({"address": address, "word": model[address]})
        elif not empty:
            operand["weight"] = weights[address]
        expected.append(operand)
        if beat["last"] and not job["gradient"]:
            expected_drains.append(job)
    values = operands.values
    actual = [{k: v[k] for k in e} for v, e in zip(values, expected, strict=False)]
    bench.scoreboard.equal("count of operands", len(values), len(expected))
    bench.scoreboard.sequence("operand", actual, expected)
    bench.scoreboard.sequence("write", writes.values, expected_writes)
    bench.scoreboard.sequence(
        "drain job",
        [{k: v[k] for k in e} for v, e in zip(drains.values, expected_drains, strict=False)],
        expected_drains,
    )
    bench.scoreboard.equal("count of drain jobs", len(drains), len(expected_drains))
    starts = sum(j[0]["job"]["gradient"] for j in jobs)
    bench.scoreboard.equal("inputs taken", len(pulses.cycles["inputs_taken"]), starts)
    bench.scoreboard.equal("steps done", len(pulses.cycles["step_done"]), sum(j[0]["job"]["ends_step"] for j in jobs))
    bench.scoreboard.equal("indices streamed", len(pulses.cycles["streamed"]), sum(not b["empty"] for b in beats))
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
