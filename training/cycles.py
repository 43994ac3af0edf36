"""Cycle model: how long the engine takes for a backward pass whose kept rows are known, without simulating it.

Training with the float backend reports these cycles; those of a device in the loop come from its counters.  The model
is held against the counters of the RTL in `tests/training/test_cycles.py`, which states how far it may be off.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from torch import Tensor

from gradsieve.hw.config import BITMAP_WORD, EngineConfig
from gradsieve.hw.packets import RECORDS, STATISTICS_WORDS, Run, X

if TYPE_CHECKING:
    from gradsieve.hw.timing import Timing


def run_cycles(config: EngineConfig, H: int, I: int, B: int, T: int, counts: Tensor) -> int:
    """Cycles of one run, as the counter CYCLES defines them.

    `counts` (T, batch_tiles, tiles): indices of one dataflow, as `gradsieve.golden.work.index_counts`, for the config's
    C and R.  Host and engine never wait for each other's streams.  Raises ValueError if the counts are of other tiles
    than the config's.
    """
    x_tiles, h_tiles, batch_tiles = -(-I // config.R), -(-H // config.R), -(-B // config.C)
    expected = (T, batch_tiles, x_tiles + h_tiles)
    if tuple(counts.shape) != expected:
        raise ValueError(f"counts must have shape (T, batch_tiles, tiles) = {expected}, got {tuple(counts.shape)}")
    gates, array = _Gates(config, H, I, batch_tiles), _Array(config, H, I)
    for step in reversed(counts.tolist()):
        for batch_tile, indices in enumerate(step):
            rows_done = gates.batch_tile(batch_tile)
            array.batch_tile(rows_done, indices[:x_tiles], indices[x_tiles:])
            gates.release(batch_tile, array.hidden_done, array.index)
    return array.end


@lru_cache
def _timing(config: EngineConfig) -> Timing:
    from gradsieve.hw.timing import Timing  # not above: it brings Amaranth, and few who train ask for cycles

    return Timing(config)


class _Gates:
    """The way from the tape to sieved rows, batch tile by batch tile; times are cycles after the start of the run."""

    def __init__(self, config: EngineConfig, H: int, I: int, batch_tiles: int) -> None:
        self.timing, self.batch_tiles = _timing(config), batch_tiles
        words = _words(config)
        self.record_beats, self.interval = words.record, max(words.record, self.timing.period)
        self.H, self.input_cycles = H, I * words.inputs
        self.taken, self.slot_free, self.hidden_done = 0, [0, 0], [0] * batch_tiles
        self.inputs_done = 0
        self.phase: int | None = None

    def batch_tile(self, batch_tile: int) -> int:
        """The cycle in which the last gate row leaves the sieve."""
        t = self.timing
        if self.taken == 0:
            start, tape = 1, t.start_to_tape + t.tape_to_record + self.record_beats
        else:
            start, tape = self.inputs_done + t.inputs_to_start, self.inputs_done + self.record_beats
        start = max(start, self.slot_free[self.taken % 2], self.hidden_done[batch_tile])
        last = max(start + t.start_to_record, tape) + (self.H - 1) * self.interval
        if self.phase is None:  # nobody knows where in an interval a run starts: in its middle
            self.phase = last + (t.period - 1) // 2
        self.inputs_done = last + self.input_cycles
        self.taken += 1
        return last + (self.phase - last) % t.period + t.record_to_rows

    def release(self, batch_tile: int, hidden_done: int, last_index: int) -> None:
        """The array has done with a batch tile: its dh_rec for the next step, and its slot."""
        self.hidden_done[batch_tile] = hidden_done + self.timing.hidden_to_start
        self.slot_free[(self.taken - 1) % 2] = last_index + self.timing.index_to_start


class _Array:
    """The way from bitmaps to sums, their drain, and the result's packet; times are cycles after the run's start."""

    def __init__(self, config: EngineConfig, H: int, I: int) -> None:
        self.timing, self.R, self.I = _timing(config), config.R, I
        self.words = _words(config)
        self.bitmap_words = Run(config, H, I, B=1, T=1).bitmap_words
        never = -(1 << 62)
        # the last index, that of an error tile, and the first one of a tile of dW
        self.index = self.error_end = self.gradient_begin = never
        self.row_done = self.hidden_done = never  # out of the drain: the last row, and the last of dh_rec
        self.result = 0  # when the packet may take the next word

    def batch_tile(self, rows_done: int, x_counts: list[int], h_counts: list[int]) -> None:
        """All tiles of a batch tile whose last gate row came at `rows_done`."""
        t, words = self.timing, self.words
        self.index = max(self.index, rows_done + t.rows_to_index + self._first_wait(max(h_counts[0], 1)) - 1)
        statistics = self.bitmap_words + STATISTICS_WORDS
        last_word = max(self.result + (statistics - 1) * words.statistics, rows_done + t.rows_to_statistics)
        self.result = last_word + t.section_gap + words.statistics - 1
        for count in h_counts:
            self._error_tile(count)
            self.row_done = max(self.index + t.index_to_row, self.row_done + 1) + self.R - 1
        self.hidden_done = self.row_done
        for n, count in enumerate(x_counts):
            self._error_tile(count)
            self._dx(min(self.R, self.I - n * self.R))
        self.result += t.section_gap - 1
        # tiles of dW without an index are left out, but not the batch tile's last one
        gradients = [n for n in x_counts + h_counts[:-1] if n] + [max(h_counts[-1], 1)]
        for count in gradients:
            self.gradient_begin = max(self.index + 1, self.gradient_begin + t.inputs_reload)
            self.index = self.gradient_begin + count - 1

    @property
    def end(self) -> int:
        """When the result's last beat has gone, and the last sum is stored."""
        return max(self.index + self.timing.index_to_end, self.result)

    def _first_wait(self, count: int) -> int:
        """Cycles that an idle compactor waits for the second word that has one of `count` bits, or for the last."""
        second = min(self.bitmap_words - 1, round(2 * self.bitmap_words / (count + 1)))
        return max(second - 1, 0)

    def _error_tile(self, count: int) -> None:
        """Ends R cycles after the one before: its rows pass the drain's register.  Its bitmap is read meanwhile."""
        last = max(self.index + max(count, 1), self.error_end + max(self.R, self.bitmap_words))
        self.index = self.error_end = last

    def _dx(self, columns: int) -> None:
        """The rows of an error tile of x into the packet."""
        first = max(self.index + self.timing.index_to_row, self.row_done + 1)
        cycles = self.words.inputs
        begin = max(first + self.timing.row_to_result, self.result)
        self.result = begin + columns * cycles
        # two rows wait in the slice in front of the packet
        self.row_done = max(first + self.R - 1, self.result - 3 * cycles + 1)


@dataclass(frozen=True)
class _WordCycles:
    """Cycles of a word of the streams: a beat each, or one where several words share a beat."""

    record: int
    inputs: int
    statistics: int


def _words(config: EngineConfig) -> _WordCycles:
    one = Run(config, H=1, I=1, B=1, T=1)
    return _WordCycles(RECORDS.beats(one), X.beats(one), -(-BITMAP_WORD // config.stream_width))
