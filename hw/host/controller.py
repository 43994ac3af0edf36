"""Controller: commands, the sizes and modes of a run, faults, and the term count."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Shape, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import EngineConfig, SieveMode
from gradsieve.hw.host.registers import BY_NAME, ErrorCode
from gradsieve.hw.host.size_division import SizeDivision
from gradsieve.hw.layouts import read_mode_layout, run_layout, sizes_layout
from gradsieve.hw.lib.arithmetic import bits_for
from gradsieve.hw.lib.flow import Flow

COMMANDS = ("start", "clear", "read")
MODES = ("sieve", "seed", "block_mask", "column_mask", "state_out")
"""The fields of MODE that a run keeps."""


START_LATENCY = len(("pending", "set", "start"))
"""Cycles from the write of a start command, in an idle engine, to `start`."""


class Controller(wiring.Component):
    """Turns register writes into runs, and answers every wrong one with an error code.

    Sizes are checked and divided into tiles when they change (`SizeDivision`); `sizes_ready` says that `run` has them.
    Commands are taken in order of arrival; one that comes while another is under way is refused (BUSY), one whose sizes
    or modes are bad or whose terms do not fit is refused too, and neither harms what has been accumulated.  Any error
    is kept until `acknowledge`, a fatal one until the soft reset, and commands are refused without a further code until
    then.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "sizes": In(wiring.Signature({n: Out(32) for n in ("H", "I", "B", "T")})),
                "sizes_written": In(1),
                "mode": In(32),
                "read_mode": In(32),
                "tau": In(32),
                "random": In(32),
                "control": In(32),
                "run": Out(run_layout(config)),
                "reading": Out(read_mode_layout()),
                "sizes_ready": Out(1),
                "sizes_bad": Out(1),
                "loading": In(1),
                "start": Out(1),
                "read": Out(1),
                "clear": Out(1),
                "running": Out(1),
                "active": Out(1),
                "soft_reset": Out(1),
                "resync": Out(1),
                "run_done": In(1),
                "read_done": In(1),
                "clear_done": In(1),
                "settled": In(1),
                "packet_error": In(Flow(Shape.cast(ErrorCode))),
                "terms": Out(bits_for(config.max_terms)),
                "error": Out(Shape.cast(ErrorCode)),
                "fatal": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.size_division = division = SizeDivision(self.config)
        bits = {f.name: self.control[f.lsb] for f in BY_NAME["CONTROL"].fields}
        pending = {name: Signal(name=f"{name}_pending") for name in COMMANDS}
        m.d.comb += [
            self.soft_reset.eq(bits["soft_reset"]),
            self.resync.eq(bits["resync"]),
            *[getattr(division, n).eq(getattr(self.sizes, n)) for n in division.largest],
            division.written.eq(self.sizes_written),
            self.sizes_bad.eq(division.bad),
            *[getattr(self.run, n).eq(getattr(division.sizes, n)) for n in sizes_layout(self.config).members],
        ]
        idle = Signal()
        preparing = Signal()
        faulted = Signal()
        refused = Signal(Shape.cast(ErrorCode))
        terms_after, no_start, no_read = self._refusals(m, division)
        rested = self._rested(m, idle)
        self._keep_modes(m, idle)
        with m.FSM(init="CLEAR"):
            with m.State("CLEAR"):  # zeroes the weight gradients: after every reset, and as a command
                first = Signal(init=1)
                m.d.comb += self.clear.eq(first)
                m.d.sync += [first.eq(0), self.terms.eq(0)]
                with m.If(self.clear_done):
                    m.d.sync += first.eq(1)
                    m.next = "IDLE"
                self._leave_at_fault(m)
            with m.State("IDLE"):  # waits for commands; new sizes first
                m.d.comb += [idle.eq(1), self.sizes_ready.eq(~division.stale)]
                with m.If(division.stale & ~self.loading):
                    m.d.comb += division.start.eq(1)
                    m.next = "SIZES"
                with m.Elif(self.error != ErrorCode.NONE):
                    m.d.sync += [p.eq(0) for p in pending.values()]
                with m.Elif(~division.stale & pending["start"] & ~self.loading & rested):
                    m.d.sync += pending["start"].eq(0)
                    m.d.comb += refused.eq(no_start)
                    with m.If(no_start == ErrorCode.NONE):
                        m.d.sync += [self.terms.eq(terms_after), self.active.eq(1)]
                        m.next = "SET"
                with m.Elif(~division.stale & pending["read"]):
                    m.d.sync += pending["read"].eq(0)
                    m.d.comb += refused.eq(no_read)
                    with m.If(no_read == ErrorCode.NONE):
                        m.next = "START_READ"
                with m.Elif(pending["clear"]):
                    m.d.sync += pending["clear"].eq(0)
                    m.next = "CLEAR"
                self._leave_at_fault(m)
            with m.State("SIZES"):  # checks the sizes and divides them into tiles
                m.d.comb += preparing.eq(1)
                with m.If(division.done):
                    m.next = "IDLE"
                self._leave_at_fault(m)
            self._run_states(m)
            self._read_states(m)
            with m.State("FAULT"):  # a fatal error: only a soft reset leads out
                m.d.comb += faulted.eq(1)
        for name in COMMANDS:
            with m.If(bits[name]):
                with m.If((idle | preparing) & ~_any(pending)):
                    m.d.sync += pending[name].eq(1)
                with m.Else():
                    m.d.comb += refused.eq(ErrorCode.BUSY)
        m.d.comb += self.busy.eq(~(idle | preparing | faulted) | _any(pending))
        self._keep_errors(m, refused, bits["acknowledge"])
        return m

    def _refusals(self, m: Module, division: SizeDivision) -> tuple[Signal, Signal, Signal]:
        """The terms after one more run, and what a start and a read would be refused for.

        From registers: a command comes a cycle after the registers that it is about.
        """
        c, f = self.config, self.config.formats
        terms_after = Signal(bits_for(c.max_terms + c.max_B * c.max_T))
        too_many_terms = Signal()
        m.d.sync += [terms_after.eq(self.terms + division.terms), too_many_terms.eq(terms_after > c.max_terms)]
        sieve = self._field("MODE", "sieve")
        bad_mode = (sieve == SieveMode.STOCHASTIC) & (self.random == 0)
        if len(SieveMode) < 1 << len(sieve):
            bad_mode |= sieve > max(SieveMode)
        largest_fraction = min(f.weight_grad.fraction, f.bias_grad.fraction)
        bad_read = ~self._field("READ_MODE", "exact") & (self._field("READ_MODE", "fraction") > largest_fraction)
        no_start = Signal(Shape.cast(ErrorCode))
        no_read = Signal(Shape.cast(ErrorCode))
        m.d.sync += [
            no_start.eq(Mux(too_many_terms, ErrorCode.TOO_MANY_TERMS, ErrorCode.NONE)),
            no_read.eq(Mux(bad_read, ErrorCode.BAD_MODE, ErrorCode.NONE)),
        ]
        with m.If(bad_mode):
            m.d.sync += no_start.eq(ErrorCode.BAD_MODE)
        with m.If(division.bad):
            m.d.sync += [no_start.eq(ErrorCode.BAD_SIZE), no_read.eq(ErrorCode.BAD_SIZE)]
        return terms_after, no_start, no_read

    def _rested(self, m: Module, idle: Signal) -> Value:
        """High when the engine has been idle long enough for all that follows `terms`."""
        rested = Signal(3)
        m.d.sync += rested.eq(Cat(idle, rested[:-1]))
        return rested.all()

    def _keep_modes(self, m: Module, idle: Signal) -> None:
        """The modes of a run or read: those of the last idle cycle, as it is known late in it whether one starts."""
        with m.If(idle):
            m.d.sync += [
                *[getattr(self.run, n).eq(self._field("MODE", n)) for n in MODES],
                *[self.reading[n].eq(self._field("READ_MODE", n)) for n in ("exact", "keep", "fraction")],
                self.run.tau.eq(self.tau),
            ]

    def _leave_at_fault(self, m: Module) -> None:
        with m.If(self.packet_error.valid):
            m.next = "FAULT"

    def _run_states(self, m: Module) -> None:
        with m.State("SET"):  # the modes settle
            m.d.comb += self.running.eq(1)
            m.next = "START"
            self._leave_at_fault(m)
        with m.State("START"):  # everything begins
            m.d.comb += [self.start.eq(1), self.running.eq(1)]
            m.next = "RUN"
            self._leave_at_fault(m)
        with m.State("RUN"):  # until the host has the result
            m.d.comb += self.running.eq(1)
            with m.If(self.run_done):
                m.d.sync += self.active.eq(0)
                m.next = "SETTLE"
            self._leave_at_fault(m)
        with m.State("SETTLE"):  # until the last weight gradients are stored
            m.d.comb += self.running.eq(1)
            with m.If(self.settled):
                m.next = "IDLE"
            self._leave_at_fault(m)

    def _read_states(self, m: Module) -> None:
        with m.State("START_READ"):  # the readout begins
            m.d.comb += self.read.eq(1)
            m.next = "READ"
            self._leave_at_fault(m)
        with m.State("READ"):  # until the host has the weight gradients
            with m.If(self.read_done):
                m.next = "IDLE"
                with m.If(~self.reading.keep):
                    m.d.sync += self.terms.eq(0)
            self._leave_at_fault(m)

    def _keep_errors(self, m: Module, refused: Signal, acknowledge: Value) -> None:
        """The first error stays until it is acknowledged; one in a packet is fatal."""
        with m.If(acknowledge & ~self.fatal):
            m.d.sync += self.error.eq(ErrorCode.NONE)
        with m.If(self.error == ErrorCode.NONE):
            with m.If(self.packet_error.valid):
                m.d.sync += [self.error.eq(self.packet_error.payload)]
            with m.Elif(refused != ErrorCode.NONE):
                m.d.sync += self.error.eq(refused)
        with m.If(self.packet_error.valid):
            m.d.sync += self.fatal.eq(1)

    def _field(self, register: str, name: str) -> Any:
        field = BY_NAME[register].field(name)
        value = {"MODE": self.mode, "READ_MODE": self.read_mode}[register]
        return value[field.lsb : field.lsb + field.width]


def _any(signals: dict[str, Signal]) -> Any:
    result: Any = 0
    for s in signals.values():
        result |= s
    return result
