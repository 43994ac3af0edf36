"""The sieve: decides row by row which gate gradients survive, in all four modes (docs/arithmetic.md)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import MAX_SHIFT, RANDOM_SEED, RANDOM_WIDTH, EngineConfig, SieveMode
from gradsieve.hw.layouts import gate_rows_layout, sieved_rows_layout
from gradsieve.hw.lib.arithmetic import bits_for, saturate
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.reserved_queue import ReservedQueue


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


class Sieve(wiring.Component):
    """Rows in, sieved rows out, in order: `latency` cycles, one group of rows a cycle, with backpressure.

    A row's score is the largest |dz| of its lanes; `mode` and `tau` are steady during a run.  `random` is the state of
    the source, set by `random_load`, advanced once a row in stochastic mode only, before the row uses it.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.levels = (config.C - 1).bit_length()
        """Stages of the tree that finds a row's score."""
        self.stages = 10 + self.levels
        """Stages of the pipeline in front of the queue."""
        super().__init__(
            {
                "mode": In(2),
                "tau": In(config.formats.gradient.width),
                "random_load": In(Flow(unsigned(RANDOM_WIDTH))),
                "random": Out(RANDOM_WIDTH, init=RANDOM_SEED),
                "rows": In(stream.Signature(gate_rows_layout(config))),
                "sieved": Out(stream.Signature(sieved_rows_layout(config))),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from a row to what becomes of it, without backpressure."""
        return self.stages + ReservedQueue.latency

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c = self.config
        width, rate, lanes = c.formats.gradient.width, c.gate_rows_per_cycle, range(c.C)
        stochastic = self.mode == SieveMode.STOCHASTIC
        m.submodules.queue = queue = ReservedQueue(sieved_rows_layout(c), self.stages)
        wiring.connect(m, queue.sink, wiring.flipped(self.sieved))
        taken = Signal()
        m.d.comb += [
            taken.eq(self.rows.valid & queue.room),
            self.rows.ready.eq(queue.room),
            queue.reserve.eq(taken),
        ]
        valid = [taken, *[Signal(name=f"valid_stage{n + 1}") for n in range(self.stages)]]
        m.d.comb += queue.source.valid.eq(valid[-1])
        m.d.sync += Cat(*valid[1:]).eq(Cat(*valid[:-1]))
        tau_msb = Signal(range(width + 1))
        m.d.sync += tau_msb.eq(_msb(m, self.tau, "tau_msb"))

        # the words of the next group's rows, ready-made
        ahead = [RANDOM_SEED]
        for _ in range(rate):
            ahead.append(xorshift32(ahead[-1]))
        words = [Signal(RANDOM_WIDTH, name=f"word_{r}", init=w) for r, w in enumerate(ahead[1:])]
        decided = 5 + self.levels  # the stage whose end decides
        with m.If(self.random_load.valid):
            source = self.random_load.payload
            m.d.sync += [self.random.eq(source), *[w.eq(xorshift32_steps(source, r + 1)) for r, w in enumerate(words)]]
        with m.Elif(valid[decided] & stochastic):
            m.d.sync += [self.random.eq(words[-1]), *[w.eq(xorshift32_steps(w, rate)) for w in words]]

        def stage(value: Value, name: str) -> Signal:
            """A register of the pipeline."""
            register = Signal(value.shape(), name=name, reset_less=True)
            m.d.sync += register.eq(value)
            return register

        overflows: list[Value] = []
        for r in range(rate):

            def put(value: Value, name: str, row: int = r) -> Signal:
                return stage(value, f"{name}_{row}")

            def put_row(row: list[Value], number: int) -> list[Value]:
                return [put(v, f"row_stage{number}_{n}") for n, v in enumerate(row)]

            # magnitudes
            row: list[Value] = [self.rows.payload[r][n] for n in lanes]
            magnitudes: list[Value] = [put(Mux(v < 0, -v, v)[:width], f"magnitude_{n}") for n, v in enumerate(row)]
            row, number = put_row(row, 1), 1
            # score, and which elements reach tau
            above: Value = Cat(*[(v >= self.tau) & (v != 0) for v in magnitudes])
            for level in range(self.levels):
                pairs = [magnitudes[n : n + 2] for n in range(0, len(magnitudes), 2)]
                magnitudes = [
                    put(Mux(p[0] > p[-1], p[0], p[-1]) if len(p) == 2 else p[0], f"largest_{level}_{n}")
                    for n, p in enumerate(pairs)
                ]
                above, number = put(above, f"above_level{level}"), number + 1
                row = put_row(row, number)
            (score,) = magnitudes
            # with the leading ones aligned, the score reaches tau at this shift or at the next
            score_msb: Value = put(_msb(m, score, f"score_{r}"), "score_msb")
            reaches: Value = put((score >= self.tau) & (score != 0), "reaches")
            above, score, row = put(above, "above_msb"), put(score, "score_msb_of"), put_row(row, number + 1)
            distance: Value = put(Mux(tau_msb > score_msb, (tau_msb - score_msb)[: len(tau_msb)], 0), "distance")
            reaches, nonzero = put(reaches, "reaches_distance"), put(score_msb != 0, "nonzero")
            above, score, row = put(above, "above_distance"), put(score, "score_distance"), put_row(row, number + 2)
            scaled = put((score << distance)[:width], "scaled")
            distance, next_distance = put(distance, "distance_scaled"), put(distance + 1, "next_distance")
            nonzero, reaches = put(nonzero, "nonzero_scaled"), put(reaches, "reaches_scaled")
            above, row = put(above, "above_scaled"), put_row(row, number + 3)
            shift = put(Mux(scaled < self.tau, next_distance, distance), "shift")
            nonzero, reaches, above = put(nonzero, "nonzero_shift"), put(reaches, "reaches_shift"), put(above, "above")
            row = put_row(row, number + 4)

            # the decision
            low_bits = Cat(*[n < shift for n in range(MAX_SHIFT)])
            keep, element_mask = Signal(name=f"keep_{r}"), Signal(c.C, name=f"element_mask_{r}")
            m.d.comb += element_mask.eq(-1)
            with m.Switch(self.mode):
                with m.Case(SieveMode.DENSE):
                    m.d.comb += keep.eq(1)
                with m.Case(SieveMode.ELEMENT):
                    m.d.comb += [element_mask.eq(above), keep.eq(above.any())]
                with m.Case(SieveMode.ROW):
                    m.d.comb += keep.eq(reaches)
                with m.Case(SieveMode.STOCHASTIC):
                    m.d.comb += keep.eq(nonzero & (shift <= MAX_SHIFT) & ~(words[r] & low_bits).any())
            kept: Value = put(keep, "kept_decided")
            mask = put(element_mask, "mask")
            amount: Value = put(Mux(stochastic, shift, 0)[: bits_for(MAX_SHIFT).width], "amount")
            row = put_row(row, number + 5)
            row = put_row([Mux(kept & mask[n], row[n], 0) for n in lanes], number + 6)
            kept, amount = put(kept, "kept_masked"), put(amount, "amount_masked")

            # the scale
            shifted = [put(row[n] << amount, f"shifted_{n}") for n in lanes]
            elements: Value = put(Cat(*[row[n] != 0 for n in lanes]), "elements_shifted")
            kept = put(kept, "kept_shifted")
            clipped = [saturate(v, width) for v in shifted]
            row = put_row([v for v, _ in clipped], number + 8)
            overflows += [put(o, f"overflow_{n}") for n, (_, o) in enumerate(clipped)]
            elements, kept = put(elements, "elements_clipped"), put(kept, "kept_clipped")
            left = queue.source.payload
            m.d.comb += [
                *[left.rows[r][n].eq(stage(row[n], f"row_{r}_{n}")) for n in lanes],
                left.kept[r].eq(stage(kept, f"kept_{r}_counted")),
                left.elements[r].eq(
                    stage(sum((elements[n] for n in lanes[1:]), start=elements[0]), f"elements_{r}_counted")
                ),
            ]
        m.d.comb += left.saturated.eq(stage(sum(overflows[1:], start=overflows[0]), "saturated"))
        return m


def _msb(m: Module, value: Value, name: str) -> Signal:
    """Position of the leading one, counted from 1; 0 for zero."""
    result = Signal(range(len(value) + 1), name=f"{name}_position")
    for n in range(len(value)):
        with m.If(value[n]):
            m.d.comb += result.eq(n + 1)
    return result
