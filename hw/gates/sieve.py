"""The sieve: decides row by row which gate gradients survive, in every mode (docs/arithmetic.md)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import MAX_SHIFT, RANDOM_SEED, RANDOM_WIDTH, EngineConfig, SieveMode
from gradsieve.hw.layouts import gate_rows_layout, sieved_rows_layout
from gradsieve.hw.lib.arithmetic import bits_for, saturate
from gradsieve.hw.lib.credit_queue import CreditQueue
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.pipeline import Pipeline, Staged


def xorshift32(state: int) -> int:
    """The next state of the xorshift32 source: left 13, right 17, left 5 (Marsaglia 2003)."""
    mask = (1 << RANDOM_WIDTH) - 1
    state ^= state << 13 & mask
    state ^= state >> 17
    return state ^ (state << 5 & mask)


def xorshift32_steps(state: Value, steps: int) -> Value:
    """`state` after so many steps, combinational: the source is linear, so each bit is one exclusive or of bits."""
    columns = [1 << n for n in range(RANDOM_WIDTH)]
    for _ in range(steps):
        columns = [xorshift32(c) for c in columns]
    rows = [Cat(*[state[n] for n, c in enumerate(columns) if c >> bit & 1]).xor() for bit in range(RANDOM_WIDTH)]
    return Cat(*rows)


def sieve_stages(config: EngineConfig) -> tuple[str, ...]:
    """Stages of the pipeline in front of the queue; a row's score is found by a tree over its lanes."""
    tree = (f"score_{level}" for level in range((config.C - 1).bit_length()))
    decision = ("leading_one", "distance", "scaled", "shift", "decided")
    return ("magnitude", *tree, *decision, "masked", "shifted", "clipped", "counted")


def sieve_latency(config: EngineConfig) -> int:
    """Cycles from a row to what becomes of it, without backpressure."""
    return len(sieve_stages(config)) + CreditQueue.latency


class Sieve(wiring.Component):
    """Rows in, sieved rows out, in order: `latency` cycles, one group of rows a cycle, with backpressure.

    A row's score is the largest |dz| of its lanes; `mode` and `tau` are steady during a run.  `random` is the state of
    the source, set by `random_load`, advanced once a row in stochastic mode only, before the row uses it.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.stages, self.latency = sieve_stages(config), sieve_latency(config)
        super().__init__(
            {
                "mode": In(bits_for(max(SieveMode))),
                "tau": In(config.formats.gradient.width),
                "random_load": In(Flow(unsigned(RANDOM_WIDTH))),
                "random": Out(RANDOM_WIDTH, init=RANDOM_SEED),
                "rows": In(stream.Signature(gate_rows_layout(config))),
                "sieved": Out(stream.Signature(sieved_rows_layout(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c = self.config
        m.submodules.queue = queue = CreditQueue(sieved_rows_layout(c), len(self.stages))
        wiring.connect(m, queue.sink, wiring.flipped(self.sieved))
        taken = Signal()
        m.d.comb += [
            taken.eq(self.rows.valid & queue.room),
            self.rows.ready.eq(queue.room),
            queue.reserve.eq(taken),
        ]
        pipes = [Pipeline(m, self.stages, f"row_{r}") for r in range(c.gate_rows_per_cycle)]
        valid = pipes[0].marks(taken)
        m.d.comb += queue.source.valid.eq(valid[-1])
        stochastic = self.mode == SieveMode.STOCHASTIC
        words = self._random_words(m, valid[self.stages.index("decided")] & stochastic)
        tau_msb = Signal(range(len(self.tau) + 1))
        m.d.sync += tau_msb.eq(_msb(m, self.tau, "tau_msb"))

        rows, overflows = [], []
        for pipe, word, lanes in zip(pipes, words, self.rows.payload, strict=True):
            score, row, above = self._score(pipe, list(lanes))
            shift, reaches, nonzero = self._shift(m, pipe, score, tau_msb)
            pipe.begin("decided")
            low_bits = Cat(*[n < shift.now for n in range(MAX_SHIFT)])
            keep = Signal()
            element_mask = Signal(c.C)
            m.d.comb += element_mask.eq(-1)
            with m.Switch(self.mode):
                with m.Case(SieveMode.DENSE):
                    m.d.comb += keep.eq(1)
                with m.Case(SieveMode.ELEMENT):
                    m.d.comb += [element_mask.eq(above.now), keep.eq(above.now.any())]
                with m.Case(SieveMode.ROW):
                    m.d.comb += keep.eq(reaches.now)
                with m.Case(SieveMode.STOCHASTIC):
                    m.d.comb += keep.eq(nonzero.now & (shift.now <= MAX_SHIFT) & ~(word & low_bits).any())
            kept, mask = pipe.put(keep, "kept"), pipe.put(element_mask, "mask")
            amount = pipe.put(Mux(stochastic, shift.now, 0)[: bits_for(MAX_SHIFT).width], "amount")
            pipe.begin("masked")
            row = [pipe.put(Mux(kept.now & mask.now[n], v.now, 0), f"row_{n}") for n, v in enumerate(row)]
            pipe.begin("shifted")
            shifted = [pipe.put(v.now << amount.now, f"shifted_{n}") for n, v in enumerate(row)]
            elements = pipe.put(Cat(*[v.now != 0 for v in row]), "elements")
            pipe.begin("clipped")
            clipped = [saturate(v.now, c.formats.gradient.width) for v in shifted]
            row = [pipe.put(v, f"clipped_{n}") for n, (v, _) in enumerate(clipped)]
            overflows += [pipe.put(overflow, f"overflow_{n}") for n, (_, overflow) in enumerate(clipped)]
            pipe.begin("counted")
            rows.append((row, kept, pipe.put(_sum(list(elements.now)), "element_count")))
        saturated = pipes[0].put(_sum([overflow.now for overflow in overflows]), "saturated")
        for pipe in pipes:
            pipe.end()
        left = queue.source.payload
        for r, (row, kept, count) in enumerate(rows):
            m.d.comb += [left.rows[r][n].eq(v.now) for n, v in enumerate(row)]
            m.d.comb += [left.kept[r].eq(kept.now), left.elements[r].eq(count.now)]
        m.d.comb += left.saturated.eq(saturated.now)
        return m

    def _random_words(self, m: Module, advance: Value) -> list[Signal]:
        """The random words of the group that is decided next, a row each, ready-made; `advance` says that it is."""
        rate = self.config.gate_rows_per_cycle
        ahead = [RANDOM_SEED]
        for _ in range(rate):
            ahead.append(xorshift32(ahead[-1]))
        words = [Signal(RANDOM_WIDTH, name=f"word_{r}", init=w) for r, w in enumerate(ahead[1:])]
        with m.If(self.random_load.valid):
            source = self.random_load.payload
            m.d.sync += [self.random.eq(source), *[w.eq(xorshift32_steps(source, r + 1)) for r, w in enumerate(words)]]
        with m.Elif(advance):
            m.d.sync += [self.random.eq(words[-1]), *[w.eq(xorshift32_steps(w, rate)) for w in words]]
        return words

    def _score(self, pipe: Pipeline, lanes: list[Value]) -> tuple[Staged, list[Staged], Staged]:
        """A row's score, its lanes, and which of them reach tau."""
        pipe.begin("magnitude")
        row = [pipe.enter(v, f"row_{n}") for n, v in enumerate(lanes)]
        largest = [pipe.put(Mux(v < 0, -v, v)[: len(v)], f"magnitude_{n}") for n, v in enumerate(lanes)]
        after, *later = self.stages[1 : self.stages.index("leading_one") + 1]
        pipe.begin(after)
        above = pipe.enter(Cat(*[self._reaches_tau(v.now) for v in largest]), "above")
        for stage in later:
            pairs = [[v.now for v in largest[n : n + 2]] for n in range(0, len(largest), 2)]
            largest = [pipe.put(Mux(p[0] > p[-1], p[0], p[-1]), f"largest_{n}") for n, p in enumerate(pairs)]
            pipe.begin(stage)
        return largest[0], row, above

    def _shift(self, m: Module, pipe: Pipeline, score: Staged, tau_msb: Value) -> tuple[Staged, Staged, Staged]:
        """Of a score, from its leading one on: the least shift that takes it to tau, whether it needs none, any bit."""
        score_msb = pipe.put(_msb(m, score.now, "score"), "score_msb")
        reaches = pipe.put(self._reaches_tau(score.now), "reaches")
        # with the leading ones aligned, the score reaches tau at this shift or at the next
        pipe.begin("distance")
        nonzero = pipe.put(score_msb.now != 0, "nonzero")
        apart = (tau_msb - score_msb.now)[: len(tau_msb)]
        distance = pipe.put(Mux(tau_msb > score_msb.now, apart, 0), "distance")
        pipe.begin("scaled")
        scaled = pipe.put((score.now << distance.now)[: len(self.tau)], "scaled")
        next_distance = pipe.put(distance.now + 1, "next_distance")
        pipe.begin("shift")
        shift = pipe.put(Mux(scaled.now < self.tau, next_distance.now, distance.now), "shift")
        return shift, reaches, nonzero

    def _reaches_tau(self, value: Value) -> Value:
        return (value >= self.tau) & (value != 0)


def _sum(terms: list[Value]) -> Value:
    return sum(terms[1:], start=terms[0])


def _msb(m: Module, value: Value, name: str) -> Signal:
    """Position of the leading one, counted from 1; 0 for zero."""
    result = Signal(range(len(value) + 1), name=f"{name}_position")
    for n in range(len(value)):
        with m.If(value[n]):
            m.d.comb += result.eq(n + 1)
    return result
