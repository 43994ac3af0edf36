"""Gate gradient unit: the elementwise arithmetic of the LSTM backward step, on shared multipliers."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import EngineConfig
from gradsieve.hw.gates.gate_schedule import (
    ACTIVATIONS,
    CLASSES,
    OPERANDS,
    PRODUCT_STAGES,
    SUMS,
    GateSchedule,
    Product,
    format_of,
    most_saturated,
)
from gradsieve.hw.layouts import gate_input_layout, gate_rows_layout
from gradsieve.hw.lib.arithmetic import bits_for, clip, halves, overflows, popcount, saturate
from gradsieve.hw.lib.credit_queue import CreditQueue
from gradsieve.hw.lib.delay_line import DelayLine
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.multiplier import Multiplier
from gradsieve.hw.lib.pipeline import Pipeline


def saturation_layout(config: EngineConfig) -> data.StructLayout:
    """How many values of one cycle saturated, in gradient-format and in activation-format results."""
    return data.StructLayout({kind: bits_for(most) for kind, most in most_saturated(config).items()})


class GateGradientUnit(wiring.Component):
    """dz of the four gates and the new dc, from the tape and the incoming gradients (docs/arithmetic.md).

    Its initiation interval is `period` = 4 / gate_rows_per_cycle cycles: each of its multipliers does one product of a
    class in each cycle of an interval, and values move on when the interval ends.  `inputs` takes one hidden unit a
    period; `rows` gives its gate rows i, f, g, o in order, `gate_rows_per_cycle` a cycle, from `latency` cycles
    later; `cells` its dc, once, `pipeline` cycles later.  Under backpressure on `rows` what is inside goes on into
    a queue, and no unit is taken that would not fit.  `saturated` counts what left its format in lanes that hold a
    sample.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.schedule = schedule = GateSchedule(config)
        self.period, self.pipeline, self.latency = schedule.period, schedule.pipeline, schedule.latency
        super().__init__(
            {
                "inputs": In(stream.Signature(gate_input_layout(config))),
                "rows": Out(stream.Signature(gate_rows_layout(config))),
                "cells": Out(Flow(data.ArrayLayout(signed(config.formats.gradient.width), config.C))),
                "saturated": Out(Flow(saturation_layout(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c, period, lanes = self.config, self.period, self.config.C
        ready, end = self.schedule.ready, self.schedule.end
        m.submodules.queue = queue = CreditQueue(gate_rows_layout(c), self.pipeline, each=period)
        wiring.connect(m, queue.sink, wiring.flipped(self.rows))
        phase, at_phase = self._interval_cycle(m, "rows")
        boundary = at_phase[-1]
        taken = Signal()  # the last cycle of an interval
        boundaries = [self._interval_cycle(m, f"lane_{lane}")[1][-1] for lane in range(lanes)]
        m.d.comb += [
            self.inputs.ready.eq(boundary & queue.room),
            taken.eq(self.inputs.valid & boundary & queue.room),
            queue.reserve.eq(taken),
        ]

        # the value of a name and lane when it is ready, and where it is looked at intervals later
        values: dict[tuple[str, int], Value] = {}
        taps: dict[tuple[str, int], dict[int, Signal]] = defaultdict(dict)

        def at(name: str, lane: int, stage: int) -> Value:
            if stage == ready[name]:
                return values[name, lane]
            if stage not in taps[name, lane]:
                shape = 1 if name == "lane_valid" else signed(format_of(c, name).width)
                taps[name, lane][stage] = Signal(shape, name=f"{name}_{lane}_stage{stage}")
            return taps[name, lane][stage]

        valid = [Signal(name=f"valid_stage{s}") for s in range(end + 1)]
        with m.If(boundary):
            m.d.sync += valid[0].eq(taken)
            m.d.sync += [valid[s + 1].eq(valid[s]) for s in range(end)]
        for lane in range(lanes):
            for name in OPERANDS:
                signal = Signal(signed(format_of(c, name).width), name=f"{name}_{lane}_stage0", reset_less=True)
                with m.If(boundaries[lane]):
                    m.d.sync += signal.eq(self.inputs.payload[name][lane])
                values[name, lane] = signal
            lane_valid = Signal(name=f"lane_valid_{lane}_stage0", reset_less=True)
            with m.If(boundaries[lane]):
                m.d.sync += lane_valid.eq(self.inputs.payload.lane_valid[lane])
            values["lane_valid", lane] = lane_valid

        flags: dict[tuple[str, int], Value] = {}
        landings: dict[tuple[str, int], tuple[Signal, Signal]] = {}
        # sums first, then products, each once its operands exist: in order of readiness
        order = sorted((*SUMS, *self.schedule.issue), key=lambda n: ready[n])
        created: set[str] = set()
        for name in order:
            if name in SUMS:
                self._add(m, name, at, values, flags, boundaries)
            else:
                (group,) = [g for g in CLASSES if any(p.name == name for p in CLASSES[g])]
                unit = [p.name for p in CLASSES[group]].index(name) // period
                key = f"{group}_{unit}"
                if key not in created:
                    created.add(key)
                    for lane in range(lanes):
                        for p in CLASSES[group][unit * period : (unit + 1) * period]:
                            landed = Signal(
                                signed(format_of(c, p.name).width), name=f"{p.name}_{lane}_landed", reset_less=True
                            )
                            flag = Signal(name=f"{p.name}_{lane}_saturated_landed", reset_less=True)
                            stage = Signal.like(landed, name=f"{p.name}_{lane}_stage{ready[p.name]}")
                            stage_flag = Signal.like(flag, name=f"{p.name}_{lane}_saturated")
                            with m.If(boundaries[lane]):
                                m.d.sync += [stage.eq(landed), stage_flag.eq(flag)]
                            values[p.name, lane] = stage
                            flags[p.name, lane] = stage_flag
                            landings[p.name, lane] = landed, flag
        # all values are named now, so the multipliers may refer to any of them
        for group, products in CLASSES.items():
            for unit in range(c.gate_rows_per_cycle):
                shared = products[unit * period : (unit + 1) * period]
                for lane in range(lanes):
                    self._multiply(m, f"{group}_{unit}_{lane}", shared, lane, at, landings)

        dz = [[at(f"dz_{g}", lane, end) for lane in range(lanes)] for g in "ifgo"]
        rate = c.gate_rows_per_cycle
        for r in range(rate):
            for lane in range(lanes):
                choices = [dz[p * rate + r][lane] for p in range(period)]
                row = Signal.like(choices[0], name=f"row_{r}_{lane}", reset_less=True)
                m.d.sync += row.eq(Array(choices)[phase] if period > 1 else choices[0])
                m.d.comb += queue.source.payload[r][lane].eq(row)
        m.d.sync += [queue.source.valid.eq(valid[end]), self.cells.valid.eq(valid[end] & at_phase[0])]
        m.d.sync += [self.cells.payload[lane].eq(at("dc_out", lane, end)) for lane in range(lanes)]
        self._count(m, at, flags, valid, at_phase[0])

        for (name, lane), stages in taps.items():
            before, source = ready[name], values[name, lane]
            for stage, tap in sorted(stages.items()):
                m.submodules[f"{name}_{lane}_to_stage{stage}"] = line = DelayLine(tap.shape(), stage - before)
                m.d.comb += [line.enable.eq(boundaries[lane]), line.input.eq(source), tap.eq(line.output)]
                before, source = stage, tap
        return m

    def _interval_cycle(self, m: Module, name: str) -> tuple[Signal, list[Signal]]:
        """The cycle of the interval, binary and one-hot.

        Everything near its use has its own: one for all would have thousands of registers to reach.
        """
        phase = Signal(range(max(self.period, 2)), name=f"{name}_phase")
        at_phase = [Signal(name=f"{name}_at_phase_{n}", init=n == 0) for n in range(self.period)]
        m.d.sync += [
            phase.eq(Mux(at_phase[-1], 0, phase + 1)),
            *[now.eq(at_phase[n - 1]) for n, now in enumerate(at_phase)],
        ]
        return phase, at_phase

    def _add(self, m: Module, name: str, at: Any, values: Any, flags: Any, boundaries: list[Signal]) -> None:
        left, right = SUMS[name]
        c, ready = self.config, self.schedule.ready[name]
        for lane in range(c.C):
            stage = ready - 1
            total = at(left, lane, stage) + at(right, lane, stage)
            clipped, overflow = saturate(total, format_of(c, name).width)
            result = Signal(signed(format_of(c, name).width), name=f"{name}_{lane}_stage{ready}", reset_less=True)
            flag = Signal(name=f"{name}_{lane}_saturated", reset_less=True)
            with m.If(boundaries[lane]):
                m.d.sync += [result.eq(clipped), flag.eq(overflow)]
            values[name, lane] = result
            flags[name, lane] = flag

    def _multiply(
        self,
        m: Module,
        name: str,
        products: tuple[Product, ...],
        lane: int,
        at: Any,
        landings: Any,
    ) -> None:
        """One multiplier for `products`, one a cycle of the interval, each rounded into its landing register."""
        c, issue = self.config, self.schedule.issue
        formats = [(format_of(c, p.a), format_of(c, p.b), format_of(c, p.name)) for p in products]
        multiplier = Multiplier(max(a.width for a, _, _ in formats), max(b.width for _, b, _ in formats))
        m.submodules[name] = multiplier
        phase, at_phase = self._interval_cycle(m, name)
        # all products of the group are rounded at one place, so those with less to lose move up
        lost = [a.fraction + b.fraction - target.fraction for a, b, target in formats]
        shift = max(lost)
        minuends: list[Value] = []
        for slot, p in enumerate(products):
            a, b = at(p.a, lane, issue[p.name]), at(p.b, lane, issue[p.name])
            with m.If(phase == slot):
                m.d.comb += [multiplier.a.eq(a), multiplier.b.eq(b)]
            target = format_of(c, p.name)
            if p.minus_from == "one":
                minuends.append(Const(1 << target.fraction + shift))
            elif p.minus_from is not None:
                operand = at(p.minus_from, lane, issue[p.name])
                minuends.append(operand << (target.fraction - format_of(c, p.minus_from).fraction + shift))
            else:
                minuends.append(Const(0))

        def in_phase(choices: list[Value], delay: int) -> Value:
            """The choice of the product that is `delay` cycles after its issue."""
            result = choices[0]
            for slot, choice in enumerate(choices[1:], 1):
                result = Mux(phase == (slot + delay) % self.period, choice, result)
            return result

        pipe = Pipeline(m, PRODUCT_STAGES, f"{name}_pipeline")
        subtracts = any(p.minus_from is not None for p in products)
        for n in range(Multiplier.latency):
            pipe.begin(PRODUCT_STAGES[n])
            if n == 0:
                minuend = pipe.enter(in_phase(minuends, 0), "minuend")
        pipe.begin("signed")
        delay = Multiplier.latency
        product = in_phase([multiplier.p << (shift - n) for n in lost], delay)
        negative = pipe.enter(in_phase([Const(int(p.minus_from is not None)) for p in products], delay), "negative")
        if subtracts:
            # minuend - product is minuend + ~product + 1: one carry chain for both kinds
            product = product ^ Cat(negative.now.replicate(len(product))).as_signed()
        signed_product = pipe.put(product, "product")
        pipe.begin("exact")
        total = minuend.now + signed_product.now + negative.now if subtracts else signed_product.now
        exact = pipe.put(total, "exact")
        pipe.begin("split")
        quotient, half = (pipe.put(v, n) for v, n in zip(halves(exact.now, shift), ("quotient", "half"), strict=True))
        pipe.begin("rounded")
        rounded = pipe.put(quotient.now + half.now, "rounded")
        pipe.begin("judged")
        widths = {target.width for _, _, target in formats}
        overflow = {width: pipe.put(overflows(rounded.now, width), f"overflow_{width}") for width in widths}
        pipe.end()
        for slot, p in enumerate(products):
            landed, flag = landings[p.name, lane]
            width = format_of(c, p.name).width
            with m.If(at_phase[(slot + pipe.depth) % self.period]):
                m.d.sync += [landed.eq(clip(rounded.now, overflow[width].now, width)), flag.eq(overflow[width].now)]

    def _count(self, m: Module, at: Any, flags: Any, valid: list[Signal], strobe: Value) -> None:
        """Popcounts of the flags, once an interval, in the stage where their values became ready."""
        counted = strobe
        for kind, activation in (("gate", False), ("factor", True)):
            bits = []
            for (name, lane), flag in flags.items():
                if (name in ACTIVATIONS) == activation:
                    stage = self.schedule.ready[name]
                    bit = Signal(name=f"{name}_{lane}_counts")
                    m.d.sync += bit.eq(flag & valid[stage] & at("lane_valid", lane, stage))
                    bits.append(bit)
            # both kinds leave together: the one of fewer flags is padded to the tree of the other
            most = len(flags)
            total, latency = popcount(m, bits + [Const(0)] * (most - len(bits)), f"{kind}_saturated")
            m.d.comb += self.saturated.payload[kind].eq(total)
        for n in range(latency + 1):
            later = Signal(name=f"counted_{n}")
            m.d.sync += later.eq(counted)
            counted = later
        m.d.comb += self.saturated.valid.eq(counted)
