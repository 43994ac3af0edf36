"""Bench of the engine's faults: each gives its code, hangs nothing, and after the way out a run is bit-exact again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from cocotb.triggers import ClockCycles

from gradsieve.golden.types import SieveMode
from gradsieve.hw.host.registers import ErrorCode
from gradsieve.hw.packets import PacketKind
from gradsieve.tb.bench_engine import draw_case, make_host, random_run
from gradsieve.tb.coverage import cover
from gradsieve.tb.engine_host import Case, EngineHost, golden
from gradsieve.tb.environment import Bench, config, test

KINDS = PacketKind.__members__
"""Packet kinds by name."""

_CONFIG = config()
MOST_RUNS = 40
"""An engine that holds more terms than so many runs add cannot be filled in a simulation."""
_FILLABLE = _CONFIG.max_terms < MOST_RUNS * _CONFIG.max_B * _CONFIG.max_T

_LENGTHS = ["short", "long", "header alone", "partial beat", "null last beat"]
_sample = cover(
    "engine_faults",
    {
        "refused": ["size zero", "size above", "random zero", "fraction", "busy start", "busy read", "busy clear"]
        + (["too many terms"] if _FILLABLE else []),
        "packet": ["unknown kind", "header bits", "while running", "sizes bad"],
        "kind": list(KINDS),
        "length": _LENGTHS,
        "reset": ["idle", "loading", "running", "reading", "abandoned packet"],
    },
    [("kind", "length")],
)


async def expect_error(bench: Bench, host: EngineHost, code: ErrorCode, fatal: bool, what: str) -> None:
    """The code is there within a moment, and says whether only a soft reset helps."""
    for _ in range(50):
        if await host.error() != ErrorCode.NONE:
            break
        await ClockCycles(bench.dut.clk, 10)
    bench.scoreboard.equal(f"{what}: error", await host.error(), code)
    bench.scoreboard.equal(f"{what}: fatal", bool(await host.status("fatal")), fatal)


async def clean_run(bench: Bench, host: EngineHost, what: str) -> None:
    """A run after a fault."""
    bench.scoreboard.equal(f"{what}: error afterwards", await host.error(), ErrorCode.NONE)
    host.pauses("none", "none", "none", bench.rng)
    await host.run(draw_case(bench), what=f"run after {what}")


async def recover(bench: Bench, host: EngineHost, what: str, resync: bool = False) -> None:
    """Soft reset and a run.  An acknowledge alone does not lead out of a fatal error."""
    if await host.status("fatal"):
        before = await host.error()
        await host.command("acknowledge")
        bench.scoreboard.equal(f"{what}: error after an acknowledge", await host.error(), before)
    await host.soft_reset(resync)
    bench.scoreboard.equal(f"{what}: TERMS after the soft reset", await host.read("TERMS"), 0)
    await clean_run(bench, host, what)


@test
async def refused_commands(bench: Bench) -> None:
    """Commands with bad sizes or modes are refused, harm nothing, and `acknowledge` leads out."""
    c, host = bench.config, make_host(bench)
    case = draw_case(bench, SieveMode.DENSE, "none")
    H, I, B, T = case[1].sizes
    tops = {"H": (H, c.max_H), "I": (I, c.max_I), "B": (B, c.max_B), "T": (T, c.max_T)}
    expected = golden(c, case)
    await host.load(case)
    await host.start(case)
    await host.check_result(expected, "run before the faults")
    terms = await host.read("TERMS")

    async def refused(fault: str, code: ErrorCode, command: str) -> None:
        await host.command(command)
        await expect_error(bench, host, code, False, fault)
        # until it is acknowledged, the first code stays and other commands do nothing
        await host.command("read")
        bench.scoreboard.equal(f"{fault}: error after another command", await host.error(), code)
        bench.scoreboard.equal(f"{fault}: busy", await host.status("busy"), 0)
        await host.command("acknowledge")
        bench.scoreboard.equal(f"{fault}: error after the acknowledge", await host.error(), ErrorCode.NONE)
        bench.scoreboard.equal(f"{fault}: TERMS", await host.read("TERMS"), terms)
        _sample({"refused": fault})

    for name, (value, top) in tops.items():
        for fault, bad in (("size zero", 0), ("size above", top + 1), ("size above", 0xFFFF0000 | value)):
            await host.write(name, bad)
            await refused(fault, ErrorCode.BAD_SIZE, bench.rng.choice(("start", "read")))
        await host.write(name, value)
    await host.write("RANDOM", 0)
    await host.set_fields("MODE", sieve=SieveMode.STOCHASTIC)
    await refused("random zero", ErrorCode.BAD_MODE, "start")
    await host.write("RANDOM", 1)
    f = c.formats
    await host.set_fields("READ_MODE", fraction=min(f.weight_grad.fraction, f.bias_grad.fraction) + 1)
    await refused("fraction", ErrorCode.BAD_MODE, "read")
    bench.scoreboard.equal("packets from refused commands", host.sink.count(), 0)
    await host.check_weights(expected, "weight gradients after the faults")
    await clean_run(bench, host, "refused commands")


@test
async def busy(bench: Bench) -> None:
    """A command while another is under way is refused, and that one goes on unharmed."""
    c, host = bench.config, make_host(bench)
    for command in ("start", "read", "clear"):
        case = draw_case(bench)
        expected = golden(c, case)
        await host.load(case)
        await host.command("start")  # without a tape it stays active
        await host.command(command)
        await expect_error(bench, host, ErrorCode.BUSY, False, f"{command} while running")
        await host.send([host.loaded.tape(case[1])])
        result = host.loaded.result(await host.receive())
        bench.scoreboard.tensors("dx of the run that was under way", result.dx, expected.dx)
        await host.idle()
        await host.command("acknowledge")
        await host.check_counters(expected, f"{command} while running")
        await host.check_weights(expected, f"{command} while running")
        _sample({"refused": f"busy {command}"})
    await clean_run(bench, host, "busy")


@test
async def too_many_terms(bench: Bench) -> None:
    """A run that would overflow dW is refused before it starts; a read makes room."""
    c, host = bench.config, make_host(bench)
    bench.scoreboard.equal("TERMS of an empty engine", await host.read("TERMS"), 0)
    if not _FILLABLE:
        return
    case = draw_case(bench, SieveMode.DENSE, "none")
    while case[1].sizes[2] * case[1].sizes[3] * MOST_RUNS < c.max_terms:
        case = draw_case(bench, SieveMode.DENSE, "none")
    terms = case[1].sizes[2] * case[1].sizes[3]
    expected, runs = golden(c, case), c.max_terms // terms
    for _ in range(runs):
        await host.load(case)
        await host.start(case)
        await host.check_result(expected, "run that fits")
    bench.scoreboard.equal("TERMS of all runs", await host.read("TERMS"), runs * terms)
    await host.command("start")
    await expect_error(bench, host, ErrorCode.TOO_MANY_TERMS, False, "one run too many")
    await host.command("acknowledge")
    dw_ih, dw_hh, db = await host.read_gradients()
    bench.scoreboard.tensors("dW_ih of all runs", dw_ih, expected.dw_ih * runs)
    bench.scoreboard.tensors("dW_hh of all runs", dw_hh, expected.dw_hh * runs)
    bench.scoreboard.tensors("db of all runs", db, expected.db * runs)
    _sample({"refused": "too many terms"})
    await clean_run(bench, host, "too many terms")


def packets_of(host: EngineHost, case: Case) -> dict[str, np.ndarray]:
    """One packet of each kind for the sizes of the case."""
    form, (weights, tape, _, _) = host.loaded, case
    tiles = form.of_run.x_tiles + form.of_run.h_tiles
    w_x, w_h = form.weights(weights)
    return {
        "WEIGHT_X": w_x,
        "WEIGHT_H": w_h,
        "BLOCK_MASK": form.block_mask(torch.ones(4 * form.H, tiles, dtype=torch.bool)),
        "COLUMN_MASK": form.column_mask(torch.ones(form.T, tiles, dtype=torch.bool)),
        "SEED": form.seed(tape.dh, tape.dc),
        "TAPE": form.tape(tape),
    }


@test
async def wrong_lengths(bench: Bench) -> None:
    """Packets of every kind that end too early, too late or right after the header, or have null bytes in a beat."""
    host, rng = make_host(bench), bench.rng
    for kind in KINDS:
        for length in _LENGTHS:
            case = draw_case(bench, SieveMode.DENSE, "none")
            await host.load(case)
            packet = packets_of(host, case)[kind]
            beat = host.loaded.beat_bytes
            beats = len(packet) // beat
            if length == "short":  # down to two beats, where the packet has more than that
                packet = packet[: max(rng.randrange(2, max(beats, 3)), 2) * beat] if beats > 2 else packet[:beat]
            elif length == "long":
                packet = np.concatenate([packet, np.zeros(beat * rng.choice((1, 1, 5, 100)), np.uint8)])
            elif length == "header alone":
                packet = packet[:beat]
            keep = np.ones(len(packet), np.uint8)
            if length == "partial beat":
                first = rng.randrange(beats) * beat
                null = rng.sample(range(beat), rng.randint(1, beat - 1))
                keep[first : first + beat] = [n not in null for n in range(beat)]
            elif length == "null last beat":
                packet, keep = np.append(packet, np.zeros(beat, np.uint8)), np.append(keep, np.zeros(beat, np.uint8))
            host.pauses(bench.pattern(), bench.pattern(), "none", rng)
            if kind == "TAPE":
                await host.command("start")
            await host.send([packet], keep)
            await host.source.wait()
            what = f"{kind} {length}"
            await expect_error(bench, host, ErrorCode.PACKET_LENGTH, True, what)
            await recover(bench, host, what, resync=rng.random() < 0.3)
            _sample({"kind": kind, "length": length})


@test
async def wrong_kinds(bench: Bench) -> None:
    """Headers of no kind, with bits that must be zero, of a kind that may not come now, or with bad sizes."""
    host, rng = make_host(bench), bench.rng

    def header(word: int) -> Callable[[Case], list[np.ndarray]]:
        def make(case: Case) -> list[np.ndarray]:
            packet = np.zeros(host.loaded.beat_bytes * rng.choice((1, 2, 7)), np.uint8)
            packet[:4] = np.frombuffer(word.to_bytes(4, "little"), np.uint8)
            return [packet]

        return make

    faults: list[tuple[str, Callable[[Case], list[np.ndarray]]]] = [
        ("unknown kind", header(0)),
        ("unknown kind", header(7)),
        ("unknown kind", header(255)),
        ("header bits", header(1 | 1 << 8)),
        ("header bits", header(6 | 1 << 31)),
        *[("while running", lambda case, k=k: [packets_of(host, case)[k]]) for k in KINDS if k != "TAPE"],
        ("sizes bad", lambda case: host.loaded.weights(case[0])),
    ]
    for fault, make in faults:
        case = draw_case(bench, SieveMode.DENSE, "none")
        await host.load(case)
        if fault == "while running":
            await host.command("start")
            await ClockCycles(bench.dut.clk, 10)  # a packet that comes before the run is active is loaded
        if fault == "sizes bad":
            await host.write("H", 0)
        await host.send(make(case))
        await host.source.wait()
        code = ErrorCode.BAD_SIZE if fault == "sizes bad" else ErrorCode.PACKET_KIND
        await expect_error(bench, host, code, True, fault)
        await recover(bench, host, fault)
        _sample({"packet": fault})


@test
async def soft_resets(bench: Bench) -> None:
    """Soft resets in every state, at random moments: packets on their way end, and the engine is clean."""
    host, rng = make_host(bench), bench.rng
    for state in ("idle", "loading", "running", "running", "reading", "abandoned packet") * bench.rounds:
        case = draw_case(bench)
        host.pauses(bench.pattern(), bench.pattern(), "none", rng)
        await host.load(case)
        if state == "loading":
            await host.send(host.loaded.weights(case[0]))
        elif state == "running":
            await host.start(case)
        elif state == "reading":
            await host.start(case)
            await host.receive()
            await host.idle()
            await host.command("read")
        elif state == "abandoned packet":
            await host.send([host.loaded.weights(case[0])[0]])
        await ClockCycles(bench.dut.clk, rng.randint(1, 300 if state == "running" else 40))
        if state == "abandoned packet":  # the host gives up in the middle of it
            host.source.clear()
            host.source.assert_reset(True)
            host.source.assert_reset(False)
            await ClockCycles(bench.dut.clk, 2)
        else:
            host.pauses("none", "none", "none", rng)
        was_open = bool(await host.status("output_open"))
        before = host.sink.count()
        await host.command("soft_reset", *(["resync"] if state == "abandoned packet" else []))
        host.pauses("none", "none", "none", rng)
        await host.source.wait()
        await host.idle()
        await ClockCycles(bench.dut.clk, 20)
        what = f"soft reset while {state}"
        bench.scoreboard.equal(f"{what}: packets open afterwards", await host.read("STATUS"), 0)
        bench.scoreboard.equal(f"{what}: TERMS", await host.read("TERMS"), 0)
        if was_open and host.sink.count() > before:
            frame = host.sink.recv_nowait(compact=False)
            # between the look at the status and the reset it may have ended by itself
            whole = {host.loaded.result_bytes(), *(host.loaded.gradients_bytes(exact) for exact in (False, True))}
            if all(frame.tkeep):
                bench.scoreboard.equal(f"{what}: a whole packet", len(frame.tdata) in whole, True)
            else:
                last = frame.tkeep[-host.loaded.beat_bytes :]
                bench.scoreboard.equal(f"{what}: TKEEP of the closing beat", set(last), {0})
        host.discard()
        _sample({"reset": state})
        await random_run(bench, host, rng.choice(tuple(SieveMode)), "none", "none", "none", state_out=True)
