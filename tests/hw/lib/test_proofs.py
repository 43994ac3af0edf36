"""Proofs of the stream blocks: what waits stays, and nothing is lost, invented or reordered."""

from __future__ import annotations

from functools import reduce
from operator import and_
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from amaranth.hdl import Array, Mux, Signal, Value

from gradsieve.hw.cells.gowin import GOWIN
from gradsieve.hw.lib import credit_counter, credit_queue, register_slice, stream_memory
from tests.hw.proof import Fault, Proof, Subject, faults

WORD = 2
"""Bits of a word: the blocks pass all bits alike."""


def full_slice(module: ModuleType) -> Proof:
    """A slice of two places; `clear` may come at any time."""
    p = Proof(block := module.RegisterSlice(WORD))
    state = p.inside()
    places = [(block.sink.valid, block.sink.payload), (state.spare_valid, state.spare)]
    return _slice(p, block, places)


def half_slice(module: ModuleType) -> Proof:
    """A slice of one place."""
    p = Proof(block := module.RegisterSlice(WORD, full=False))
    return _slice(p, block, [(block.sink.valid, block.sink.payload)])


def slice_without_spare(module: ModuleType) -> Proof:
    """A slice on parts whose cells are not `registered_ready`."""
    p = Proof(block := module.RegisterSlice(WORD), platform=SimpleNamespace(cells=GOWIN))
    return _slice(p, block, [(block.sink.valid, block.sink.payload)])


def _slice(p: Proof, block: Any, places: list[tuple[Any, Any]]) -> Proof:
    p.streams(receives_unless=block.clear, sends_unless=block.clear)
    p.queue(block.source.valid & block.source.ready, block.source.payload, block.sink, places, block.clear)
    return p


def forward_register(module: ModuleType) -> Proof:
    """A register whose `ready` passes through."""
    p = Proof(block := module.ForwardRegister(WORD))
    p.streams()
    places = [(block.sink.valid, block.sink.payload)]
    p.queue(block.source.valid & block.source.ready, block.source.payload, block.sink, places)
    return p


def memory(module: ModuleType) -> Proof:
    """A memory behind streams: the answers are what the requests asked for when they were taken."""
    p = Proof(block := module.StreamMemory(WORD, 4))
    p.streams()
    write, request, registers = block.write, block.request, p.inside(p.inside().memory)
    stored = p.words(registers.memory)
    # a word that is written in the cycle of its request reads as anything
    p.assume(~(write.valid & request.valid & (write.payload.address == request.payload)))
    places = [(block.word.valid, registers.output), (p.inside().read_valid, registers.read_port.data)]
    p.queue(request.valid & request.ready, Array(stored)[request.payload], block.word, places)
    written = [write.valid & (write.payload.address == n) for n in range(len(stored))]
    kept = [word == p.before(Mux(w, write.payload.word, word)) for w, word in zip(written, stored, strict=True)]
    p.claim("stores what is written", reduce(and_, kept))
    return p


def _tells(available: Value, idle: Value, count: Value, limit: Value | int, at_once: int) -> Value:
    """What a credit counter's outputs say of its count."""
    return (available == (count + at_once <= limit)) & (idle == (count == 0))


def counted_credits(module: ModuleType, most: int = 6, each: int = 1, at_once: int | None = None) -> Proof:
    """A counter whose users keep to its contract, and whose limit changes while nothing is outstanding."""
    p = Proof(block := module.CreditCounter(most, each, at_once))
    count, more = Signal(range(2 * most)), _more(p, block.acquire, block)  # what is outstanding
    p.m.d.sync += count.eq(count + each * block.acquire - block.release)
    limit = p.before(block.limit)
    p.assume(~block.acquire | block.available | (more != 0), ~block.release | (count != 0))
    p.assume(block.limit >= block.at_once, block.limit <= most)
    p.assume((block.limit == limit) | ((count == 0) & (more == 0) & ~block.acquire) | p.after_reset)
    p.claim("keeps to its limit", count + each * more <= block.limit)
    p.claim(
        "tells what is outstanding", p.after_reset | _tells(block.available, block.idle, count, limit, block.at_once)
    )
    p.claim("begins idle", ~p.after_reset | (block.idle & block.available))
    p.lemma("counts what is outstanding", p.inside().count == count)
    return p


def _more(p: Proof, acquire: Value, block: Any) -> Signal:
    """How many acquisitions its `available` allowed a user that have not been made."""
    more = Signal(range(block.at_once + 1))
    with p.m.If(acquire):
        p.m.d.sync += more.eq(Mux(more == 0, block.at_once // block.each, more) - 1)
    return more


def reserved(module: ModuleType, each: int = 1, at_once: int | None = None, pipeline: int = 1) -> Proof:
    """The queue behind a pipeline, with users that keep to its contract: what comes has been reserved before."""
    p = Proof(block := module.CreditQueue(1, pipeline, each=each, at_once=at_once))
    m, state = p.m, p.inside()
    fifo, word, out = p.inside(state.queue), p.inside(state.word), p.inside(state.out)
    promised = Signal(range(2 * block.depth))  # payloads that are reserved and have not come
    more = _more(p, block.reserve, block)
    m.d.sync += promised.eq(promised + block.each * block.reserve - block.source.valid)
    p.assume(~block.reserve | block.room | (more != 0), ~block.source.valid | (promised != 0))
    p.streams()

    stored = p.words(fifo.storage)
    size = len(stored)

    def around(place: Any) -> Any:
        return Mux(place >= size, place - size, place)

    count = p.queue(
        block.source.valid,
        block.source.payload,
        block.sink,
        [
            (block.sink.valid, block.sink.payload),
            (out.spare_valid, out.spare),
            (word.block.sink.valid, word.block.sink.payload),
            (fifo.block.r_rdy, fifo.block.r_data),
            *((fifo.inner_level > n, Array(stored)[around(fifo.consume + n)]) for n in range(size)),
        ],
    )
    p.claim("has room for what comes", ~block.source.valid | fifo.block.w_rdy)
    p.claim("is empty when all has left", block.empty == ((promised == 0) & (count == 0) & ~state.leaves))
    # lemmas: what the counter counts, and that it stays within its bounds; and where the words lie
    counter = p.inside(state.reserved)
    counted = counter.count + block.each * state.reserves
    p.lemma("counts reservations", counted == promised + fifo.block.level + state.leaves)
    p.lemma("counts no further than its room", counted + block.each * more <= block.depth + state.leaves)
    p.lemma("counter stays in range", (counter.count <= block.depth) & (~state.leaves | (counter.count != 0)))
    p.lemma("counter tells", _tells(block.room, counter.block.idle, counter.count, block.depth, counter.block.at_once))
    p.lemma(
        "places are in range",
        (fifo.consume < size) & (fifo.inner_level <= size) & (fifo.produce == around(fifo.consume + fifo.inner_level)),
    )
    return p


UNSTEADY = (
    "m.d.comb += [self.sink.valid.eq(out.sink.valid & self.reserve), self.sink.payload.eq(out.sink.payload), "
    "out.sink.ready.eq(self.sink.ready & self.reserve)]"
)
QUEUE_FAULTS = [
    ("self.at_once + self.each)", "self.each)", "counts no further than its room"),
    ("release.eq(leaves)", "release.eq(0)", "counts reservations"),
    ("& ~reserves & ~word.sink.valid", "& ~word.sink.valid", "is empty when all has left"),
    ("w_en.eq(self.source.valid)", "w_en.eq(self.source.valid & self.room)", "loses nothing"),
    ("w_en.eq(self.source.valid)", "w_en.eq(self.source.valid | self.reserve)", "invents nothing"),
    ("queue.w_data.eq(self.source.payload)", "queue.w_data.eq(0)", "gives the oldest word"),
    ("wiring.connect(m, out.sink, wiring.flipped(self.sink))", UNSTEADY, "sink stays"),
    ("self.at_once + self.each)", "self.each)", "has room for what comes"),
]
COUNTER_FAULTS = [
    ("self.limit - self.at_once - taken", "self.limit - taken", "keeps to its limit"),
    ("count == 1, count == 0", "count == 0, count == 0", "tells what is outstanding"),
    ("fits(-1), fits(0)", "fits(0), fits(0)", "tells what is outstanding"),
    ('"idle": Out(1, init=1)', '"idle": Out(1)', "begins idle"),
    ("- self.release", "", "counts what is outstanding"),
]

SUBJECTS = {
    "slice": Subject(
        full_slice,
        register_slice,
        [
            ("stalled = sink.valid & ~sink.ready", "stalled = sink.valid & sink.ready", "sink stays"),
            ("with m.If(~sink.valid | sink.ready):", "with m.If(sink.valid | sink.ready):", "gives the oldest word"),
            ("with m.If(spare_valid):", "with m.If(~spare_valid):", "gives the oldest word"),
            ("(source.valid | spare_valid) & stalled", "source.valid & stalled", "loses nothing"),
            ("source.valid | spare_valid | stalled", "source.valid | spare_valid | sink.valid", "invents nothing"),
            ("m.d.comb += source.ready.eq(~spare_valid)", "m.d.comb += source.ready.eq(1)", "keeps the order"),
            ("spare_valid = Signal()", "spare_valid = Signal(reset_less=True)", "loses nothing"),
            ("[sink.valid.eq(0), spare_valid.eq(0)]", "sink.valid.eq(0)", "loses nothing"),
        ],
    ),
    "half slice": Subject(
        half_slice,
        register_slice,
        [
            ("(sink.valid & ~sink.ready))\n            with", "sink.valid)\n            with", "invents nothing"),
            ("source.ready.eq(~sink.valid)", "source.ready.eq(1)", "sink stays"),
            ("(source.valid & ~sink.valid) |", "source.valid |", "invents nothing"),
            (
                "m.If(source.ready):\n                m.d",
                "m.If(sink.ready):\n                m.d",
                "gives the oldest word",
            ),
            ("source.ready.eq(~sink.valid)", "source.ready.eq(1)", "loses nothing"),
        ],
    ),
    "slice without spare": Subject(
        slice_without_spare,
        register_slice,
        [
            ("ResetInserter(self.clear)(m)", "m", "loses nothing"),
            ("| (self.sink.valid & ~self.sink.ready)", "", "sink stays"),
            ("with m.If(self.source.ready):", "with m.If(self.source.valid):", "gives the oldest word"),
            ("(self.sink.valid & ~self.sink.ready)", "self.sink.valid", "invents nothing"),
        ],
    ),
    "forward register": Subject(
        forward_register,
        register_slice,
        [
            ("| (self.sink.valid & ~self.sink.ready)", "", "sink stays"),
            ("eq(~self.sink.valid | self.sink.ready)", "eq(1)", "loses nothing"),
            ("with m.If(self.source.ready):", "with m.If(self.source.valid):", "gives the oldest word"),
            ("(self.sink.valid & ~self.sink.ready)", "self.sink.valid", "invents nothing"),
        ],
    ),
    "stream memory": Subject(
        memory,
        stream_memory,
        [
            ("self.word.valid.eq(read_valid)", "self.word.valid.eq(1)", "invents nothing"),
            ("read_ready.eq(~read_valid | out_ready)", "read_ready.eq(1)", "loses nothing"),
            ("out_ready.eq(~self.word.valid | self.word.ready)", "out_ready.eq(1)", "word stays"),
            ("memory.output_enable.eq(out_ready)", "memory.output_enable.eq(1)", "gives the oldest word"),
            ("read_enable.eq(read_ready)", "read_enable.eq(1)", "keeps the order"),
            ("write_enable.eq(self.write.valid)", "write_enable.eq(0)", "stores what is written"),
        ],
    ),
    "credit counter": Subject(
        counted_credits,
        credit_counter,
        COUNTER_FAULTS,
    ),
    "credit counter, 2 each": Subject(
        lambda module: counted_credits(module, each=2, at_once=4),
        credit_counter,
        [
            ("self.each * self.acquire", "self.acquire", "keeps to its limit"),
            ("self.at_once - taken", "self.each - taken", "keeps to its limit"),
        ],
        others=COUNTER_FAULTS,
    ),
    "credit queue": Subject(
        reserved,
        credit_queue,
        QUEUE_FAULTS,
    ),
    "credit queue, 2 each": Subject(
        lambda module: reserved(module, each=2),
        credit_queue,
        [
            ("(self.depth, self.each, ", "(self.depth, 1, ", "has room for what comes"),
        ],
        others=QUEUE_FAULTS,
    ),
    "credit queue, 3 at once": Subject(
        lambda module: reserved(module, at_once=3, pipeline=2),
        credit_queue,
        [
            ("self.at_once + self.each)", "self.each)", "has room for what comes"),
        ],
        others=QUEUE_FAULTS,
    ),
}


@pytest.mark.parametrize("name", SUBJECTS)
def test_is_proven(name: str, tmp_path: Path) -> None:
    SUBJECTS[name].assert_proven(tmp_path)


@pytest.mark.parametrize(("name", "fault"), faults(SUBJECTS))
def test_fault_is_found(name: str, fault: Fault, tmp_path: Path) -> None:
    SUBJECTS[name].assert_refuted(tmp_path, fault)


@pytest.mark.parametrize("name", [name for name in SUBJECTS if not name.startswith("credit counter")])
def test_streams_need_their_reset(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SUBJECTS[name].assert_needs_reset(tmp_path, monkeypatch)
