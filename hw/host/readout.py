"""Weight gradient readout: dW and db as exact or requantized elements, and their clearing."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.array.weight_gradient_store import WeightGradientStore
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.gates.bias_gradient import BiasGradientAccumulator
from gradsieve.hw.host.nest import Counter, FixedCounter, at_ends, turn
from gradsieve.hw.layouts import (
    gradient_word_layout,
    group_elements,
    group_layout,
    read_mode_layout,
    run_layout,
)
from gradsieve.hw.lib.arithmetic import bits_for, clip, overflows
from gradsieve.hw.lib.delay_line import DelayLine
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.loop_counter import LoopCounter
from gradsieve.hw.lib.reserved_queue import ReservedQueue
from gradsieve.hw.packets import BIAS, EXACT_BITS, GATE, GRADIENTS, H_TILE, SHORT_BITS, UNIT, X_TILE, Loop, Run, Section

REQUANTIZE_STAGES = 6
"""Registers between a word and its group: choice in two steps, shift in two, rounding, overflow."""


class WeightGradientReadout(wiring.Component):
    """Reads (and, unless `keep`, clears) db, dW_ih and dW_hh in the order of docs/streams.md, or clears everything.

    `read` and `clear` start; `done` pulses at the end.  One group of elements a cycle; `latency` = 15 cycles to the
    first.  The stores bring what they have at `gradient_address` and `bias_address` after their fixed latencies, and
    no word stops on its way: it is asked for once its groups have room in the queue behind.  A word is
    cleared when its last group has been read.  `clear` takes one cycle an address of the larger store, and R more.
    `saturated` counts elements that 32 bits could not hold.  Only one of the run, `read` and `clear` may be active:
    the controller sees to it, and that `run` stands for 2 cycles before a `read`.
    """

    pipeline = 1 + WeightGradientStore.latency + REQUANTIZE_STAGES + 1
    latency = pipeline + ReservedQueue.latency

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.group_count = config.column_slots // group_elements(config)
        words = config.weight_words
        super().__init__(
            {
                "run": In(run_layout(config)),
                "mode": In(read_mode_layout()),
                "read": In(1),
                "clear": In(1),
                "done": Out(1),
                "gradient_address": Out(range(words)),
                "gradient_words": In(gradient_word_layout(config)),
                "gradient_clear": Out(Flow(range(words))),
                "bias_address": Out(range(config.gate_rows)),
                "bias_word": In(signed(config.formats.weight_grad_width)),
                "bias_clear": Out(Flow(range(config.gate_rows))),
                "groups": Out(stream.Signature(group_layout(config))),
                "saturated": Out(Flow(bits_for(group_elements(config)))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c, run = self.config, self.run
        width, elements, group_count = c.formats.weight_grad_width, group_elements(c), self.group_count
        depth = max(c.weight_words, c.gate_rows)
        address, base = Signal(range(depth)), Signal(range(c.weight_words + c.gate_rows))
        unit, x_tile, h_tile = (LoopCounter(m, run.end[loop.size], loop.name) for loop in (UNIT, X_TILE, H_TILE))
        gate = FixedCounter(m, Run.gates, "gate")
        counters: dict[Loop, Counter] = {GATE: gate, UNIT: unit, X_TILE: x_tile, H_TILE: h_tile}
        group = Signal(range(max(group_count, 2)))
        first_group, last_group = Signal(init=1), Signal(init=group_count == 1)
        row = Signal(range(c.gate_rows))
        m.d.comb += row.eq(Cat(gate.value, unit.value))

        # asked for, group by group
        asked_layout = data.StructLayout(
            {"bias": 1, "group": group.shape(), "last_group": 1, "last": 1, "address": range(depth)}
        )
        asks, asking = Signal(), Signal(asked_layout)
        asked_valid, asked = Signal(), Signal(asked_layout, reset_less=True)
        m.d.sync += [asked_valid.eq(asks), asked.eq(asking)]
        m.submodules.queue = queue = ReservedQueue(group_layout(c), self.pipeline, at_once=group_count)
        wiring.connect(m, queue.sink, wiring.flipped(self.groups))
        m.d.comb += queue.reserve.eq(asks)

        # of the tiles of x and of those of h, in the store
        first_word = {X_TILE: 0, H_TILE: c.x_tiles * c.gate_rows}

        def asks_matrix(section: Section, after: str) -> None:
            """The state that asks for a section of column vectors."""
            nest = {loop: counters[loop] for loop in section.nest.loops}
            *_, tile = nest
            with m.State(section.name.upper()):
                end = at_ends(nest)
                m.d.comb += [
                    asks.eq(queue.room | ~first_group),
                    asking.address.eq(base + row),
                    asking.group.eq(group),
                    asking.last_group.eq(last_group),
                    asking.last.eq(end & last_group),
                ]
                with m.If(asks):
                    m.d.sync += [
                        group.eq(Mux(last_group, 0, group + 1)),
                        first_group.eq(last_group),
                        last_group.eq((group == group_count - 2) if group_count > 1 else 1),
                    ]
                with m.If(asks & last_group):
                    turn(m, nest, base, {tile: base + c.gate_rows, UNIT: Const(first_word[tile])})
                    with m.If(end):
                        m.d.sync += base.eq(first_word[H_TILE])
                        m.next = after

        _, *matrices = GRADIENTS.sections
        clearing, at_last, finished, flushed = Signal(), Signal(), Signal(), Signal()
        with m.FSM():
            with m.State("IDLE"):  # nothing to do
                m.d.sync += [address.eq(0), base.eq(0), gate.value.eq(0)]
                for each in (unit, x_tile, h_tile):
                    each.clear()
                with m.If(self.clear):
                    m.next = "CLEAR"
                with m.Elif(self.read):
                    m.next = BIAS.name.upper()
            with m.State("CLEAR"):  # walks both stores
                m.d.comb += clearing.eq(1)
                m.d.sync += [address.eq(address + 1), at_last.eq(address == depth - 2)]
                with m.If(at_last):
                    m.next = "FLUSH"
            with m.State(BIAS.name.upper()):  # asks for db
                nest = {loop: counters[loop] for loop in BIAS.nest.loops}
                m.d.comb += [
                    asks.eq(queue.room),
                    asking.address.eq(row),
                    asking.bias.eq(1),
                    asking.last_group.eq(1),
                    asking.last.eq(at_ends(nest)),
                ]
                with m.If(asks):
                    turn(m, nest)
                    with m.If(asking.last):
                        m.next = matrices[0].name.upper()
            for place, section in enumerate(matrices):  # asks for dW_ih and dW_hh
                asks_matrix(section, matrices[place + 1].name.upper() if matrices[place + 1 :] else "FLUSH")
            with m.State("FLUSH"):  # until everything asked for has left, and all is cleared
                with m.If(flushed):
                    m.d.comb += finished.eq(1)
                    m.next = "IDLE"
        m.d.sync += self.done.eq(finished)

        assert WeightGradientStore.latency == BiasGradientAccumulator.read_latency
        m.d.comb += [self.gradient_address.eq(asked.address), self.bias_address.eq(asked.address)]

        # cleared when read: the last row's sums R cycles later
        walking, walk = Signal(), Signal(range(depth), reset_less=True)
        settling = Signal(range(c.R + 2))
        read_out = asked_valid & asked.last_group & ~self.mode.keep
        m.d.sync += [
            walking.eq(clearing),
            walk.eq(address),
            self.gradient_clear.valid.eq(walking & (walk < c.weight_words) | read_out & ~asked.bias),
            self.gradient_clear.payload.eq(Mux(walking, walk, asked.address)),
            self.bias_clear.valid.eq(walking & (walk < c.gate_rows) | read_out & asked.bias),
            self.bias_clear.payload.eq(Mux(walking, walk, asked.address)),
        ]
        with m.If(clearing | asks):
            m.d.sync += settling.eq(c.R + 1)
        with m.Elif(settling != 0):
            m.d.sync += settling.eq(settling - 1)

        # what the stores bring goes through a pipeline into the queue
        # a register: what was asked for last shows in `settling` by then
        m.d.sync += flushed.eq(queue.empty & (settling == 0))

        def stage(value: Any, name: str) -> Signal:
            """A register of the pipeline."""
            register = Signal(Value.cast(value).shape(), name=name, reset_less=True)
            m.d.sync += register.eq(value)
            return register

        token_layout = data.StructLayout({"bias": 1, "group": group.shape(), "last": 1})
        m.submodules.on_its_way = on_its_way = DelayLine(token_layout, WeightGradientStore.latency)
        arrived: Any = on_its_way.output
        m.d.comb += [getattr(on_its_way.input, n).eq(getattr(asked, n)) for n in token_layout.members]
        coming = Signal(WeightGradientStore.latency)
        m.d.sync += coming.eq(Cat(asked_valid, coming[:-1]))
        is_bias = arrived.bias
        valid = [coming[-1], *[Signal(name=f"valid_stage{n + 1}") for n in range(REQUANTIZE_STAGES)]]
        mark_layout = data.StructLayout({"single": 1, "last": 1})
        mark: Any = Signal(mark_layout)
        m.d.comb += [mark.single.eq(is_bias), mark.last.eq(arrived.last)]
        for n in range(REQUANTIZE_STAGES):
            mark = stage(mark, f"mark_stage{n + 1}")
        leaving = Signal()
        m.d.sync += [Cat(*valid[1:]).eq(Cat(*valid[:-1])), leaving.eq(valid[-1])]
        m.d.comb += queue.source.valid.eq(leaving)

        padded = [*[self.gradient_words[n] for n in range(c.R)]]
        padded += [Const(0, signed(width))] * (c.column_slots - c.R)
        fraction = c.formats.weight_grad.fraction
        group_at, is_bias = stage(arrived.group, "group_stage1"), stage(is_bias, "is_bias_stage1")
        bias_word = stage(self.bias_word, "bias_word_stage1")
        shift = stage(
            (Mux(is_bias, c.formats.bias_grad.fraction, fraction) - self.mode.fraction)[: (width + 16).bit_length()],
            "shift_stage2",
        )
        exact, short, flags = [], [], []
        is_exact = stage(self.mode.exact, "is_exact")  # steady, but comes from far
        for n in range(elements):
            choices = [padded[g * elements + n] for g in range(group_count)]
            value = Signal(signed(width), name=f"value_{n}")
            # of two groups each, then of those
            pairs = [choices[g : g + 2] for g in range(0, group_count, 2)]
            chosen = [
                stage(Mux(arrived.group[0], p[-1], p[0]) if group_count > 1 else p[0], f"value_{n}_pair{g}")
                for g, p in enumerate(pairs)
            ]
            m.d.comb += value.eq(Array(chosen)[group_at >> 1] if len(chosen) > 1 else chosen[0])
            if n == 0:
                with m.If(is_bias):
                    m.d.comb += value.eq(bias_word)
            taken = stage(value, f"value_{n}_stage2")
            requantized, overflow = self._requantize(taken, shift, stage, f"requantize_{n}")
            clipped = Signal(signed(SHORT_BITS), name=f"short_{n}")
            m.d.comb += clipped.eq(requantized)
            for late in range(3, REQUANTIZE_STAGES + 1):
                taken = stage(taken, f"value_{n}_stage{late}")
            exact.append(Cat(taken, taken[-1].replicate(EXACT_BITS - width)))
            short.append(clipped)
            flags.append(overflow & (~mark[0] if n else 1) & ~is_exact)
        counted = [stage(flag, f"flag_{n}") for n, flag in enumerate(flags)]
        marked, group_out = data.View(mark_layout, mark), queue.source.payload
        m.d.comb += [
            group_out.data.eq(stage(Mux(is_exact, Cat(*exact), Cat(*short)), "group_data")),
            group_out.exact.eq(is_exact),
            group_out.single.eq(stage(marked.single, "group_single")),
            group_out.last.eq(stage(marked.last, "group_last")),
        ]
        m.d.sync += [
            self.saturated.valid.eq(leaving),
            self.saturated.payload.eq(sum(counted[1:], start=counted[0])),
        ]
        return m

    def _requantize(self, value: Signal, shift: Signal, stage: Any, name: str) -> tuple[Value, Value]:
        """Round half to even at a shift chosen at run time, then saturate to 32 bits: REQUANTIZE_STAGES - 2 stages."""
        width = len(value)
        doubled, coarse = value << 1, shift >> 3 << 3
        # n < shift, from its eights and its rest
        eights, rest = shift[3:], shift[:3]
        below = Cat(
            *[doubled[n] & ((n >> 3 < eights) | ((n >> 3 == eights) & (n % 8 < rest))) for n in range(width + 1)]
        )
        shifted_coarse, shift_fine = stage(doubled >> coarse, f"{name}_coarse"), stage(shift[:3], f"{name}_shift_fine")
        below = stage(below, f"{name}_below")
        shifted = stage(shifted_coarse >> shift_fine, f"{name}_shifted")
        sticky = stage(below.any(), f"{name}_sticky")
        rounded = stage((shifted >> 1) + (shifted[0] & (sticky | shifted[1])), f"{name}_rounded")
        overflow = stage(overflows(rounded, SHORT_BITS), f"{name}_overflow")
        return clip(stage(rounded, f"{name}_unclipped"), overflow, SHORT_BITS), overflow
