"""Operand fetch: indices in, operands of the array out, with the interlocks that keep tiles apart."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from hw.arithmetic import bits_for
from hw.compactor import index_layout, job_layout
from hw.config import EngineConfig
from hw.flow import Flow
from hw.gate_gradient import gate_rows_layout
from hw.memory import write_layout
from hw.register_slice import RegisterSlice
from hw.systolic_array import gradient_latency, operand_layout


def weight_word_layout(config: EngineConfig) -> data.ArrayLayout:
    """R weights of one gate row."""
    return data.ArrayLayout(signed(config.formats.weight.width), config.R)


def gradient_word_layout(config: EngineConfig) -> data.ArrayLayout:
    """R weight gradients of one gate row."""
    return data.ArrayLayout(signed(config.formats.weight_grad_width), config.R)


class OperandFetch(wiring.Component):
    """Asks the stores for the words of each index, joins them, and feeds the array one operand a cycle.

    Per index: `row_request` for dz', and `weight_request` (error) or `gradient_request` (gradient dataflow); answers
    come in order after any time.  The first operand of a gradient job waits for `inputs_loaded`, the last one of an
    error job for `drain_ready`, and then announces its tile on `drain_jobs`.  New dW words (`partial_sums`) are written
    back in order; a job with `fence` waits until all older ones are.  `latency` = 4 cycles from an index to its
    operand, with stores of 2 cycles.
    """

    latency = 4
    in_flight = 8

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        words, groups = config.weight_words, 2 * config.gate_rows // config.gate_rows_per_cycle
        super().__init__(
            {
                "indices": In(stream.Signature(index_layout(config))),
                "row_request": Out(stream.Signature(range(groups))),
                "row_word": In(stream.Signature(gate_rows_layout(config))),
                "weight_request": Out(stream.Signature(range(words))),
                "weight_word": In(stream.Signature(weight_word_layout(config))),
                "gradient_request": Out(stream.Signature(range(words))),
                "gradient_word": In(stream.Signature(gradient_word_layout(config))),
                "gradient_write": Out(Flow(write_layout(gradient_word_layout(config), words))),
                "inputs_loaded": In(1),
                "inputs_taken": Out(1),
                "drain_ready": In(1),
                "drain_jobs": Out(Flow(job_layout(config))),
                "operands": Out(Flow(operand_layout(config))),
                "partial_sums": In(Flow(gradient_word_layout(config))),
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
        c, rate = self.config, self.config.gate_rows_per_cycle
        groups = c.gate_rows // rate

        # addresses
        meta_layout = data.StructLayout(
            {"index": index_layout(c), "address": range(c.weight_words), "macs": bits_for(c.R * c.C)}
        )
        ask_layout = data.StructLayout({"meta": meta_layout, "row": range(2 * groups)})
        m.submodules.asked = asked = RegisterSlice(ask_layout)
        new, new_job = self.indices.payload, self.indices.payload.job
        coming = asked.source.payload
        m.d.comb += [
            asked.source.valid.eq(self.indices.valid),
            self.indices.ready.eq(asked.source.ready),
            coming.meta.index.eq(new),
            coming.meta.address.eq(new_job.tile * c.gate_rows + new.q),
            coming.meta.macs.eq(new_job.columns * new_job.lanes),
            coming.row.eq(new.q // rate + Mux(new_job.slot, groups, 0)),
        ]

        # ask
        ask = asked.sink.payload
        index, job = ask.meta.index, ask.meta.index.job
        m.submodules.meta = meta_fifo = SyncFIFOBuffered(width=meta_layout.size, depth=self.in_flight)
        meta = data.View(meta_layout, meta_fifo.r_data)
        in_array = Signal(range(gradient_latency(c) + 2 * self.in_flight))
        needs_weight, needs_gradient = Signal(), Signal()
        issue = Signal()
        m.d.comb += [
            needs_weight.eq(~job.gradient & ~index.empty),
            needs_gradient.eq(job.gradient & ~index.empty),
            issue.eq(
                asked.sink.valid
                & meta_fifo.w_rdy
                & (self.row_request.ready | index.empty)
                & (self.weight_request.ready | ~needs_weight)
                & (self.gradient_request.ready | ~needs_gradient)
                & ~(job.fence & index.first & (in_array != 0))
            ),
            asked.sink.ready.eq(issue),
            self.row_request.valid.eq(issue & ~index.empty),
            self.row_request.payload.eq(ask.row),
            self.weight_request.valid.eq(issue & needs_weight),
            self.weight_request.payload.eq(ask.meta.address),
            self.gradient_request.valid.eq(issue & needs_gradient),
            self.gradient_request.payload.eq(ask.meta.address),
            meta_fifo.w_data.eq(ask.meta),
            meta_fifo.w_en.eq(issue),
        ]

        # join
        gradient, empty = meta.index.job.gradient, meta.index.empty
        words_ready, starts_gradient, ends_error, take = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            words_ready.eq(
                meta_fifo.r_rdy
                & (empty | self.row_word.valid)
                & (empty | (gradient & self.gradient_word.valid) | (~gradient & self.weight_word.valid))
            ),
            starts_gradient.eq(gradient & meta.index.first),
            ends_error.eq(~gradient & meta.index.last),
            self.stall_input.eq(words_ready & starts_gradient & ~self.inputs_loaded),
            self.stall_drain.eq(words_ready & ends_error & ~self.drain_ready),
            take.eq(words_ready & ~self.stall_input & ~self.stall_drain),
            meta_fifo.r_en.eq(take),
            self.row_word.ready.eq(take & ~empty),
            self.weight_word.ready.eq(take & ~empty & ~gradient),
            self.gradient_word.ready.eq(take & ~empty & gradient),
            self.inputs_taken.eq(take & starts_gradient),
            self.drain_jobs.valid.eq(take & ends_error),
            self.drain_jobs.payload.eq(meta.index.job),
            self.step_done.eq(take & meta.index.last & meta.index.job.ends_step),
            self.busy.eq(take),
            self.streamed.eq(take & ~empty),
            self.macs.eq(meta.macs),
        ]
        row = Array([self.row_word.payload[r] for r in range(rate)])[meta.index.q % rate] if rate > 1 else None
        operand = self.operands.payload
        m.d.sync += [
            self.operands.valid.eq(take),
            operand.gradient.eq(gradient),
            operand.first.eq(meta.index.first),
            operand.last.eq(meta.index.last),
            operand.weight.eq(self.weight_word.payload),
            operand.partial_sum.eq(self.gradient_word.payload),
        ]
        with m.If(empty):
            m.d.sync += operand.dz.eq(0)
        with m.Else():
            m.d.sync += operand.dz.eq(self.row_word.payload[0] if row is None else row)

        # write back: the array keeps the order, so the addresses wait in a queue
        back_layout = data.StructLayout({"address": range(c.weight_words), "write": 1})
        m.submodules.back = back = SyncFIFOBuffered(width=back_layout.size, depth=gradient_latency(c) + 4)
        back_in, back_out = Signal(back_layout), data.View(back_layout, back.r_data)
        m.d.comb += [
            back_in.address.eq(meta.address),
            back_in.write.eq(~empty),
            back.w_data.eq(back_in),
            back.w_en.eq(take & gradient),
            back.r_en.eq(self.partial_sums.valid),
            self.gradient_write.valid.eq(self.partial_sums.valid & back_out.write),
            self.gradient_write.payload.address.eq(back_out.address),
            self.gradient_write.payload.word.eq(self.partial_sums.payload),
            self.idle.eq((meta_fifo.level == 0) & (in_array == 0) & ~asked.sink.valid),
        ]
        m.d.sync += in_array.eq(in_array + (issue & job.gradient) - self.partial_sums.valid)
        return m
