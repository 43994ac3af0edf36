"""Bounded proof of the compactor: the indices of a job are the bits that are set in all its bitmaps, in order.

No induction: what waits in its queues is tied to the bitmaps by too much.  All runs of some cycles from reset are
looked at, with two jobs, any bitmaps, and any pauses of the two streams; its sizes are small, and so are words and
groups, from which the compactor derives all others.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import pytest
from amaranth.hdl import Array, Cat, Mux, Signal, Value
from amaranth.lib import data

from gradsieve.hw.array import compactor
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.layouts import job_layout
from tests.hw.proof import Fault, Proof, Subject, faults

WORD, GROUP = 4, 2
"""Bits of a bitmap word, and of a group."""
LOOK_AHEAD, JOBS = 2, 2
LONGEST_ANSWER = compactor.Compactor.latency + 2
"""Cycles without an index while there is a job and room for one."""


class Small(EngineConfig):
    """An engine whose bitmap words are small."""

    @cached_property
    def bitmap_words(self) -> int:
        return self.gate_rows // WORD


def compacting(module: ModuleType, words: int) -> Proof:
    """The compactor with bitmaps of so many words, which lie in its memories from the beginning."""
    config = Small(R=1, C=1, max_H=WORD * words // 4, max_I=1, max_B=1, max_T=1)
    with (
        patch.multiple(module, BITMAP_WORD=WORD, GROUP=GROUP),
        patch.object(module.Compactor, "look_ahead", LOOK_AHEAD),
    ):
        p = Proof(block := module.Compactor(config))
    m, jobs, indices, run = p.m, block.jobs, block.indices, block.run
    rows, blocks = (
        p.words(p.inside(p.inside(memory).memory).memory) for memory in (p.inside().rows, p.inside().blocks)
    )
    p.assume(~block.row_bitmap_write.valid, ~block.block_bitmap_write.valid, ~p.reset)
    p.assume(Value.cast(run) == p.before(run), run.end.bitmap_words < words, jobs.payload.tile < config.tiles)
    # what the compactor only passes on: one field stands for all
    looked_at = ("slot", "tile", "kept", "hidden")
    p.assume(*(Value.cast(getattr(jobs.payload, f)) == 0 for f in job_layout(config).members if f not in looked_at))
    p.streams()

    # what is due: the bitmap of each job that was taken
    layout = data.StructLayout({"bits": WORD * words, "job": job_layout(config)})
    due = Array(Signal(layout, name=f"due_{n}") for n in range(JOBS))
    taken, done, given = Signal(range(JOBS + 1)), Signal(range(JOBS + 1)), Signal(WORD * words)
    job = jobs.payload
    row = [Array(rows)[Mux(job.slot, words, 0) + n] for n in range(words)]
    masks = [Array(blocks)[job.tile * words + n] | (~run.block_mask).replicate(WORD) for n in range(words)]
    used = [(run.end.bitmap_words >= n) & job.kept for n in range(words)]
    bits = Cat(*[(a & b) & u.replicate(WORD) for a, b, u in zip(row, masks, used, strict=True)])
    with m.If(jobs.valid & jobs.ready):
        m.d.sync += [taken.eq(taken + 1), due[taken].bits.eq(bits), due[taken].job.eq(job)]
    p.assume(~jobs.valid | (taken != JOBS))
    now, out = due[done], indices.payload
    this = Signal(WORD * words)
    left = now.bits & ~given
    lowest = left & (~left + 1)[: WORD * words]
    m.d.comb += this.eq(Mux(out.empty, 0, 1 << out.q))
    with m.If(indices.valid & indices.ready):
        m.d.sync += given.eq(Mux(out.last, 0, given | this))
        m.d.sync += done.eq(done + out.last)

    waits, refused = Signal(range(LONGEST_ANSWER + 2)), Signal(range(LONGEST_ANSWER + 2))
    m.d.sync += waits.eq(Mux((taken == done) | indices.valid, 0, waits + 1))
    m.d.sync += refused.eq(Mux(~jobs.valid | jobs.ready | (taken != done), 0, refused + 1))

    def given_when(condition: Value) -> Value:
        return ~indices.valid | condition

    p.claim("gives indices of its jobs only", given_when(done < taken))
    p.claim("tells the job", given_when(Value.cast(out.job) == Value.cast(now.job)))
    p.claim("gives the lowest index that is left", given_when(this == lowest))
    p.claim("marks a job without any", given_when(out.empty == (now.bits == 0)))
    p.claim("marks the first", given_when(out.first == (given == 0)))
    p.claim("marks the last", given_when(out.last == (left == lowest)))
    p.claim("takes and finishes jobs", (waits <= LONGEST_ANSWER) & (refused <= LONGEST_ANSWER))
    return p


FAULTS = [
    ("advance.eq(~self.indices.valid | self.indices.ready)", "advance.eq(1)", "indices stays"),
    ("self.indices.valid.eq(group_valid)", "self.indices.valid.eq(1)", "gives indices of its jobs only"),
    ("out.job.eq(group.job)", "out.job.eq(next_group.sink.payload.job)", "tells the job"),
    ("Cat(_position(lowest), group.place)", "Cat(group.bits[1], group.place)", "gives the lowest index that is left"),
    ("chosen.eq(_lowest(ahead))", "chosen.eq(ahead)", "gives the lowest index that is left"),
    ("pending.empty.eq(~some)", "pending.empty.eq(0)", "marks a job without any"),
    ("first.eq(group.end & group_done)", "first.eq(group_done)", "marks the first"),
    ("out.last.eq(group.end & group_done)", "out.last.eq(group.end)", "marks the last"),
    ("[pushes.eq(1), pushed.end.eq(1)]", "pushes.eq(1)", "marks the last"),
    ("ready.eq(issue & last_word)", "ready.eq(issue & last_word & ~job.slot)", "takes and finishes jobs"),
]  # fmt: skip
SUBJECTS = {
    "one word": Subject(lambda module: compacting(module, 1), compactor, [], others=FAULTS, cycles=22),
    "two words": Subject(lambda module: compacting(module, 2), compactor, FAULTS, cycles=20),
}


@pytest.mark.parametrize("name", SUBJECTS)
def test_holds_for_some_cycles(name: str, tmp_path: Path) -> None:
    SUBJECTS[name].assert_proven(tmp_path)


@pytest.mark.heavy
@pytest.mark.parametrize("name", SUBJECTS)
def test_holds_for_more_cycles(name: str, tmp_path: Path) -> None:
    replace(SUBJECTS[name], cycles=SUBJECTS[name].cycles + 3).assert_proven(tmp_path)


@pytest.mark.parametrize(("name", "fault"), faults(SUBJECTS))
def test_fault_is_found(name: str, fault: Fault, tmp_path: Path) -> None:
    SUBJECTS[name].assert_refuted(tmp_path, fault)


@pytest.mark.parametrize("name", SUBJECTS)
def test_indices_need_their_reset(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SUBJECTS[name].assert_needs_reset(tmp_path, monkeypatch)
