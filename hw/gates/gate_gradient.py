"""Gate gradient unit: the elementwise arithmetic of the LSTM backward step, on shared multipliers."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import EngineConfig
from gradsieve.hw.formats import FixedPoint
from gradsieve.hw.layouts import gate_input_layout, gate_rows_layout
from gradsieve.hw.lib.arithmetic import bits_for, clip, halves, overflows, popcount, saturate
from gradsieve.hw.lib.delay_line import DelayLine
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.multiplier import Multiplier
from gradsieve.hw.lib.reserved_queue import ReservedQueue

PRODUCT_LATENCY = Multiplier.latency + 5
"""Cycles from a product's operands to its rounded value: multiplier, sign, minuend, rounding in two, overflow."""

OPERATIONS_PER_UNIT = 16
"""Products of one hidden unit and lane; four classes of four that share a multiplier's operand widths."""


def gate_period(config: EngineConfig) -> int:
    """Cycles a hidden unit: it has 4 gate rows."""
    return 4 // config.gate_rows_per_cycle


def saturation_layout(config: EngineConfig) -> data.StructLayout:
    """How many values of one cycle saturated, in gradient-format and in activation-format results."""
    most = (OPERATIONS_PER_UNIT + len(_SUMS)) * config.C
    return data.StructLayout({"gate": bits_for(most), "factor": bits_for(most)})


@dataclass(frozen=True)
class _Product:
    """[minuend +- a*b] to a format: issued in macro-stage `stage`."""

    name: str
    a: str
    b: str
    target: str
    minus_from: str | None = None  # None: the product itself; "one" or an operand: that minus the product


# Each class is one group of multipliers; the order is the order of issue within a macro-stage.
_SQUARES = (
    _Product("q_o", "o", "o", "activation", "o"),
    _Product("q_i", "i", "i", "activation", "i"),
    _Product("q_f", "f", "f", "activation", "f"),
    _Product("q_g", "g", "g", "activation", "one"),
)
_HIDDEN = (
    _Product("s", "tanh_c", "tanh_c", "activation", "one"),
    _Product("e", "dh_sum", "o", "gradient"),
    _Product("ho", "dh_sum", "tanh_c", "gradient"),
    _Product("es", "e", "s", "gradient"),
)
_CELL = (
    _Product("ig", "dct", "g", "gradient"),
    _Product("fc", "dct", "c_prev", "gradient"),
    _Product("gi", "dct", "i", "gradient"),
    _Product("dc_out", "dct", "f", "gradient"),
)
_GATES = (
    _Product("dz_i", "ig", "q_i", "gradient"),
    _Product("dz_f", "fc", "q_f", "gradient"),
    _Product("dz_g", "gi", "q_g", "gradient"),
    _Product("dz_o", "ho", "q_o", "gradient"),
)
_CLASSES = {"squares": _SQUARES, "hidden": _HIDDEN, "cell": _CELL, "gates": _GATES}
# Saturating sums of two values of one format.
_SUMS = {"dh_sum": ("dy", "dh"), "dct": ("dc", "es")}


class GateGradientUnit(wiring.Component):
    """dz of the four gates and the new dc, from the tape and the incoming gradients (docs/arithmetic.md).

    A pipeline of macro-stages of `period` = 4 / gate_rows_per_cycle cycles: each of its multipliers does one product
    of a class in each cycle of a macro-stage, and values move on when the macro-stage ends.  `inputs` takes one hidden
    unit a period; `rows` gives its gate rows i, f, g, o in order, `gate_rows_per_cycle` a cycle, from `latency` cycles
    later; `cells` its dc, once, `pipeline` cycles later.  Under backpressure on `rows` what is inside goes on into
    a queue, and no unit is taken that would not fit.  `saturated` counts what left its format in lanes that hold a
    sample.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.period = gate_period(config)
        self._schedule()
        super().__init__(
            {
                "inputs": In(stream.Signature(gate_input_layout(config))),
                "rows": Out(stream.Signature(gate_rows_layout(config))),
                "cells": Out(Flow(data.ArrayLayout(signed(config.formats.gradient.width), config.C))),
                "saturated": Out(Flow(saturation_layout(config))),
            }
        )

    def _schedule(self) -> None:
        """Earliest macro-stage of every value: `self.ready[name]`, and of every product's issue: `self.issue[name]`."""
        ready = dict.fromkeys(("i", "f", "g", "o", "tanh_c", "c_prev", "dy", "dh", "dc"), 0)
        issue: dict[str, int] = {}
        pending = {p.name: (p, n % self.period) for ops in _CLASSES.values() for n, p in enumerate(ops)}
        sums = dict(_SUMS)
        while pending or sums:
            for name, (left, right) in list(sums.items()):
                if left in ready and right in ready:
                    ready[name] = max(ready[left], ready[right]) + 1
                    del sums[name]
            for name, (p, slot) in list(pending.items()):
                if p.a in ready and p.b in ready:
                    issue[name] = max(ready[p.a], ready[p.b])
                    # the landing register behind multiplier, minuend and rounding must be full when a macro-stage ends
                    ready[name] = issue[name] + -(-(slot + PRODUCT_LATENCY + 2) // self.period)
                    del pending[name]
        # squares wait with their operands, which are kept for other products anyway, until just before they are needed
        for square in _SQUARES:
            (use,) = [p.name for p in _GATES if p.b == square.name]
            slack = issue[use] - ready[square.name]
            issue[square.name], ready[square.name] = issue[square.name] + slack, ready[square.name] + slack
        self.issue, self.ready = issue, ready
        self.out_stage = max(ready[n] for n in ("dz_i", "dz_f", "dz_g", "dz_o", "dc_out"))

    @property
    def pipeline(self) -> int:
        """Cycles from an accepted input to the queue, and to its dc."""
        return 2 + self.out_stage * self.period

    @property
    def latency(self) -> int:
        """Cycles from an accepted input to its first gate rows, without backpressure."""
        return self.pipeline + ReservedQueue.latency

    def _format(self, name: str) -> FixedPoint:
        f = self.config.formats
        activations = ("i", "f", "g", "o", "tanh_c", "s", "q_i", "q_f", "q_g", "q_o")
        return f.activation if name in activations else f.cell if name == "c_prev" else f.gradient

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c, period, lanes = self.config, self.period, self.config.C
        m.submodules.queue = queue = ReservedQueue(gate_rows_layout(c), self.pipeline, each=period)
        wiring.connect(m, queue.sink, wiring.flipped(self.rows))
        phase, at_phase = self._phases(m, "rows")
        boundary, taken = at_phase[-1], Signal()  # the last cycle of a macro-stage
        boundaries = [self._phases(m, f"lane_{lane}")[1][-1] for lane in range(lanes)]
        m.d.comb += [
            self.inputs.ready.eq(boundary & queue.room),
            taken.eq(self.inputs.valid & boundary & queue.room),
            queue.reserve.eq(taken),
        ]

        # the value of a name and lane when it is ready, and where it is looked at macro-stages later
        values: dict[tuple[str, int], Value] = {}
        taps: dict[tuple[str, int], dict[int, Signal]] = defaultdict(dict)

        def at(name: str, lane: int, stage: int) -> Value:
            if stage == self.ready[name]:
                return values[name, lane]
            if stage not in taps[name, lane]:
                shape = 1 if name == "lane_valid" else signed(self._format(name).width)
                taps[name, lane][stage] = Signal(shape, name=f"{name}_{lane}_stage{stage}")
            return taps[name, lane][stage]

        valid = [Signal(name=f"valid_stage{s}") for s in range(self.out_stage + 1)]
        with m.If(boundary):
            m.d.sync += valid[0].eq(taken)
            m.d.sync += [valid[s + 1].eq(valid[s]) for s in range(self.out_stage)]
        self.ready["lane_valid"] = 0
        for lane in range(lanes):
            for name in ("i", "f", "g", "o", "tanh_c", "c_prev", "dy", "dh", "dc"):
                signal = Signal(signed(self._format(name).width), name=f"{name}_{lane}_stage0", reset_less=True)
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
        order = sorted((*_SUMS, *self.issue), key=lambda n: self.ready[n])
        created: set[str] = set()
        for name in order:
            if name in _SUMS:
                self._add(m, name, at, values, flags, boundaries)
            else:
                (group,) = [g for g in _CLASSES if any(p.name == name for p in _CLASSES[g])]
                unit = [p.name for p in _CLASSES[group]].index(name) // period
                key = f"{group}_{unit}"
                if key not in created:
                    created.add(key)
                    for lane in range(lanes):
                        for p in _CLASSES[group][unit * period : (unit + 1) * period]:
                            landed = Signal(
                                signed(self._format(p.name).width), name=f"{p.name}_{lane}_landed", reset_less=True
                            )
                            flag = Signal(name=f"{p.name}_{lane}_saturated_landed", reset_less=True)
                            stage = Signal.like(landed, name=f"{p.name}_{lane}_stage{self.ready[p.name]}")
                            stage_flag = Signal.like(flag, name=f"{p.name}_{lane}_saturated")
                            with m.If(boundaries[lane]):
                                m.d.sync += [stage.eq(landed), stage_flag.eq(flag)]
                            values[p.name, lane] = stage
                            flags[p.name, lane] = stage_flag
                            landings[p.name, lane] = landed, flag
        # all values are named now, so the multipliers may refer to any of them
        for group, products in _CLASSES.items():
            for unit in range(c.gate_rows_per_cycle):
                shared = products[unit * period : (unit + 1) * period]
                for lane in range(lanes):
                    self._multiply(m, f"{group}_{unit}_{lane}", shared, lane, at, landings)

        end = self.out_stage
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
            before, source = self.ready[name], values[name, lane]
            for stage, tap in sorted(stages.items()):
                m.submodules[f"{name}_{lane}_to_stage{stage}"] = line = DelayLine(tap.shape(), stage - before)
                m.d.comb += [line.enable.eq(boundaries[lane]), line.input.eq(source), tap.eq(line.output)]
                before, source = stage, tap
        return m

    def _phases(self, m: Module, name: str) -> tuple[Signal, list[Signal]]:
        """The cycle of the macro-stage, binary and one-hot.

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
        left, right = _SUMS[name]
        for lane in range(self.config.C):
            stage = self.ready[name] - 1
            total = at(left, lane, stage) + at(right, lane, stage)
            clipped, overflow = saturate(total, self._format(name).width)
            result = Signal(
                signed(self._format(name).width), name=f"{name}_{lane}_stage{self.ready[name]}", reset_less=True
            )
            flag = Signal(name=f"{name}_{lane}_saturated", reset_less=True)
            with m.If(boundaries[lane]):
                m.d.sync += [result.eq(clipped), flag.eq(overflow)]
            values[name, lane] = result
            flags[name, lane] = flag

    def _multiply(
        self,
        m: Module,
        name: str,
        products: tuple[_Product, ...],
        lane: int,
        at: Any,
        landings: Any,
    ) -> None:
        """One multiplier for `products`, one a cycle of the macro-stage, each rounded into its landing register."""
        formats = [(self._format(p.a), self._format(p.b), self._format(p.name)) for p in products]
        multiplier = Multiplier(max(a.width for a, _, _ in formats), max(b.width for _, b, _ in formats))
        m.submodules[name] = multiplier
        phase, at_phase = self._phases(m, name)
        # all products of the group are rounded at one place, so those with less to lose move up
        lost = [a.fraction + b.fraction - target.fraction for a, b, target in formats]
        shift = max(lost)
        minuends: list[Value] = []
        for slot, p in enumerate(products):
            a, b = at(p.a, lane, self.issue[p.name]), at(p.b, lane, self.issue[p.name])
            with m.If(phase == slot):
                m.d.comb += [multiplier.a.eq(a), multiplier.b.eq(b)]
            target = self._format(p.name)
            if p.minus_from == "one":
                minuends.append(Const(1 << target.fraction + shift))
            elif p.minus_from is not None:
                operand = at(p.minus_from, lane, self.issue[p.name])
                minuends.append(operand << (target.fraction - self._format(p.minus_from).fraction + shift))
            else:
                minuends.append(Const(0))

        def in_phase(choices: list[Value], delay: int) -> Value:
            """The choice of the product that is `delay` cycles behind its issue."""
            result = choices[0]
            for slot, choice in enumerate(choices[1:], 1):
                result = Mux(phase == (slot + delay) % self.period, choice, result)
            return result

        def register(value: Value, suffix: str) -> Signal:
            signal = Signal(value.shape(), name=f"{name}_{suffix}", reset_less=True)
            m.d.sync += signal.eq(value)
            return signal

        delay = Multiplier.latency
        product = in_phase([multiplier.p << (shift - n) for n in lost], delay)
        if any(p.minus_from is not None for p in products):
            minuend = in_phase(minuends, 0)
            for n in range(delay + 1):
                minuend = register(minuend, f"minuend_{n}")
            negative = in_phase([Const(int(p.minus_from is not None)) for p in products], delay)
            # minuend - product is minuend + ~product + 1: one carry chain for both kinds
            product = register(product ^ Cat(negative.replicate(len(product))).as_signed(), "product")
            exact = register(minuend + product + register(negative, "negative"), "exact")
        else:
            exact = register(register(product, "product"), "exact")
        quotient, half = halves(exact, shift)
        rounded = register(register(quotient, "quotient") + register(half, "half"), "rounded")
        widths = {target.width for _, _, target in formats}
        overflow = {width: register(overflows(rounded, width), f"overflow_{width}") for width in widths}
        rounded = register(rounded, "rounded_again")
        for slot, p in enumerate(products):
            landed, flag = landings[p.name, lane]
            width = self._format(p.name).width
            with m.If(at_phase[(slot + PRODUCT_LATENCY) % self.period]):
                m.d.sync += [landed.eq(clip(rounded, overflow[width], width)), flag.eq(overflow[width])]

    def _count(self, m: Module, at: Any, flags: Any, valid: list[Signal], strobe: Value) -> None:
        """Popcounts of the flags, once a macro-stage, in the stage where their values became ready."""
        counted = strobe
        for kind, activation in (("gate", False), ("factor", True)):
            bits = []
            for (name, lane), flag in flags.items():
                if (self._format(name) is self.config.formats.activation) == activation:
                    stage = self.ready[name]
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
