"""The engine's host in a bench: cocotbext-axi models on its three buses, and runs as golden speaks of them."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import torch
from cocotb.simtime import get_sim_time
from cocotb.triggers import ClockCycles, with_timeout
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiStreamBus, AxiStreamFrame, AxiStreamSink, AxiStreamSource

from gradsieve.fpga import steps
from gradsieve.fpga.errors import DeviceError
from gradsieve.fpga.packets import PacketFormat
from gradsieve.golden.backward import backward
from gradsieve.golden.types import Gradients, Masks, Saturations, Sieve, Tape, Weights
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.host.counters import LIFETIME
from gradsieve.hw.host.registers import ErrorCode
from gradsieve.tb.environment import PERIOD_NS
from gradsieve.tb.scoreboard import Scoreboard
from gradsieve.tb.stream import gaps

TIMEOUT_US = 2_000
"""Longest wait for a packet: 200,000 cycles."""
PAUSE_CYCLES = 20
"""Between two looks at an engine that is waited for."""
QUIET_CYCLES = 50
"""What an engine has to give comes within so many."""
CYCLES_A_SECOND = 2_000
"""Of the time that the steps are told: their longest wait is 120,000 cycles."""

T = TypeVar("T")
Case = tuple[Weights, Tape, Sieve, Masks]


class EngineHost:
    """Does the host's steps over the buses, and what no host should do: a queue of packets, null beats, odd orders."""

    def __init__(self, dut: Any, config: EngineConfig, scoreboard: Scoreboard) -> None:
        self.dut, self.config, self.scoreboard = dut, config, scoreboard
        self.registers = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        self.source = AxiStreamSource(AxiStreamBus.from_prefix(dut, "s_axis"), dut.clk, dut.rst)
        self.sink = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis"), dut.clk, dut.rst)
        self.loaded = PacketFormat(config, 1, 1, 1, 1)
        self._sending = False

    def pauses(self, idle: str, stall: str, bus: str, rng: random.Random) -> None:
        """Idle pattern of the input stream, backpressure of the output stream, and both on the register bus."""
        for model, pattern in ((self.source, idle), (self.sink, stall)):
            model.set_pause_generator(None if pattern == "none" else gaps(pattern, rng))
            model.pause = False
        write, read = self.registers.write_if, self.registers.read_if
        for channel in (write.aw_channel, write.w_channel, write.b_channel, read.ar_channel, read.r_channel):
            channel.set_pause_generator(None if bus == "none" else gaps(bus, rng))
            channel.pause = False

    # steps

    async def perform(self, work: steps.Steps[T]) -> T:
        """Do steps over the buses and return what they end with: `gradsieve.fpga.steps.perform` as a coroutine."""
        try:
            operation = next(work)
            while True:
                try:
                    answer = await self._do(operation)
                except DeviceError as error:
                    operation = work.throw(error)
                else:
                    operation = work.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _do(self, operation: steps.Operation) -> object:
        match operation:
            case steps.WriteRegister(address, value):
                if self._sending:
                    await self.source.wait()
                    self._sending = False
                await self.registers.write_dword(address, value)
            case steps.ReadRegisters(addresses):
                return [await self.registers.read_dword(address) for address in addresses]
            case steps.Send(packet):
                # the next one follows at once, but a write finds them taken
                await self.send([packet])
                self._sending = True
            case steps.Receive():
                return await self.receive()
            case steps.Exchange(packet):
                await self.send([packet])
                return await self.receive()
            case steps.Discard():
                await ClockCycles(self.dut.clk, QUIET_CYCLES)
                return self.discard()
            case steps.Pause():
                await ClockCycles(self.dut.clk, PAUSE_CYCLES)
                return get_sim_time("ns") / PERIOD_NS / CYCLES_A_SECOND
        return None

    async def write(self, name: str, value: int) -> None:
        """Write a register."""
        await self.perform(steps.write(name, value))

    async def read(self, name: str) -> int:
        """Read a register; a 64-bit counter by its name without LOW and HIGH."""
        return await self.perform(steps.read(name))

    async def set_fields(self, register: str, **values: int) -> None:
        """Write a register by its fields; those not named are zero."""
        await self.perform(steps.write_fields(register, **values))

    async def command(self, *names: str) -> None:
        """Give commands by setting their bits of CONTROL."""
        await self.perform(steps.command(*names))

    async def status(self, name: str) -> int:
        """A field of STATUS."""
        return await self.perform(steps.field("STATUS", name))

    async def error(self) -> ErrorCode:
        """STATUS.error."""
        return await self.perform(steps.error())

    async def idle(self) -> None:
        """Wait until no command is under way."""
        await self.perform(steps.wait_idle())

    async def soft_reset(self, resync: bool = False) -> None:
        """Soft reset, and whatever was on its way out is thrown away."""
        await self.perform(steps.soft_reset(resync))
        await self.perform(steps.empty())

    # packets

    async def send(self, packets: Iterable[Any], keep: Any = None) -> None:
        """Queue packets; `keep` is TKEEP of every byte, all ones by default."""
        for packet in packets:
            data = bytearray(np.asarray(packet, np.uint8).tobytes())
            await self.source.send(AxiStreamFrame(data, tkeep=None if keep is None else [int(k) for k in keep]))

    async def send_with_null_beats(self, packets: Iterable[Any], rng: random.Random) -> None:
        """Queue packets with null beats, of any data, before some of their beats."""
        size = self.loaded.beat_bytes
        for packet in packets:
            data, keep = [], []
            for beat in np.asarray(packet, np.uint8).reshape(-1, size):
                for _ in range(rng.choice((0, 0, 1, 2))):
                    data.append(np.frombuffer(rng.randbytes(size), np.uint8))
                    keep += [0] * size
                data.append(beat)
                keep += [1] * size
            await self.send([np.concatenate(data)], keep)

    def discard(self) -> bool:
        """Throw away the packets that have come; whether there were any."""
        came = not self.sink.empty()
        while not self.sink.empty():
            self.sink.recv_nowait()
        return came

    async def receive(self) -> np.ndarray:
        """The next packet.  Raises an error after TIMEOUT_US."""
        frame = await with_timeout(self.sink.recv(compact=False), TIMEOUT_US, "us")
        self.scoreboard.equal("TKEEP of a packet", set(frame.tkeep), {1})
        return np.frombuffer(bytes(frame.tdata), np.uint8)

    # runs

    async def load(self, case: Case, seed: bool = True, state_out: bool = True) -> None:
        """Sizes, modes, weights, masks and seeds of a run."""
        weights, tape, sieve, masks = case
        self.loaded = PacketFormat(self.config, *tape.sizes)
        await self.perform(steps.set_sizes(self.loaded))
        await self.perform(steps.load_weights(self.loaded, weights))
        await self.perform(steps.load_run(self.loaded, tape, sieve, masks, seed, state_out))
        # the last packet may still be on its way: a start must not find the engine with it open
        while await self.status("input_open"):
            pass

    async def start(self, case: Case, tape_first: bool = False) -> None:
        """Start the run that is loaded, and send its tape, before the start if `tape_first`."""
        tape = [self.loaded.tape(case[1])]
        if tape_first:
            await self.send(tape)
        await self.perform(steps.start())
        if not tape_first:
            await self.send(tape)

    async def read_gradients(self, exact: bool = True, keep: bool = False, fraction: int = 0) -> tuple[Any, Any, Any]:
        """dW_ih, dW_hh and db by a read command."""
        return await self.perform(steps.read_gradients(self.loaded, exact, keep, fraction))

    async def run(
        self, case: Case, seed: bool = True, tape_first: bool = False, state_out: bool = True, what: str = "run"
    ) -> Gradients:
        """One whole run with its exact readout, compared with golden; returns what golden says."""
        expected = golden(self.config, case, seed)
        before, begin = {name: await self.read(name) for name in LIFETIME}, get_sim_time("ns")
        await self.load(case, seed, state_out)
        if not state_out:
            expected = dataclasses.replace(expected, dh0=torch.empty(0), dc0=torch.empty(0))
        if tape_first:
            await self.start(case, tape_first)
            await self.check_result(expected, what, state_out)
        else:
            result = await self.perform(steps.execute(self.loaded, case[1], state_out))
            self.check_gradients(result, expected, what)
        await self.check_counters(expected, what)
        self.scoreboard.equal(f"{what}: TERMS", await self.read("TERMS"), case[1].sizes[2] * case[1].sizes[3])
        await self.check_weights(expected, what)
        # cycles are not golden's, but each of these beats took one, and nothing took longer than it all did
        elapsed, beat = (get_sim_time("ns") - begin) / PERIOD_NS, self.loaded.beat_bytes
        loads = sum(len(p) // beat - 1 for p in self.loaded.weights(case[0]))
        reads = self.loaded.gradients_bytes() + self.loaded.result_bytes(state_out) - self.loaded.result_bytes(False)
        for name, least in (("LOAD_CYCLES", loads), ("READOUT_CYCLES", reads // beat)):
            cycles = await self.read(name) - before[name]
            self.scoreboard.equal(f"{what}: {least} <= {name} {cycles} <= {elapsed}", least <= cycles <= elapsed, True)
        return expected

    async def check_result(self, expected: Gradients, what: str, state_out: bool = True) -> None:
        """Take the RESULT packet and compare it."""
        packet = await self.receive()
        self.check_gradients(await self.perform(steps.outcome(self.loaded, packet, state_out)), expected, what)

    def check_gradients(self, result: Gradients, expected: Gradients, what: str) -> None:
        """Compare what a run gives before its weight gradients are read."""
        for name in ("dx", "rows_kept", "elements_kept", "dh0", "dc0"):
            self.scoreboard.tensors(f"{what}: {name}", getattr(result, name), getattr(expected, name))
        for name in ("indices", "macs", "random", "saturations"):
            self.scoreboard.equal(f"{what}: {name}", getattr(result, name), getattr(expected, name))

    async def check_counters(self, expected: Gradients, what: str) -> None:
        """Compare the counters that golden knows."""
        saturations: Saturations = expected.saturations
        known = {
            "INDICES": expected.indices,
            "MACS": expected.macs,
            "ROWS_KEPT": int(expected.rows_kept.sum()),
            "ELEMENTS_KEPT": int(expected.elements_kept.sum()),
            "SATURATED_GATE": saturations.gate,
            "SATURATED_FACTOR": saturations.factor,
            "SATURATED_SIEVE": saturations.sieve,
            "SATURATED_ERROR": saturations.error,
        }
        counters = await self.perform(steps.counters())
        for name, value in known.items():
            self.scoreboard.equal(f"{what}: {name}", counters[name], value)
        self.scoreboard.equal(f"{what}: RANDOM", await self.read("RANDOM"), expected.random)
        busy, cycles = counters["BUSY_CYCLES"], counters["CYCLES"]
        # empty jobs are busy cycles without an index; the error half of the indices comes before the last dx
        self.scoreboard.equal(f"{what}: BUSY_CYCLES {busy} >= INDICES", busy >= expected.indices, True)
        self.scoreboard.equal(f"{what}: CYCLES {cycles} of a run", cycles > expected.indices // 2, True)

    async def check_weights(self, expected: Gradients, what: str) -> None:
        """Read the weight gradients exactly, clear them, and compare."""
        dw_ih, dw_hh, db = await self.read_gradients()
        self.scoreboard.tensors(f"{what}: dW_ih", dw_ih, expected.dw_ih)
        self.scoreboard.tensors(f"{what}: dW_hh", dw_hh, expected.dw_hh)
        self.scoreboard.tensors(f"{what}: db", db, expected.db)


def golden(config: EngineConfig, case: Case, seed: bool = True) -> Gradients:
    """What golden makes of a run, without its seeds if the engine does not get them."""
    weights, tape, sieve, masks = case
    if not seed:
        zero = torch.zeros_like(tape.dh)
        tape = dataclasses.replace(tape, dh=zero, dc=zero)
    return backward(config, weights, tape, sieve, masks)
