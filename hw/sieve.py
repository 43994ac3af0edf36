"""The sieve: decides row by row which gate gradients survive, in all four modes (design, section 3)."""

from __future__ import annotations

from functools import reduce
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.arithmetic import saturate
from hw.config import MAX_SHIFT, EngineConfig
from hw.flow import Flow
from hw.gate_gradient import gate_rows_layout
from hw.memory import bits_for
from hw.registers import BY_NAME, SieveRegister

RANDOM_WIDTH = 32


def sieved_rows_layout(config: EngineConfig) -> data.StructLayout:
    """Gate rows after the sieve; `kept` has a bit a row, `elements` the count of non-zero elements of each row."""
    rate = config.gate_rows_per_cycle
    return data.StructLayout(
        {
            "rows": gate_rows_layout(config),
            "kept": rate,
            "elements": data.ArrayLayout(bits_for(config.C), rate),
            "saturated": bits_for(rate * config.C),
        }
    )


def xorshift32(m: Module, state: Value, name: str) -> Value:
    """The next state of the xorshift32 source (left 13, right 17, left 5), combinational."""
    for n, (left, amount) in enumerate(((True, 13), (False, 17), (True, 5))):
        step = Signal(RANDOM_WIDTH, name=f"{name}_{n}")
        m.d.comb += step.eq(state ^ ((state << amount) if left else (state >> amount)))
        state = step
    return state


class Sieve(wiring.Component):
    """Rows in, sieved rows out, in order: `latency` = 3 cycles, one group of rows a cycle, with backpressure.

    A row's score is the largest |dz| of its lanes; `mode` and `tau` are steady during a run.  `random` is the state of
    the source, set by `random_load`, advanced once a row in stochastic mode only, before the row uses it.
    """

    latency = 3

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "mode": In(2),
                "tau": In(config.formats.gradient.width),
                "random_load": In(Flow(unsigned(RANDOM_WIDTH))),
                "random": Out(RANDOM_WIDTH, init=BY_NAME["RANDOM"].reset),
                "rows": In(stream.Signature(gate_rows_layout(config))),
                "sieved": Out(stream.Signature(sieved_rows_layout(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c = self.config
        width, rate, lanes = c.formats.gradient.width, c.gate_rows_per_cycle, c.C
        advance, valid_1, valid_2 = Signal(), Signal(), Signal()
        stochastic = self.mode == SieveRegister.STOCHASTIC
        m.d.comb += [advance.eq(~self.sieved.valid | self.sieved.ready), self.rows.ready.eq(advance)]
        with m.If(advance):
            m.d.sync += [valid_1.eq(self.rows.valid), valid_2.eq(valid_1), self.sieved.valid.eq(valid_2)]

        tau_msb = Signal(range(width + 1))
        m.d.sync += tau_msb.eq(_msb(m, self.tau, "tau_msb"))

        state: Value = self.random
        saturated: list[Value] = []
        for r in range(rate):
            # stage 1: magnitudes and score
            elements = [self.rows.payload[r][lane] for lane in range(lanes)]
            row_1 = [Signal(signed(width), name=f"row_{r}_{n}_stage1", reset_less=True) for n in range(lanes)]
            magnitudes = []
            above_1 = Signal(lanes, name=f"above_{r}_stage1", reset_less=True)
            for n, element in enumerate(elements):
                magnitude = Signal(width, name=f"magnitude_{r}_{n}")
                m.d.comb += magnitude.eq(Mux(element < 0, -element, element))
                magnitudes.append(magnitude)
                with m.If(advance):
                    m.d.sync += [row_1[n].eq(element), above_1[n].eq(magnitude >= self.tau)]
            score_1 = Signal(width, name=f"score_{r}_stage1", reset_less=True)
            with m.If(advance):
                m.d.sync += score_1.eq(reduce(lambda a, b: Mux(a > b, a, b), magnitudes))

            # stage 2: the decision
            score_msb = Signal(range(width + 1), name=f"score_msb_{r}")
            distance = Signal(range(width + 1), name=f"distance_{r}")
            shift = Signal(range(width + 2), name=f"shift_{r}")
            nonzero = Signal(name=f"nonzero_{r}")
            scaled = Signal(2 * width, name=f"scaled_{r}")
            m.d.comb += [
                nonzero.eq(score_1 != 0),
                score_msb.eq(_msb(m, score_1, f"score_{r}")),
                # with the leading ones aligned, the score reaches tau at this shift or at the next
                distance.eq(Mux(tau_msb > score_msb, tau_msb - score_msb, 0)),
                scaled.eq(score_1 << distance),
                shift.eq(distance + (scaled < self.tau)),
            ]
            word = xorshift32(m, state, f"random_{r}")
            low_bits = Signal(MAX_SHIFT, name=f"low_bits_{r}")
            m.d.comb += low_bits.eq(Cat(*[n < shift for n in range(MAX_SHIFT)]))
            keep = Signal(name=f"keep_{r}")
            element_mask = Signal(lanes, name=f"element_mask_{r}")
            m.d.comb += element_mask.eq(-1)
            with m.Switch(self.mode):
                with m.Case(SieveRegister.DENSE):
                    m.d.comb += keep.eq(1)
                with m.Case(SieveRegister.ELEMENT):
                    mask = Cat(*[above_1[n] & (row_1[n] != 0) for n in range(lanes)])
                    m.d.comb += [element_mask.eq(mask), keep.eq(mask.any())]
                with m.Case(SieveRegister.ROW):
                    m.d.comb += keep.eq(nonzero & (score_1 >= self.tau))
                with m.Case(SieveRegister.STOCHASTIC):
                    m.d.comb += keep.eq(nonzero & (shift <= MAX_SHIFT) & ~(word & low_bits).any())
            row_2 = [Signal(signed(width), name=f"row_{r}_{n}_stage2", reset_less=True) for n in range(lanes)]
            shift_2 = Signal(range(MAX_SHIFT + 1), name=f"shift_{r}_stage2", reset_less=True)
            keep_2 = Signal(name=f"keep_{r}_stage2", reset_less=True)
            with m.If(advance):
                m.d.sync += [
                    keep_2.eq(keep),
                    shift_2.eq(Mux(stochastic, shift, 0)),
                    *[row_2[n].eq(Mux(keep & element_mask[n], row_1[n], 0)) for n in range(lanes)],
                ]
            state = word

            # stage 3: the scale
            out = self.sieved.payload
            counted: list[Value] = []
            for n in range(lanes):
                shifted = Signal(signed(width + MAX_SHIFT), name=f"shifted_{r}_{n}")
                m.d.comb += shifted.eq(row_2[n] << shift_2)
                clipped, overflow = saturate(shifted, width)
                saturated.append(overflow)
                counted.append(row_2[n] != 0)
                with m.If(advance):
                    m.d.sync += out.rows[r][n].eq(clipped)
            with m.If(advance):
                m.d.sync += [out.kept[r].eq(keep_2), out.elements[r].eq(sum(counted[1:], start=counted[0]))]

        with m.If(advance):
            m.d.sync += self.sieved.payload.saturated.eq(sum(saturated[1:], start=saturated[0]))
        with m.If(self.random_load.valid):
            m.d.sync += self.random.eq(self.random_load.payload)
        with m.Elif(advance & valid_1 & stochastic):
            m.d.sync += self.random.eq(state)
        return m


def _msb(m: Module, value: Value, name: str) -> Signal:
    """Position of the leading one, counted from 1; 0 for zero."""
    result = Signal(range(len(value) + 1), name=f"{name}_position")
    for n in range(len(value)):
        with m.If(value[n]):
            m.d.comb += result.eq(n + 1)
    return result
