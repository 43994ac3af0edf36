"""Weight gradient readout: dW and db as exact or requantized elements, and their clearing."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.array.weight_gradient_store import WeightGradientStore
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.gates.bias_gradient import BiasGradientAccumulator
from gradsieve.hw.host.group_formatter import GroupFormatter, group_count, place_layout
from gradsieve.hw.host.nest import Counter, FixedCounter, at_ends, turn
from gradsieve.hw.layouts import (
    gradient_word_layout,
    group_elements,
    group_layout,
    read_mode_layout,
    run_layout,
)
from gradsieve.hw.lib.arithmetic import bits_for
from gradsieve.hw.lib.credit_queue import CreditQueue
from gradsieve.hw.lib.delay_line import DelayLine
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.loop_counter import LoopCounter
from gradsieve.hw.packets import BIAS, GATE, GRADIENTS, H_TILE, UNIT, X_TILE, Loop, Run

ASKED = 1
"""Cycles from the decision for a group to its address at the stores."""


class WeightGradientReadout(wiring.Component):
    """Reads (and, unless `keep`, clears) db, dW_ih and dW_hh in the order of docs/streams.md, or clears everything.

    `read` and `clear` start; `done` pulses at the end.  One group of elements a cycle; `latency` cycles to the
    first.  The stores bring what they have at `gradient_address` and `bias_address` after their fixed latencies, and
    no word stops on its way: it is asked for once its groups have room in the queue after it.  A word is
    cleared when its last group has been read.  `clear` takes one cycle an address of the larger store, and R more.
    `saturated` counts elements that 32 bits could not hold.  Only one of the run, `read` and `clear` may be active:
    the controller sees to it, and that `run` stands for 2 cycles before a `read`.
    """

    pipeline = ASKED + WeightGradientStore.latency + GroupFormatter.latency
    latency = pipeline + CreditQueue.latency

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.depth = max(config.weight_words, config.gate_rows)
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
        m.submodules.queue = queue = CreditQueue(group_layout(c), self.pipeline, at_once=group_count(c))
        wiring.connect(m, queue.sink, wiring.flipped(self.groups))
        # asked for, group by group
        asks = Signal()
        asking = Signal(self._asked_layout)
        asked_valid = Signal()
        asked = Signal(self._asked_layout, reset_less=True)
        m.d.sync += [asked_valid.eq(asks), asked.eq(asking)]
        m.d.comb += queue.reserve.eq(asks)

        loops = {loop: LoopCounter(m, run.end[loop.size], loop.name) for loop in (UNIT, X_TILE, H_TILE)}
        gate = FixedCounter(m, Run.gates, "gate")
        base = Signal(range(c.weight_words + c.gate_rows))
        counters: dict[Loop, Counter] = {GATE: gate, **loops}
        row = Signal(range(c.gate_rows))
        m.d.comb += row.eq(Cat(gate.value, loops[UNIT].value))
        # of the tiles of x and of those of h, in the store
        first_word = {X_TILE: 0, H_TILE: c.x_tiles * c.gate_rows}
        group, first_group, last_group = self._groups_of_word(m, asks & ~asking.bias)

        _, *matrices = GRADIENTS.sections
        address = Signal(range(self.depth))
        clearing = Signal()
        at_last = Signal()
        finished = Signal()
        flushed = Signal()
        with m.FSM():
            with m.State("IDLE"):  # nothing to do
                m.d.sync += [address.eq(0), base.eq(0), gate.value.eq(0)]
                for each in loops.values():
                    each.clear()
                with m.If(self.clear):
                    m.next = "CLEAR"
                with m.Elif(self.read):
                    m.next = BIAS.name.upper()
            with m.State("CLEAR"):  # walks both stores
                m.d.comb += clearing.eq(1)
                m.d.sync += [address.eq(address + 1), at_last.eq(address == self.depth - 2)]
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
                    with m.If(asks & last_group):
                        turn(m, nest, base, {tile: base + c.gate_rows, UNIT: Const(first_word[tile])})
                        with m.If(end):
                            m.d.sync += base.eq(first_word[H_TILE])
                            m.next = matrices[place + 1].name.upper() if matrices[place + 1 :] else "FLUSH"
            with m.State("FLUSH"):  # until everything asked for has left, and all is cleared
                with m.If(flushed):
                    m.d.comb += finished.eq(1)
                    m.next = "IDLE"
        m.d.sync += self.done.eq(finished)

        settled = self._clear_words(m, asks, clearing, address, asked_valid, asked)
        # a register: what was asked for last shows in `settled` by then
        m.d.sync += flushed.eq(queue.empty & settled)
        self._format(m, queue, asked_valid, asked)
        return m

    @property
    def _asked_layout(self) -> data.StructLayout:
        group = range(max(group_count(self.config), 2))
        return data.StructLayout({"bias": 1, "group": group, "last_group": 1, "last": 1, "address": range(self.depth)})

    def _groups_of_word(self, m: Module, advance: Value) -> tuple[Signal, Signal, Signal]:
        """The group of a word of dW that is asked for next, and whether it is the word's first and its last."""
        groups = group_count(self.config)
        group = Signal(range(max(groups, 2)))
        first = Signal(init=1)
        last = Signal(init=groups == 1)
        with m.If(advance):
            m.d.sync += [
                group.eq(Mux(last, 0, group + 1)),
                first.eq(last),
                last.eq((group == groups - 2) if groups > 1 else 1),
            ]
        return group, first, last

    def _clear_words(
        self,
        m: Module,
        asks: Signal,
        clearing: Signal,
        address: Signal,
        asked_valid: Signal,
        asked: data.View[data.StructLayout],
    ) -> Value:
        """Clears what is read, or all that `address` walks; the result is high when that is done.

        The last row's sums are cleared R cycles after the first's.
        """
        c = self.config
        walking = Signal()
        walk = Signal(range(self.depth), reset_less=True)
        read_out = asked_valid & asked.last_group & ~self.mode.keep
        m.d.sync += [
            walking.eq(clearing),
            walk.eq(address),
            self.gradient_clear.valid.eq(walking & (walk < c.weight_words) | read_out & ~asked.bias),
            self.gradient_clear.payload.eq(Mux(walking, walk, asked.address)),
            self.bias_clear.valid.eq(walking & (walk < c.gate_rows) | read_out & asked.bias),
            self.bias_clear.payload.eq(Mux(walking, walk, asked.address)),
        ]
        settling = Signal(range(c.R + 2))
        with m.If(clearing | asks):
            m.d.sync += settling.eq(c.R + 1)
        with m.Elif(settling != 0):
            m.d.sync += settling.eq(settling - 1)
        return settling == 0

    def _format(self, m: Module, queue: CreditQueue, asked_valid: Signal, asked: data.View[data.StructLayout]) -> None:
        """What the stores bring goes through the formatter into the queue, together with the place it was asked for."""
        assert WeightGradientStore.latency == BiasGradientAccumulator.read_latency
        m.submodules.formatter = formatter = GroupFormatter(self.config)
        place = place_layout(self.config)
        m.submodules.place_delay = place_delay = DelayLine(place, WeightGradientStore.latency)
        coming = Signal(WeightGradientStore.latency)
        m.d.sync += coming.eq(Cat(asked_valid, coming[:-1]))
        m.d.comb += [
            self.gradient_address.eq(asked.address),
            self.bias_address.eq(asked.address),
            *[getattr(place_delay.input, n).eq(getattr(asked, n)) for n in place.members],
            formatter.mode.eq(self.mode),
            formatter.places.valid.eq(coming[-1]),
            formatter.places.payload.eq(place_delay.output),
            formatter.gradient_words.eq(self.gradient_words),
            formatter.bias_word.eq(self.bias_word),
        ]
        wiring.connect(m, formatter.groups, queue.source)
        wiring.connect(m, formatter.saturated, wiring.flipped(self.saturated))
