"""The proofs' own tool: only what the solver says it has proven counts, and reset is what makes a state known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from tests.hw.proof import Outcome, Proof, Verdict


class Counter(wiring.Component):
    """Counts up, and stops wherever its low four bits are set: from reset, at 15."""

    def __init__(self) -> None:
        super().__init__({"count": Out(8)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.d.sync += self.count.eq(self.count + (self.count[:4] != 15))
        return m


def counter(folder: Path, limit: int, lemma: bool = False, cycles: int | None = None) -> Outcome:
    """What becomes of the claim that the count is below `limit`."""
    p = Proof(block := Counter())
    p.claim("stays low", block.count < limit)
    if lemma:
        p.lemma("stops in time", block.count <= 15)
    return p.check(folder, cycles)


def test_what_no_induction_shows_is_undecided(tmp_path: Path) -> None:
    assert counter(tmp_path, limit=120).verdict is Verdict.UNDECIDED


def test_a_lemma_makes_the_induction(tmp_path: Path) -> None:
    assert counter(tmp_path, limit=120, lemma=True).verdict is Verdict.PROVEN


def test_runs_from_reset_are_bounded(tmp_path: Path) -> None:
    assert counter(tmp_path, limit=15, cycles=16).verdict is Verdict.BOUNDED
    outcome = counter(tmp_path, limit=15, cycles=18)
    assert outcome.verdict is Verdict.REFUTED
    assert outcome.failed == {"stays low"}


def test_nothing_is_known_before_reset(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(Proof, "resets", False)
    assert counter(tmp_path, limit=120, lemma=True).verdict is Verdict.REFUTED
