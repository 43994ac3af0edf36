"""Bench of the whole engine through its buses: every mode and mask, accumulation, readout, faults and resets."""

from __future__ import annotations

import random
from itertools import product

import cocotb
import torch
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge

from gradsieve.golden.arithmetic import requantize
from gradsieve.golden.random_case import MASK_KINDS, random_case
from gradsieve.golden.types import SieveMode
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.formats import FixedPoint
from gradsieve.hw.host.registers import BY_NAME, COUNTERS_32, IDENTITY
from gradsieve.tb.coverage import cover, fit, fits
from gradsieve.tb.engine_host import Case, EngineHost, golden
from gradsieve.tb.environment import Bench, config, test
from gradsieve.tb.stream import PATTERNS

_CONFIG = config()
HELD_CYCLES = 3000
"""Longer than any run that is drawn takes until its result holds it up."""
LARGEST = 10
"""Sizes that are drawn stay up to this in large engines: a bench is no benchmark."""


def largest(c: EngineConfig) -> tuple[int, int, int, int]:
    """The largest sizes that are drawn, two tiles and a partial one of each where the engine has them."""
    return (
        min(c.max_H, max(LARGEST, c.R + 2)),
        min(c.max_I, max(LARGEST, c.R + 2)),
        min(c.max_B, max(6, 2 * c.C + 1)),
        min(c.max_T, 4),
    )


_TOP_H, _TOP_I, _TOP_B, _TOP_T = largest(_CONFIG)
_sample = cover(
    "engine",
    {
        "mode": [m.name for m in SieveMode],
        "masks": MASK_KINDS,
        "H": fits(_CONFIG.R, _TOP_H),
        "I": fits(_CONFIG.R, _TOP_I),
        "B": fits(_CONFIG.C, _TOP_B),
        "T": ["one", "more"] if _TOP_T > 1 else ["one"],
        "seed": [False, True],
        "state_out": [False, True],
        "tape": ["before start", "after start"],
        "input": PATTERNS,
        "output": PATTERNS,
        "saturated": [False, True],
        "rows": ["none", "some", "all"],
    },
    [("mode", "masks")],
)


def draw_sizes(rng: random.Random, c: EngineConfig) -> tuple[int, int, int, int]:
    """Sizes of a run: ends now and then, else anything."""
    return tuple(rng.choice((1, top, rng.randint(1, top), rng.randint(1, top))) for top in largest(c))  # type: ignore[return-value]


def draw_case(bench: Bench, mode: SieveMode | None = None, masks: str | None = None) -> Case:
    """A random run."""
    sizes = draw_sizes(bench.rng, bench.config)
    return random_case(bench.config, bench.rng.getrandbits(32), sizes=sizes, mode=mode, masks=masks)  # type: ignore[arg-type]


def make_host(bench: Bench) -> EngineHost:
    """The host, at full speed."""
    return EngineHost(bench.dut, bench.config, bench.scoreboard)


async def random_run(
    bench: Bench, host: EngineHost, mode: SieveMode, masks: str, idle: str, stall: str, state_out: bool
) -> None:
    """One random run with gaps on all buses."""
    c, rng = bench.config, bench.rng
    case = draw_case(bench, mode, masks)
    host.pauses(idle, stall, "none" if idle == stall == "none" else rng.choice(("none", "half")), rng)
    seed, tape_first = rng.random() < 0.7, rng.random() < 0.5
    H, I, B, T = case[1].sizes
    expected = await host.run(case, seed, tape_first, state_out, f"{mode.name} {masks} H {H} I {I} B {B} T {T}")
    kept = expected.rows_kept
    s = expected.saturations
    _sample(
        {
            "mode": mode.name,
            "masks": masks,
            "H": fit(H, c.R, _TOP_H),
            "I": fit(I, c.R, _TOP_I),
            "B": fit(B, c.C, _TOP_B),
            "T": "one" if T == 1 else "more",
            "seed": seed,
            "state_out": state_out,
            "tape": "before start" if tape_first else "after start",
            "input": idle,
            "output": stall,
            "saturated": s.gate + s.factor + s.sieve + s.error > 0,
            "rows": "all" if bool(kept.all()) else "some" if bool(kept.any()) else "none",
        }
    )


@test
async def identity(bench: Bench) -> None:
    """What the read-only registers say of the engine."""
    c, host = bench.config, make_host(bench)
    digest = int(c.digest, 16)
    expected = {
        "ID": IDENTITY,
        "DIGEST_LOW": digest & 0xFFFFFFFF,
        "DIGEST_HIGH": digest >> 32,
        "ARRAY": c.R | c.C << 8 | c.gate_rows_per_cycle << 16 | c.stream_width // 8 << 24,
        "MAX_HI": c.max_H | c.max_I << 16,
        "MAX_BT": c.max_B | c.max_T << 16,
        "TERMS": 0,
        "RANDOM": BY_NAME["RANDOM"].reset,
        **dict.fromkeys(COUNTERS_32, 0),
    }
    for name, value in expected.items():
        bench.scoreboard.equal(name, await host.read(name), value)
    await host.idle()
    bench.scoreboard.equal("STATUS", await host.read("STATUS"), 0)


@test
async def modes_and_masks(bench: Bench) -> None:
    """Every mode with every kind of masks, at random sizes."""
    host = make_host(bench)
    for n, (mode, masks) in enumerate(list(product(SieveMode, MASK_KINDS)) * bench.rounds):
        # every second run at full speed, the others through all patterns
        idle, stall = ("none", "none") if n % 2 else (PATTERNS[n // 2 % 5], PATTERNS[(n // 2 * 2 + 1) % 5])
        await random_run(bench, host, mode, masks, idle, stall, state_out=n % 4 != 1)


@test
async def result_that_waits(bench: Bench) -> None:
    """Nobody takes the result until the engine has come as far as it can; small and large sections."""
    host = make_host(bench)
    for I in (1, _TOP_I):
        case = random_case(bench.config, bench.rng.getrandbits(32), sizes=(_TOP_H, I, _TOP_B, _TOP_T), masks="none")
        host.pauses("none", "none", "none", bench.rng)
        await host.load(case)
        host.sink.pause = True
        await host.start(case)
        await ClockCycles(bench.dut.clk, HELD_CYCLES)
        host.sink.pause = False
        expected = golden(bench.config, case)
        await host.check_result(expected, f"result of I {I} that waited")
        await host.check_weights(expected, f"run of I {I} that waited")


@test
async def accumulation(bench: Bench) -> None:
    """Gradients add up over runs; reads keep or clear them, exactly or requantized."""
    c, host = bench.config, make_host(bench)
    f = c.formats
    for _ in range(bench.rounds):
        sizes = draw_sizes(bench.rng, c)
        cases = [random_case(c, bench.rng.getrandbits(32), sizes=sizes) for _ in range(2)]
        total: list[torch.Tensor] = []
        for case in cases:
            expected = golden(c, case)
            await host.load(case)
            await host.start(case)
            await host.check_result(expected, "one of two runs")
            new = [expected.dw_ih, expected.dw_hh, expected.db]
            total = [a + b for a, b in zip(total, new, strict=True)] if total else new
        bench.scoreboard.equal("TERMS of two runs", await host.read("TERMS"), 2 * sizes[2] * sizes[3])
        for fraction in (0, bench.rng.randint(0, f.bias_grad.fraction), f.bias_grad.fraction):
            short = FixedPoint(width=32, fraction=min(fraction, 31))
            saturated = 0
            read = await host.read_gradients(exact=False, keep=True, fraction=fraction)
            for name, actual, exact, form in zip(
                ("dW_ih", "dW_hh", "db"), read, total, (f.weight_grad, f.weight_grad, f.bias_grad), strict=True
            ):
                rounded, count = requantize(exact, form.fraction, short)
                saturated += count
                bench.scoreboard.tensors(f"{name} at fraction {fraction}", actual, rounded)
            bench.scoreboard.equal("SATURATED_READ", await host.read("SATURATED_READ"), saturated)
        for what, values in (("kept", total), ("cleared", [0 * t for t in total])):
            read = await host.read_gradients()
            for name, actual, value in zip(("dW_ih", "dW_hh", "db"), read, values, strict=True):
                bench.scoreboard.tensors(f"{what} {name}", actual, value)
            bench.scoreboard.equal("TERMS after a read that clears", await host.read("TERMS"), 0)


@test
async def clear_command(bench: Bench) -> None:
    """`clear` zeroes what a run has accumulated."""
    host = make_host(bench)
    case = draw_case(bench, SieveMode.DENSE, "none")
    await host.load(case)
    await host.start(case)
    await host.check_result(golden(bench.config, case), "run before the clear")
    await host.command("clear")
    await host.idle()
    bench.scoreboard.equal("TERMS after the clear", await host.read("TERMS"), 0)
    for name, actual in zip(("dW_ih", "dW_hh", "db"), await host.read_gradients(), strict=True):
        bench.scoreboard.equal(f"{name} after the clear", int(actual.abs().sum()), 0)


@test
async def null_beats(bench: Bench) -> None:
    """Beats without bytes, wherever an interconnect may put them: they change nothing."""
    host = make_host(bench)
    case = draw_case(bench)
    weights, tape, _, masks = case
    expected = golden(bench.config, case)
    await host.load(case)
    form = host.loaded
    packets = [*form.weights(weights), form.seed(tape.dh, tape.dc)]
    packets += [form.block_mask(masks.block)] if masks.block is not None else []
    packets += [form.column_mask(masks.column)] if masks.column is not None else []
    await host.send_with_null_beats(packets, bench.rng)
    await host.source.wait()
    await host.command("start")
    await host.send_with_null_beats([form.tape(tape)], bench.rng)
    await host.check_result(expected, "with null beats")
    await host.check_counters(expected, "with null beats")
    await host.check_weights(expected, "with null beats")


@test
async def short_reset(bench: Bench) -> None:
    """A reset of a cycle or two while answers wait on all buses: they are gone with its first edge, and stay so."""
    dut, host = bench.dut, make_host(bench)
    valids = ("s_axil_bvalid", "s_axil_rvalid", "m_axis_tvalid")
    readies = ("s_axil_awready", "s_axil_wready", "s_axil_arready", "s_axis_tready")
    for cycles, running in ((1, True), (2, True), (1, False)):
        if running:
            case = draw_case(bench)
            await host.load(case)
            await host.start(case)
            host.sink.pause = True
            while not int(dut.m_axis_tvalid.value):
                await ClockCycles(dut.clk, 1)
        host.registers.write_if.b_channel.pause = host.registers.read_if.r_channel.pause = True
        reading, writing = cocotb.start_soon(host.read("ID")), cocotb.start_soon(host.write("TAU", 1))
        await ClockCycles(dut.clk, 20)
        bench.scoreboard.equal("answers wait", [int(getattr(dut, n).value) for n in valids], [1, 1, running])
        reading.cancel()
        writing.cancel()
        dut.rst.value = 1
        for cycle in range(30):
            await RisingEdge(dut.clk)
            if cycle == cycles - 1:
                dut.rst.value = 0
            await FallingEdge(dut.clk)
            offered = [int(getattr(dut, n).value) for n in valids]
            bench.scoreboard.equal(f"cycle {cycle} of a reset of {cycles}: VALID", offered, [0] * len(valids))
            if cycle < cycles:
                taking = [int(getattr(dut, n).value) for n in readies]
                bench.scoreboard.equal(f"cycle {cycle} of a reset of {cycles}: READY", taking, [0] * len(taking))
        host = make_host(bench)
        await host.run(draw_case(bench), what=f"after a reset of {cycles}")


@test
async def hard_reset(bench: Bench) -> None:
    """A reset in the middle of a run, wherever it is: the next run is bit-exact."""
    host = make_host(bench)
    for _ in range(3 * bench.rounds):
        case = draw_case(bench)
        await host.load(case)
        await host.start(case)
        await ClockCycles(bench.dut.clk, bench.rng.randint(1, 600))
        bench.dut.rst.value = 1
        await ClockCycles(bench.dut.clk, bench.rng.randint(1, 3))
        bench.dut.rst.value = 0
        await ClockCycles(bench.dut.clk, 1)
        host.discard()
        await host.run(draw_case(bench), what="after the reset")
