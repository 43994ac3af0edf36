"""Bench of the register file: the register map through cocotbext-axi's AXI4-Lite master."""

from __future__ import annotations

import random
from typing import Any

import cocotb
from cocotb.triggers import ClockCycles, ReadOnly
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiResp

from gradsieve.hw.host.register_file import RegisterFile
from gradsieve.hw.host.registers import ADDRESS_WIDTH, REGISTERS, Access, Register
from gradsieve.tb.coverage import cover
from gradsieve.tb.environment import Bench, test
from gradsieve.tb.stream import gaps

WORD = 0xFFFFFFFF

_sample = cover(
    "register_file",
    {
        "register": [r.name for r in REGISTERS],
        "operation": ["read", "write"],
        "bytes": ["all", "some"],
        "answer": ["OKAY", "SLVERR"],
    },
    [("register", "operation")],
)


def make_master(bench: Bench, pattern: str) -> AxiLiteMaster:
    """The bus model, with gaps on all of its channels."""
    master = AxiLiteMaster(AxiLiteBus.from_prefix(bench.dut, "bus_"), bench.dut.clk, bench.dut.rst)
    if pattern != "none":
        write, read = master.write_if, master.read_if
        for channel in (write.aw_channel, write.w_channel, write.b_channel, read.ar_channel, read.r_channel):
            channel.set_pause_generator(gaps(pattern, random.Random(bench.rng.random())))
    return master


def drive(bench: Bench) -> dict[str, int]:
    """Random values on all inputs, by register."""
    values = {}
    for r in REGISTERS:
        port = f"{r.name.lower()}_live" if r.live else r.name.lower()
        if r.live or r.access is Access.READ_ONLY:
            values[r.name] = bench.rng.getrandbits(32)
            bench.set(**{port: values[r.name]})
    return values


class Pulses:
    """Counts the cycles of each pulse, and keeps the values of pulse registers."""

    def __init__(self, bench: Bench) -> None:
        self.ports = {
            r.name: f"{r.name.lower()}_written" if r.access is Access.READ_WRITE else r.name.lower()
            for r in REGISTERS
            if r.access is not Access.READ_ONLY
        }
        self.seen: dict[str, list[int]] = {name: [] for name in self.ports}
        self.bench = bench
        bench.steps.append(self.step)

    def step(self, cycle: int) -> None:
        """One clock edge."""
        for name, port in self.ports.items():
            if value := self.bench.get(port):
                self.seen[name].append(value)


async def operate(bench: Bench, task: Any) -> Any:
    """Run the bench's loop while a bus operation goes on."""
    running = cocotb.start_soon(task)
    await bench.run(running.done)
    await bench.run_for(3)
    return running.result()


async def write(bench: Bench, master: AxiLiteMaster, pulses: Pulses, r: Register, state: dict[str, int]) -> None:
    """Write some bytes of a register and compare everything that may have changed."""
    rng = bench.rng
    first = rng.choice((0, 0, 0, rng.randrange(4)))
    count = 4 - first if rng.random() < 0.6 else rng.randint(1, 4 - first)
    data = rng.getrandbits(8 * count)
    for seen in pulses.seen.values():
        seen.clear()
    answer = await operate(bench, master.write(r.offset + first, data.to_bytes(count, "little")))
    mask = ((1 << 8 * count) - 1) << 8 * first
    good = r.access is not Access.READ_ONLY
    bench.scoreboard.equal(f"answer to a write of {r.name}", answer.resp, AxiResp.OKAY if good else AxiResp.SLVERR)
    due: dict[str, list[int]] = {name: [] for name in pulses.seen}
    if r.access is Access.READ_WRITE:
        state[r.name] = state[r.name] & ~mask & WORD | data << 8 * first
        due[r.name] = [1]
    elif r.access is Access.PULSE and data:
        due[r.name] = [data << 8 * first]
    bench.scoreboard.equal(f"pulses of a write of {r.name}", pulses.seen, due)
    for name, value in state.items():
        bench.scoreboard.equal(f"{name} after a write of {r.name}", bench.get(name.lower()), value)
    _sample(
        {
            "register": r.name,
            "operation": "write",
            "bytes": "all" if count == 4 else "some",
            "answer": answer.resp.name,
        }
    )


async def read(bench: Bench, master: AxiLiteMaster, r: Register, state: dict[str, int], inputs: dict[str, int]) -> None:
    """Read a register."""
    answer = await operate(bench, master.read(r.offset, 4))
    expected = 0 if r.access is Access.PULSE else inputs[r.name] if r.name in inputs else state[r.name]
    bench.scoreboard.equal(f"answer to a read of {r.name}", answer.resp, AxiResp.OKAY)
    bench.scoreboard.equal(f"word of {r.name}", int.from_bytes(answer.data, "little"), expected)
    _sample({"register": r.name, "operation": "read", "answer": answer.resp.name})


@test
async def every_register(bench: Bench) -> None:
    """Reads and writes of all registers in random order, with gaps on all channels."""
    state = {r.name: r.reset for r in REGISTERS if r.access is Access.READ_WRITE}
    for name, value in state.items():
        bench.scoreboard.equal(f"{name} after the reset", bench.get(name.lower()), value)
    pulses = Pulses(bench)
    for pattern in ("none", "half") * bench.rounds:
        master = make_master(bench, pattern)
        operations = [(o, r) for o in ("read", "write") for r in REGISTERS]
        bench.rng.shuffle(operations)
        for operation, r in operations:
            inputs = drive(bench)
            if operation == "read":
                await read(bench, master, r, state, inputs)
            else:
                await write(bench, master, pulses, r, state)


@test
async def nowhere(bench: Bench) -> None:
    """Addresses without a register answer SLVERR and change nothing."""
    master, pulses = make_master(bench, "none"), Pulses(bench)
    free = sorted(set(range(0, 1 << ADDRESS_WIDTH, 4)) - {r.offset for r in REGISTERS})
    state = {r.name: r.reset for r in REGISTERS if r.access is Access.READ_WRITE}
    for address in free:
        answer = await operate(bench, master.write(address, b"\xff" * 4))
        bench.scoreboard.equal(f"write to {address:#x}", answer.resp, AxiResp.SLVERR)
        answer = await operate(bench, master.read(address, 4))
        bench.scoreboard.equal(f"read of {address:#x}", answer.resp, AxiResp.SLVERR)
    bench.scoreboard.equal("pulses", sum(map(len, pulses.seen.values())), 0)
    for name, value in state.items():
        bench.scoreboard.equal(name, bench.get(name.lower()), value)


@test
async def latencies(bench: Bench) -> None:
    """A write answers so many cycles after both halves are taken, a read after its address is."""
    dut, h = bench.dut, next(r for r in REGISTERS if r.name == "H")
    identity = next(r for r in REGISTERS if r.name == "ID")
    bench.set(id=0x1234)
    for address_first, data_first in ((0, 0), (0, 3), (3, 0)):
        bench.set(bus__bready=0, bus__awaddr=h.offset, bus__wdata=7, bus__wstrb=15)
        taken = answered = None
        for cycle in range(20):
            bench.set(bus__awvalid=int(cycle == address_first), bus__wvalid=int(cycle == data_first))
            await ReadOnly()
            if dut.bus__bvalid.value and answered is None:
                answered = cycle
            if cycle == max(address_first, data_first):
                taken = cycle
            await ClockCycles(dut.clk, 1)
        bench.scoreboard.equal("write latency", (answered or 0) - (taken or 0), RegisterFile.write_latency)
        bench.set(bus__bready=1)
        await ClockCycles(dut.clk, 2)
    bench.set(bus__araddr=h.offset, bus__arvalid=1, bus__rready=0)
    await ClockCycles(dut.clk, 1)
    bench.set(bus__arvalid=0)
    for cycles in range(1, RegisterFile.read_latency):
        await ReadOnly()
        bench.scoreboard.equal(f"no word after {cycles} cycles", int(dut.bus__rvalid.value), 0)
        await ClockCycles(dut.clk, 1)
    await ReadOnly()
    bench.scoreboard.equal("a word after all cycles", int(dut.bus__rvalid.value), 1)
    bench.scoreboard.equal("word of H", int(dut.bus__rdata.value), 7)
    # a second address may be taken meanwhile, but its word waits until the first has gone
    await ClockCycles(dut.clk, 1)
    bench.set(bus__araddr=identity.offset, bus__arvalid=1)
    await ClockCycles(dut.clk, 1)
    bench.set(bus__arvalid=0)
    for _ in range(5):
        await ReadOnly()
        bench.scoreboard.equal("word of H as long as it waits", int(dut.bus__rdata.value), 7)
        await ClockCycles(dut.clk, 1)
    bench.set(bus__rready=1)
    await ClockCycles(dut.clk, 1)
    bench.set(bus__rready=0)
    await ReadOnly()
    bench.scoreboard.equal("then the second word", int(dut.bus__rvalid.value), 1)
    bench.scoreboard.equal("word of ID", int(dut.bus__rdata.value), 0x1234)
    await ClockCycles(dut.clk, 1)
    bench.set(bus__rready=1)
    await ClockCycles(dut.clk, 2)
    bench.scoreboard.equal("no third word", int(dut.bus__rvalid.value), 0)
