"""Operand fetch: indices in, operands of the array out, with the interlocks that keep tiles apart."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise
from operator import or_
from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.array.systolic_array import SUM_DELAY, gradient_latency
from gradsieve.hw.array.weight_gradient_store import WeightGradientStore
from gradsieve.hw.array.weight_store import WeightStore
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.dataflow import Dataflow, having
from gradsieve.hw.layouts import gate_rows_layout, index_layout, job_layout, operand_layout
from gradsieve.hw.lib.arithmetic import bits_for
from gradsieve.hw.lib.block_memory import BlockMemory
from gradsieve.hw.lib.credit_counter import CreditCounter
from gradsieve.hw.lib.delay_line import DelayLine
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.register_slice import RegisterSlice

STORE_LATENCY = BlockMemory.latency
"""Cycles from a request to the gate gradient store's word."""


class OperandFetch(wiring.Component):
    """Asks the stores for the words of each index, and feeds the array one operand a cycle.

    Per index: `row_request` for dz', which the store must have at its port STORE_LATENCY cycles later, for one cycle;
    `weight_address` and `gradient_address`, such that the stores' words meet the operand in the array; and, if the
    index is one of the gradient dataflow, `gradient_write` a cycle before the array has the new sum of row 0.
    Once asked for, an index stops nowhere.  So indices wait before: the first one of a gradient job for
    `inputs_loaded`, the last one of an error job for `drain_ready`, and then it announces its tile on `drain_jobs`; a
    job with `fence` until all older dW words are written back.  `inputs_taken` comes a cycle before the first operand
    of a gradient job, and STORE_LATENCY cycles after `inputs_loaded` at the earliest.  `latency` cycles from an
    index to its operand.  `drain_jobs`, and what is counted (`busy`, `streamed`, `macs` and the stalls), come a cycle
    after the index.
    """

    asking = 2 * RegisterSlice.latency
    """Cycles from an index to `row_request`: its addresses, and what it waits for."""
    answer = STORE_LATENCY + 1
    """Cycles from `row_request` to the operand, which is in a register."""
    latency = asking + answer
    weight_delay = answer - WeightStore.latency
    """Cycles from `row_request` to `weight_address`."""
    gradient_delay = answer + SUM_DELAY - WeightGradientStore.latency
    """Cycles from `row_request` to `gradient_address`."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        words, groups = config.weight_words, 2 * config.gate_rows // config.gate_rows_per_cycle
        super().__init__(
            {
                "indices": In(stream.Signature(index_layout(config))),
                "row_request": Out(Flow(range(groups))),
                "row_word": In(gate_rows_layout(config)),
                "weight_address": Out(range(words)),
                "gradient_address": Out(range(words)),
                "gradient_write": Out(Flow(range(words))),
                "inputs_loaded": In(1),
                "inputs_taken": Out(1),
                "drain_ready": In(1),
                "drain_jobs": Out(Flow(job_layout(config))),
                "operands": Out(Flow(operand_layout(config))),
                "step_done": Out(1),
                "idle": Out(1),
                "busy": Out(1),
                "streamed": Out(1),
                "macs": Out(bits_for(config.R * config.C)),
                "stall_input": Out(1),
                "stall_drain": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        located, asked = self._locate(m)
        # indices whose sums go back to the store, and are not there yet
        m.submodules.in_array = in_array = CreditCounter(gradient_latency(self.config) + STORE_LATENCY + 1)
        issue = self._ask(m, asked, in_array)
        valid, meta = self._through_stores(m, asked.sink.payload, issue)
        settled = self._write_back(m, valid[-1], meta, in_array)
        on_the_way = asked.sink.valid | located.sink.valid | reduce(or_, valid)
        m.d.comb += self.idle.eq(in_array.idle & settled & ~on_the_way)
        return m

    def _locate(self, m: Module) -> tuple[RegisterSlice, RegisterSlice]:
        """Where an index becomes addresses, and what it has to wait for: two slices."""
        c, rate = self.config, self.config.gate_rows_per_cycle
        groups, address = c.gate_rows // rate, range(c.weight_words)
        located_layout = data.StructLayout({"index": index_layout(c), "tile": address, "macs": bits_for(c.R * c.C)})
        ask_layout = data.StructLayout(
            {
                **dict(located_layout.members),
                "address": address,
                "row": range(2 * groups),
                "takes_inputs": 1,
                "ends_in_drain": 1,
                "fenced": 1,
            }
        )
        m.submodules.located = located = RegisterSlice(located_layout)
        m.submodules.asked = asked = RegisterSlice(ask_layout)
        place, wanted, coming = located.source.payload, located.sink.payload, asked.source.payload
        job, dataflow = self.indices.payload.job, wanted.index.job.dataflow
        m.d.comb += [
            located.source.valid.eq(self.indices.valid),
            self.indices.ready.eq(located.source.ready),
            place.index.eq(self.indices.payload),
            place.tile.eq(job.tile * c.gate_rows),
            # columns times lanes, without one of the part's hard multipliers
            place.macs.eq(sum(Mux(bit, job.columns << n, 0) for n, bit in enumerate(job.lanes))),
            asked.source.valid.eq(located.sink.valid),
            located.sink.ready.eq(asked.source.ready),
            *[getattr(coming, n).eq(getattr(wanted, n)) for n in located_layout.members],
            coming.address.eq(wanted.tile + wanted.index.q),
            coming.row.eq(wanted.index.q // rate + Mux(wanted.index.job.slot, groups, 0)),
            coming.takes_inputs.eq(having(dataflow, stationary="input") & wanted.index.first),
            coming.ends_in_drain.eq(having(dataflow, ends="drain") & wanted.index.last),
            coming.fenced.eq(wanted.index.job.fence & wanted.index.first),
        ]
        return located, asked

    def _ask(self, m: Module, asked: RegisterSlice, in_array: CreditCounter) -> Signal:
        """High when an index asks for its words: nothing that it waits for is missing."""
        ask, waiting = asked.sink.payload, asked.sink.valid
        index, job = ask.index, ask.index.job
        issue = Signal()
        no_inputs = Signal()
        no_room = Signal()
        fenced_off = Signal()
        # what the indices before did, from registers: the inputs that are loaded may belong to a job on its way, ...
        starts = Signal(STORE_LATENCY)
        # ... a gradient index not be counted in the array yet, and the drain not know of a tile that has just ended
        to_array = Signal()
        just_ended = self.drain_jobs.valid if self.config.R > 1 else 0
        m.d.comb += [
            no_inputs.eq(ask.takes_inputs & ~(self.inputs_loaded & ~starts.any())),
            no_room.eq(ask.ends_in_drain & ~(self.drain_ready & ~just_ended)),
            fenced_off.eq(ask.fenced & ~(in_array.idle & ~to_array)),
            issue.eq(waiting & ~no_inputs & ~no_room & ~fenced_off),
            asked.sink.ready.eq(issue),
            self.row_request.valid.eq(issue & ~index.empty),
            self.row_request.payload.eq(ask.row),
        ]
        m.d.sync += [
            starts.eq(Cat(issue & ask.takes_inputs, starts[:-1])),
            to_array.eq(issue & having(job.dataflow, ends="store")),
            self.drain_jobs.valid.eq(issue & ask.ends_in_drain),
            self.drain_jobs.payload.eq(job),
            self.busy.eq(issue),
            self.streamed.eq(issue & ~index.empty),
            self.macs.eq(ask.macs),
            self.stall_input.eq(waiting & no_inputs),
            self.stall_drain.eq(waiting & no_room),
        ]
        m.d.comb += in_array.acquire.eq(to_array)
        return issue

    def _through_stores(self, m: Module, ask: Any, issue: Signal) -> tuple[list[Signal], Any]:
        """The cycles in which the words of an index are fetched, and the last one's meta data beside its operand."""
        c, rate = self.config, self.config.gate_rows_per_cycle
        index, job = ask.index, ask.index.job
        stage_layout = data.StructLayout(
            {
                "takes_inputs": 1,
                "dataflow": Dataflow,
                "last": 1,
                "empty": 1,
                "ends_step": 1,
                "address": range(c.weight_words),
                "in_group": range(rate),
            }
        )
        stages = [Signal(stage_layout, name=f"stage_{n + 1}", reset_less=True) for n in range(STORE_LATENCY)]
        valid = [Signal(name=f"valid_stage{n + 1}") for n in range(STORE_LATENCY)]
        m.d.sync += [
            Cat(*valid).eq(Cat(issue, *valid[:-1])),
            stages[0].dataflow.eq(job.dataflow),
            stages[0].takes_inputs.eq(ask.takes_inputs),
            stages[0].last.eq(index.last),
            stages[0].empty.eq(index.empty),
            stages[0].ends_step.eq(job.ends_step),
            stages[0].address.eq(ask.address),
            stages[0].in_group.eq(index.q % rate),
            *[later.eq(earlier) for earlier, later in pairwise(stages)],
        ]
        addresses = [ask.address, *[stage.address for stage in stages]]
        m.d.comb += [
            self.weight_address.eq(addresses[self.weight_delay]),
            self.gradient_address.eq(addresses[self.gradient_delay]),
        ]
        meta, arrives = stages[-1], valid[-1]
        operand = Signal(operand_layout(c), reset_less=True)
        row = Array([self.row_word[r] for r in range(rate)])[meta.in_group] if rate > 1 else self.row_word[0]
        m.d.comb += [
            self.operands.payload.eq(operand),
            self.inputs_taken.eq(arrives & meta.takes_inputs),
            self.step_done.eq(arrives & meta.last & meta.ends_step),
        ]
        m.d.sync += [
            self.operands.valid.eq(arrives),
            operand.dataflow.eq(meta.dataflow),
            operand.last.eq(meta.last),
            operand.dz.eq(row),
        ]
        with m.If(meta.empty):
            m.d.sync += operand.dz.eq(0)
        return valid, meta

    def _write_back(self, m: Module, arrives: Signal, meta: Any, in_array: CreditCounter) -> Value:
        """New sums to where the words came from; whether the last row's sum is stored."""
        c = self.config
        way_back = gradient_latency(c)  # the operand's register is made up for by the announcement's lead
        back_layout = data.StructLayout({"address": range(c.weight_words), "write": 1})
        m.submodules.back = back = DelayLine(back_layout, way_back)
        returns = Signal(way_back)
        returning = Signal()
        settling = Signal(range(c.R + 1))  # until the last row's sum is written
        m.d.sync += returns.eq(Cat(arrives & having(meta.dataflow, ends="store"), returns[:-1]))
        m.d.comb += [
            back.input.address.eq(meta.address),
            back.input.write.eq(~meta.empty),
            returning.eq(returns[-1]),
            self.gradient_write.valid.eq(returning & back.output.write),
            self.gradient_write.payload.eq(back.output.address),
            in_array.release.eq(returning),
        ]
        with m.If(returning):
            m.d.sync += settling.eq(c.R)
        with m.Elif(settling != 0):
            m.d.sync += settling.eq(settling - 1)
        return settling == 0
