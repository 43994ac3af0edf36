"""Bench of the controller: sizes into tiles, commands and refusals, and the term count."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Shape

from gradsieve.hw.config import SieveMode
from gradsieve.hw.host.registers import BY_NAME, ErrorCode
from gradsieve.hw.host.size_division import SETTLING
from gradsieve.hw.layouts import read_mode_layout, run_layout
from gradsieve.tb.coverage import cover, fit, fits
from gradsieve.tb.environment import Bench, config, test
from gradsieve.tb.layout import Format
from gradsieve.tb.run_values import draw_run, tops
from gradsieve.tb.stream import Pulses

_CONFIG = config()
_sample = cover(
    "controller",
    {
        "H": fits(_CONFIG.R, tops(_CONFIG)["H"]),
        "B": fits(_CONFIG.C, tops(_CONFIG)["B"]),
        "command": ["start", "read", "clear"],
        "refused": ["BAD_SIZE", "BAD_MODE", "BUSY"],
        "bad": ["H zero", "H above", "I zero", "I above", "B zero", "B above", "T zero", "T above"],
        "fatal": [False, True],
    },
    [("command", "refused")],
    impossible=[("clear", "BAD_SIZE"), ("clear", "BAD_MODE")],
)


def word(register: str, **values: int) -> int:
    """A register from its fields."""
    return sum(value << BY_NAME[register].field(name).lsb for name, value in values.items())


class Driver:
    """The engine around the controller."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.errors = bench.source("packet_error", Shape.cast(ErrorCode))
        self.pulses = Pulses(bench, "start", "read", "clear", "soft_reset")

    async def begin(self) -> None:
        """The clear that follows a reset."""
        await self.pulse(clear_done=1)
        await self.bench.run_for(3)

    async def pulse(self, **ports: int) -> None:
        """One cycle of plain inputs."""
        self.bench.set(**ports)
        await self.bench.run_for(1)
        self.bench.set(**dict.fromkeys(ports, 0))

    async def command(self, *names: str) -> None:
        """Write CONTROL."""
        await self.pulse(control=word("CONTROL", **dict.fromkeys(names, 1)))
        await self.bench.run_for(6)

    async def sizes(self, run: dict[str, Any], wait: int | None = None) -> int:
        """Write the sizes; returns the cycles until they are ready."""
        b = self.bench
        b.set(**{f"sizes__{n}": run[n] for n in "HIBT"})
        await self.pulse(sizes_written=1)
        start = b.cycle
        await b.run_for(2)
        await b.run(lambda: bool(b.dut.sizes_ready.value), limit=wait or 10_000)
        return b.cycle - start

    def count(self, name: str) -> int:
        """Pulses since the last call."""
        count = len(self.pulses.cycles[name])
        self.pulses.cycles[name].clear()
        return count

    async def dead(self, when: str) -> None:
        """After a fatal error of a packet's length no command does anything, nor hides the error."""
        b = self.bench
        for command in ("acknowledge", "start", "read", "clear"):
            for name in ("start", "read", "clear"):
                self.count(name)
            await self.command(command)
            seen = (b.get("error"), b.get("fatal"), *(self.count(n) for n in ("start", "read", "clear")))
            b.scoreboard.equal(f"{when}: {command} after a fatal error", seen, (ErrorCode.PACKET_LENGTH, 1, 0, 0, 0))

    async def refused(self, code: ErrorCode, command: str, what: str) -> None:
        """The command gives the code and does nothing; then acknowledge."""
        b = self.bench
        self.count(command)
        await self.command(command)
        b.scoreboard.equal(f"{what}: error", b.get("error"), code)
        b.scoreboard.equal(f"{what}: fatal", b.get("fatal"), 0)
        b.scoreboard.equal(f"{what}: pulses", self.count(command), 0)
        await self.command("acknowledge")
        b.scoreboard.equal(f"{what}: acknowledged", b.get("error"), ErrorCode.NONE)
        _sample({"command": command, "refused": code.name})


@test
async def sizes(bench: Bench) -> None:
    """Sizes are divided into tiles in the time that is promised, and bad ones are refused."""
    c, rng, driver = bench.config, bench.rng, Driver(bench)
    await driver.begin()
    layout = Format(run_layout(c))
    names = ("H", "I", "B", "T", "batch_tiles", "x_tiles", "h_tiles", "last_lanes", "last_x_columns", "last_h_columns", "bitmap_words", "end")  # fmt: skip  # noqa: E501
    for _ in range(40 * bench.rounds):
        run = draw_run(c, rng)
        cycles = await driver.sizes(run)
        limit = max(run["B"] / c.C, run["H"] / c.R, run["I"] / c.R) + 2 + SETTLING
        bench.scoreboard.equal(f"cycles for {run}: {cycles}, promised {limit}", cycles <= limit + 2, True)
        actual = layout.unpack(bench.get("run"))
        bench.scoreboard.equal("run", {n: actual[n] for n in names}, {n: run[n] for n in names})
        bench.scoreboard.equal("sizes_bad", bench.get("sizes_bad"), 0)
        _sample({"H": fit(run["H"], c.R, tops(c)["H"]), "B": fit(run["B"], c.C, tops(c)["B"])})
    good = draw_run(c, rng)
    for name, top in (("H", c.max_H), ("I", c.max_I), ("B", c.max_B), ("T", c.max_T)):
        for kind, bad in (("zero", 0), ("above", top + 1), ("above", 1 << 31), ("above", 1 << 16 | good[name])):
            await driver.sizes(good | {name: bad})
            bench.scoreboard.equal(f"{name} = {bad}", bench.get("sizes_bad"), 1)
            await driver.refused(ErrorCode.BAD_SIZE, rng.choice(("start", "read")), f"{name} = {bad}")
            _sample({"bad": f"{name} {kind}"})
    await driver.sizes(good)
    bench.scoreboard.equal("good sizes again", bench.get("sizes_bad"), 0)


@test
async def commands(bench: Bench) -> None:
    """Starts, reads and clears; modes are taken at the start; terms are counted; wrong commands are refused."""
    c, rng, driver = bench.config, bench.rng, Driver(bench)
    await driver.begin()
    bench.set(random=1)
    layout, reading = Format(run_layout(c)), Format(read_mode_layout())
    terms = 0
    for _ in range(20 * bench.rounds):
        run = draw_run(c, rng)
        await driver.sizes(run)
        modes = {n: rng.randrange(2) for n in ("seed", "block_mask", "column_mask", "state_out")}
        modes["sieve"] = rng.choice(list(SieveMode))
        tau = rng.getrandbits(c.formats.gradient.width)
        bench.set(mode=word("MODE", **modes), tau=tau)
        if terms + run["B"] * run["T"] > c.max_terms:
            await driver.refused(ErrorCode.TOO_MANY_TERMS, "start", "too many terms")
            await driver.command("clear")
            await driver.pulse(clear_done=1)
            await bench.run_for(3)
            terms = 0
        driver.count("start")
        await driver.command("start")
        bench.set(mode=0, tau=0)  # changes nothing in a run
        bench.scoreboard.equal("start pulses", driver.count("start"), 1)
        actual = layout.unpack(bench.get("run"))
        bench.scoreboard.equal("modes", {n: actual[n] for n in (*modes, "tau")}, {**modes, "tau": tau})
        terms += run["B"] * run["T"]
        state = (bench.get("terms"), bench.get("busy"), bench.get("running"), bench.get("active"))
        bench.scoreboard.equal("terms, busy, running, active", state, (terms, 1, 1, 1))
        busy = rng.choice(("start", "read", "clear"))
        await driver.refused(ErrorCode.BUSY, busy, f"{busy} in a run")
        await driver.pulse(run_done=1)
        await bench.run_for(4)
        bench.scoreboard.equal("settles: busy, active", (bench.get("busy"), bench.get("active")), (1, 0))
        await driver.pulse(settled=1)
        await bench.run_for(2)
        bench.scoreboard.equal("busy after the run", bench.get("busy"), 0)
        _sample({"command": "start"})
        keep = rng.randrange(2)
        exact, fraction = rng.randrange(2), rng.randint(0, c.formats.bias_grad.fraction)
        bench.set(read_mode=word("READ_MODE", exact=exact, keep=keep, fraction=fraction))
        await driver.command("read")
        bench.scoreboard.equal("read pulses", driver.count("read"), 1)
        mode = {"exact": exact, "keep": keep, "fraction": fraction}
        bench.scoreboard.equal("reading", reading.unpack(bench.get("reading")), mode)
        await driver.pulse(read_done=1)
        await bench.run_for(3)
        terms = terms if keep else 0
        bench.scoreboard.equal("terms after the read", bench.get("terms"), terms)
        _sample({"command": "read"})
        if rng.random() < 0.3:
            await driver.command("clear")
            bench.scoreboard.equal("clear pulses", driver.count("clear") > 0, True)
            await driver.pulse(clear_done=1)
            await bench.run_for(3)
            terms = 0
            bench.scoreboard.equal("terms after the clear", bench.get("terms"), 0)
            _sample({"command": "clear"})
        bench.set(random=0, mode=word("MODE", sieve=SieveMode.STOCHASTIC))
        await driver.refused(ErrorCode.BAD_MODE, "start", "random zero")
        bench.set(random=1, mode=0, read_mode=word("READ_MODE", fraction=c.formats.bias_grad.fraction + 1))
        await driver.refused(ErrorCode.BAD_MODE, "read", "fraction")


@test
async def fatal_errors(bench: Bench) -> None:
    """A packet error in any state stays until the reset; the first code is the one that is kept."""
    rng = bench.rng
    for state in ("idle", "run", "read") * bench.rounds:
        bench.fresh()
        await bench.reset()
        bench.set(random=1, mode=0, read_mode=0)
        driver = Driver(bench)
        await driver.begin()
        await driver.sizes(draw_run(bench.config, rng))
        if state != "idle":
            await driver.command("start" if state == "run" else "read")
        driver.errors.send([ErrorCode.PACKET_LENGTH])
        await bench.run_for(4)
        driver.errors.send([ErrorCode.PACKET_KIND])
        await bench.run_for(4)
        await driver.dead(state)
        await driver.command("soft_reset")
        bench.scoreboard.equal("soft reset", driver.count("soft_reset"), 1)
        await bench.reset()
        bench.scoreboard.equal("error after the reset", (bench.get("error"), bench.get("fatal")), (0, 0))
        _sample({"fatal": True})
    _sample({"fatal": False})


@test
async def fatal_at_any_moment(bench: Bench) -> None:
    """An error in each of the cycles around what begins and ends a run, a read, a clear or a change of sizes."""
    run = draw_run(bench.config, bench.rng)
    for what in ("reset", "sizes", "start", "end of a run", "read", "clear"):
        for delay in range(8):
            bench.fresh()
            await bench.reset()
            bench.set(random=1, mode=0, read_mode=0)
            driver = Driver(bench)
            if what != "reset":
                await driver.begin()
            if what not in ("reset", "sizes"):
                await driver.sizes(run)
            if what == "sizes":
                bench.set(**{f"sizes__{n}": run[n] for n in "HIBT"})
                await driver.pulse(sizes_written=1)
            elif what == "end of a run":
                await driver.command("start")
                await driver.pulse(run_done=1)
            elif what != "reset":
                await driver.pulse(control=word("CONTROL", **{what: 1}))
            await bench.run_for(delay)
            driver.errors.send([ErrorCode.PACKET_LENGTH])
            await bench.run_for(4)
            await driver.dead(f"{what} + {delay}")


@test
async def start_right_after(bench: Bench) -> None:
    """A start in the first idle cycle after a read or a clear counts from zero, where those before left no room."""
    c, driver = bench.config, Driver(bench)
    await driver.begin()
    bench.set(random=1, mode=0, read_mode=0)
    run = draw_run(c, bench.rng) | {"B": c.max_B, "T": c.max_T}
    more = run["B"] * run["T"]
    await driver.sizes(run)

    async def finish() -> None:
        await driver.pulse(run_done=1)
        await driver.pulse(settled=1)
        await bench.run_for(4)

    for command in ("read", "clear"):
        for _ in range(min(c.max_terms // more, 200)):
            await driver.command("start")
            await finish()
        await driver.command(command)
        await driver.pulse(**{f"{command}_done": 1})
        await driver.command("start")
        after = (bench.get("error"), bench.get("terms"), bench.get("running"))
        bench.scoreboard.equal(f"error, terms, running after the {command}", after, (ErrorCode.NONE, more, 1))
        await finish()
        await driver.command("clear")
        await driver.pulse(clear_done=1)
        await bench.run_for(4)
