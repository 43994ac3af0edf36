"""R x C processing elements, the skew at their edges, and the drain."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.array.processing_element import ARRAY_CONTROL, ProcessingElement
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.layouts import input_row_layout, operand_layout
from gradsieve.hw.lib.delay_line import DelayLine
from gradsieve.hw.lib.flow import Flow

DRAIN_STAGES = ("group", "column")
"""Registers in which the sums of a lane meet."""


def gradient_latency(config: EngineConfig) -> int:
    """Cycles from an operand of the gradient dataflow to its new sums of dW at the end of row 0."""
    return ProcessingElement.latency + config.C - 1


def drain_latency(config: EngineConfig) -> int:
    """Cycles from the last operand of an error tile to its row 0 on `drain`, when the last lane has its sum."""
    return ProcessingElement.latency + config.C - 1 + len(DRAIN_STAGES)


SUM_DELAY = ProcessingElement.sum_delay
"""Cycles from an operand to row 0's old sum: it meets the product at the adder."""


DRAIN_GROUP = 4
"""Rows whose sums meet in a register near them, before they go on to the drain."""


class SystolicArray(wiring.Component):
    """One index a cycle in either dataflow, tiles back to back.

              dz[k, b] --->  skew by b, then down the rows j
        W[k, j]     |  PE(0,0) -> PE(0,1) -> .. PE(0,C-1) --> dW[k, j]   (gradient: partial sums along the lanes)
        dW[k, j] -> |  PE(1,0) -> ...
        late by j   |  ...            error: PE(j, b) keeps the sum of dx[j, b]

    `operands`: always taken.  Of an operand's words, row j's weight is at `weights[j]` j cycles later, row j's old sum
    at `old_sums[j]` SUM_DELAY + j cycles later: the stores bring them skewed.
    error: the operand marked `last` makes R rows of C sums appear on `drain`, one a cycle, the first `drain_latency`
    cycles later.  Row j of a tile finishes one cycle after row j - 1, so one drain register a lane serves the whole
    column; two operands marked `last` must therefore be at least R cycles apart.
    gradient: every operand's new sum of row j is at `new_sums[j]`, `gradient_latency` + j cycles later.
    `swap`: in the cycle before the first operand of a gradient tile.  `inputs`: rows of the next one's stationary
    operand, each once, row j in the cycle of the swap of the tile before + j at the earliest, and before that of the
    cycle of its own + j; `row` is zero in the cycles without one.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        f = config.formats
        self.drain_latency = drain_latency(config)
        self.gradient_latency = gradient_latency(config)
        super().__init__(
            {
                "operands": In(Flow(operand_layout(config))),
                "inputs": In(Flow(input_row_layout(config))),
                "swap": In(1),
                "drain": Out(Flow(data.ArrayLayout(signed(config.error_sum_width), config.C))),
                "weights": In(data.ArrayLayout(signed(f.weight.width), config.R)),
                "old_sums": In(data.ArrayLayout(signed(f.weight_grad_width), config.R)),
                "new_sums": Out(data.ArrayLayout(signed(f.weight_grad_width), config.R)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c = self.config
        f = c.formats

        def delayed(value: Value, cycles: int, name: str) -> Value:
            """A value some cycles later; it has no reset."""
            if not cycles:
                return value
            m.submodules[name] = line = DelayLine(value.shape(), cycles)
            m.d.comb += line.input.eq(value)
            return line.output

        def marks(value: Value, cycles: int, name: str) -> Value:
            """The same with a reset, for bits that say what counts."""
            for n in range(cycles):
                register = Signal(value.shape(), name=f"{name}_{n}")
                m.d.sync += register.eq(value)
                value = register
            return value

        pes = [[ProcessingElement(c, b) for b in range(c.C)] for _ in range(c.R)]
        for j in range(c.R):
            for b in range(c.C):
                m.submodules[f"pe_{j}_{b}"] = pes[j][b]

        operand = self.operands.payload
        control = Signal(ARRAY_CONTROL)
        m.d.comb += [
            control.valid.eq(self.operands.valid),
            control.dataflow.eq(operand.dataflow),
            control.last.eq(operand.last),
            control.swap.eq(self.swap),
        ]
        row_control: Value = control.as_value()
        for j in range(c.R):
            m.d.comb += [
                pes[j][0].control.eq(row_control),
                pes[j][0].weight.eq(self.weights[j]),
                pes[j][0].partial_sum.eq(self.old_sums[j]),
                self.new_sums[j].eq(pes[j][c.C - 1].total[: f.weight_grad_width].as_signed()),
            ]
            row_control = marks(row_control, 1, f"control_skew_{j}")
            for b in range(1, c.C):
                m.d.comb += [
                    pes[j][b].control.eq(pes[j][b - 1].control_out),
                    pes[j][b].weight.eq(pes[j][b - 1].weight_out),
                    pes[j][b].partial_sum.eq(pes[j][b - 1].total[: f.weight_grad_width].as_signed()),
                ]

        row = self.inputs.payload
        load_enables: Value = row.row
        for b in range(c.C):
            lane = delayed(row.lanes[b], b, f"input_skew_{b}")
            for j in range(c.R):
                m.d.comb += [pes[j][b].input.eq(lane), pes[j][b].input_load.eq(load_enables[j])]
                dz = delayed(operand.dz[b], b, f"dz_skew_{b}") if j == 0 else pes[j - 1][b].dz_out
                m.d.comb += pes[j][b].dz.eq(dz)
            load_enables = marks(load_enables, 1, f"load_skew_{b}")

        # rows finish one after the other: of each lane, at most one sum a cycle is not zero
        drained = Signal(name="drain_valid")
        groups = range(0, c.R, DRAIN_GROUP)
        for b in range(c.C):
            nearby = [Signal(signed(c.error_sum_width), name=f"drain_{b}_{g}", reset_less=True) for g in groups]
            column = Signal.like(nearby[0], name=f"drain_{b}")
            for g, group in zip(groups, nearby, strict=True):
                m.d.sync += group.eq(reduce(or_, [pe.finished for pe in lanes(pes, b)[g : g + DRAIN_GROUP]]))
            m.d.sync += column.eq(reduce(or_, nearby))
            m.d.comb += self.drain.payload[b].eq(delayed(column, c.C - 1 - b, f"drain_align_{b}"))
        done = Signal(len(groups), name="drain_valid_groups")
        m.d.sync += [
            done.eq(Cat(*[reduce(or_, [pe.done for pe in lanes(pes, 0)[g : g + DRAIN_GROUP]]) for g in groups])),
            drained.eq(done.any()),
        ]
        m.d.comb += self.drain.valid.eq(marks(drained, c.C - 1, "drain_valid_align"))
        return m


def lanes(pes: list[list[ProcessingElement]], b: int) -> list[ProcessingElement]:
    """The processing elements of lane b, row by row."""
    return [row[b] for row in pes]
