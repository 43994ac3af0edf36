"""The signatures between the three parts of the core, from the side that is named first."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import BITMAP_WORD, RANDOM_WIDTH, EngineConfig
from gradsieve.hw.layouts import gate_rows_layout, gradient_word_layout, lanes_layout, run_layout, state_layout
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.stream_memory import write_layout


class Commands(wiring.Signature):
    """Host's side to both paths: the run in progress, a pulse that starts it, and the sieve's random state."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(
            {
                "run": Out(run_layout(config)),
                "start": Out(1),
                "random_load": Out(Flow(RANDOM_WIDTH)),
            }
        )


class SievedRows(wiring.Signature):
    """Gate path to array path: what a batch tile's jobs need, and back, what its successors wait for.

    `row_write`, `bitmap_write` and `input_write` fill the slot of a batch tile; then `batch_tiles` brings a token (1:
    it kept some row) and `inputs_done` a pulse once x and h are there.  `step_done` pulses when a batch tile has left
    its slot; `hidden_write` brings dh_rec, `hidden_done` pulses at its end.
    """

    def __init__(self, config: EngineConfig) -> None:
        inputs = data.ArrayLayout(signed(config.formats.input.width), config.C)
        groups = config.gate_rows // config.gate_rows_per_cycle
        super().__init__(
            {
                "row_write": Out(Flow(write_layout(gate_rows_layout(config), 2 * groups))),
                "bitmap_write": Out(Flow(write_layout(BITMAP_WORD, 2 * config.bitmap_words))),
                "input_write": Out(Flow(write_layout(inputs, 2 * (config.max_I + config.max_H)))),
                "inputs_done": Out(1),
                "batch_tiles": Out(stream.Signature(1)),
                "step_done": In(1),
                "hidden_write": In(Flow(write_layout(lanes_layout(config), config.batch_tiles * config.max_H))),
                "hidden_done": In(1),
            }
        )


class StateRead(wiring.Signature):
    """Host's side to gate path: dh and dc after a run; while `active` the store is the host's."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(
            {
                "active": Out(1),
                "request": Out(stream.Signature(range(config.batch_tiles * config.max_H))),
                "state": In(stream.Signature(state_layout(config))),
            }
        )


class GradientRead(wiring.Signature):
    """Host's side to a store of sums: `word` follows `address` by the store's latency; `clear` zeroes.

    `active`: no run, the store's port is the reader's.
    """

    def __init__(self, depth: int, word: Any) -> None:
        super().__init__(
            {"active": Out(1), "address": Out(range(depth)), "word": In(word), "clear": Out(Flow(range(depth)))}
        )


def weight_gradient_read(config: EngineConfig) -> GradientRead:
    """Reads dW, a word of R sums at a time."""
    return GradientRead(config.weight_words, gradient_word_layout(config))


def bias_gradient_read(config: EngineConfig) -> GradientRead:
    """Reads db, a gate row at a time."""
    return GradientRead(config.gate_rows, signed(config.formats.weight_grad_width))
