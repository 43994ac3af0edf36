"""The compactor: turns bitmaps into a stream of row indices, one a cycle."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from hw.config import BITMAP_WORD, EngineConfig
from hw.flow import Flow
from hw.memory import StreamMemory, bits_for, write_layout
from hw.run import is_last, run_layout


def job_layout(config: EngineConfig) -> data.StructLayout:
    """One tile's work for the array."""
    return data.StructLayout(
        {
            "gradient": 1,  # dataflow: gradient, else error
            "hidden": 1,  # columns of h, else of x
            "slot": 1,  # of the double-buffered stores
            "tile": range(config.tiles),  # column tile in the stores: x from 0, h from x_tiles
            "first_column": bits_for(max(config.max_I, config.max_H)),  # within x or h
            "columns": bits_for(config.R),  # that exist in this tile
            "lanes": bits_for(config.C),  # that hold a sample
            "batch_tile": range(config.batch_tiles),
            "kept": 1,  # column bitmap
            "fence": 1,  # first gradient job of a batch tile: older dW words must be written back
            "ends_hidden": 1,  # last error job of h
            "ends_step": 1,  # last job of the batch tile
        }
    )


def index_layout(config: EngineConfig) -> data.StructLayout:
    """One row index q = 4 * unit + gate of a job; `empty` marks the one beat of a job that has no index."""
    return data.StructLayout(
        {"q": range(config.gate_rows), "first": 1, "last": 1, "empty": 1, "job": job_layout(config)}
    )


def _entry_layout(config: EngineConfig) -> data.StructLayout:
    return data.StructLayout(
        {
            "bits": BITMAP_WORD,
            "word": range(config.bitmap_words),
            "end": 1,
            "empty": 1,
            "job": job_layout(config),
        }
    )


class Compactor(wiring.Component):
    """For each job, the indices q with row_kept[q] & block_kept[q, tile] & column_kept, ascending, one a cycle.

    Bitmaps are read a word of BITMAP_WORD bits a cycle, also across jobs; words of zeros cost nothing downstream, and
    `look_ahead` words are kept ready, so that bitmaps down to 2 % density stream without a bubble.  A job without any
    index gives one beat marked `empty`.  First index `latency` = 7 cycles after an idle compactor takes its job.
    """

    look_ahead = 16
    latency = 7

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        words = config.bitmap_words
        super().__init__(
            {
                "run": In(run_layout(config)),
                "row_bitmap_write": In(Flow(write_layout(BITMAP_WORD, 2 * words))),
                "block_bitmap_write": In(Flow(write_layout(BITMAP_WORD, config.tiles * words))),
                "jobs": In(stream.Signature(job_layout(config))),
                "indices": Out(stream.Signature(index_layout(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c, words = self.config, self.config.bitmap_words
        m.submodules.row_bitmaps = rows = StreamMemory(BITMAP_WORD, 2 * words)
        m.submodules.block_bitmaps = blocks = StreamMemory(BITMAP_WORD, c.tiles * words)
        wiring.connect(m, wiring.flipped(self.row_bitmap_write), rows.write)
        wiring.connect(m, wiring.flipped(self.block_bitmap_write), blocks.write)

        # fetch: a word of both bitmaps a cycle
        fetched_layout = data.StructLayout({"word": range(words), "last": 1, "job": job_layout(c)})
        m.submodules.fetched = fetched_fifo = SyncFIFOBuffered(width=fetched_layout.size, depth=4)
        fetched_in, fetched = Signal(fetched_layout), data.View(fetched_layout, fetched_fifo.r_data)
        word, issue, last_word = Signal(range(words)), Signal(), Signal()
        job = self.jobs.payload
        m.d.comb += [
            # a column that is not kept has no index whatever its rows: one word is enough to say so
            last_word.eq(is_last(word, self.run.bitmap_words) | ~job.kept),
            issue.eq(self.jobs.valid & rows.request.ready & blocks.request.ready & fetched_fifo.w_rdy),
            self.jobs.ready.eq(issue & last_word),
            rows.request.valid.eq(issue),
            rows.request.payload.eq(Mux(job.slot, words, 0) + word),
            blocks.request.valid.eq(issue),
            blocks.request.payload.eq(job.tile * words + word),
            fetched_in.word.eq(word),
            fetched_in.last.eq(last_word),
            fetched_in.job.eq(job),
            fetched_fifo.w_data.eq(fetched_in),
            fetched_fifo.w_en.eq(issue),
        ]
        with m.If(issue):
            m.d.sync += word.eq(Mux(last_word, 0, word + 1))

        # look-ahead: drop words of zeros, and know of each word whether it is its job's last
        m.submodules.entries = entries = SyncFIFOBuffered(width=_entry_layout(c).size, depth=self.look_ahead)
        bits, arrived, some = Signal(BITMAP_WORD), Signal(), Signal()
        pending, pending_valid = Signal(_entry_layout(c)), Signal()
        pushed = Signal(_entry_layout(c))
        m.d.comb += [
            arrived.eq(rows.word.valid & blocks.word.valid & fetched_fifo.r_rdy & entries.w_rdy),
            rows.word.ready.eq(arrived),
            blocks.word.ready.eq(arrived),
            fetched_fifo.r_en.eq(arrived),
            bits.eq(
                rows.word.payload
                & (blocks.word.payload | (~self.run.block_mask).replicate(BITMAP_WORD))
                & fetched.job.kept.replicate(BITMAP_WORD)
            ),
            some.eq(bits.any()),
            pushed.eq(pending),
            entries.w_data.eq(pushed),
        ]
        open_job = Signal()  # the pending word is of the job whose words are arriving
        m.d.comb += open_job.eq(pending_valid & ~pending.end)
        with m.If(pending_valid & pending.end & entries.w_rdy):
            m.d.comb += entries.w_en.eq(1)
            m.d.sync += pending_valid.eq(0)
        with m.If(arrived):
            with m.If(some | (fetched.last & ~open_job)):
                m.d.comb += entries.w_en.eq(pending_valid)
                m.d.sync += [
                    pending_valid.eq(1),
                    pending.bits.eq(bits),
                    pending.word.eq(fetched.word),
                    pending.end.eq(fetched.last),
                    pending.empty.eq(~some),
                    pending.job.eq(fetched.job),
                ]
            with m.Elif(fetched.last):
                m.d.comb += [entries.w_en.eq(1), pushed.end.eq(1)]
                m.d.sync += pending_valid.eq(0)

        # emit: the lowest bit of the current word
        current, current_valid, first = Signal(_entry_layout(c)), Signal(), Signal(init=1)
        next_entry = data.View(_entry_layout(c), entries.r_data)
        rest, exhausted, advance = Signal(BITMAP_WORD), Signal(), Signal()
        lowest, position = Signal(BITMAP_WORD), Signal(range(BITMAP_WORD))
        out = self.indices.payload
        m.d.comb += [
            advance.eq(~self.indices.valid | self.indices.ready),
            rest.eq(current.bits & (current.bits - 1)),
            lowest.eq(current.bits & ~(current.bits - 1)),
            position.eq(Cat(*[(lowest & _position_mask(n)).any() for n in range(len(position))])),
            exhausted.eq(~rest.any()),
            entries.r_en.eq(~current_valid | (advance & exhausted)),
        ]
        with m.If(advance):
            m.d.sync += [
                self.indices.valid.eq(current_valid),
                out.q.eq(Cat(position, current.word)),
                out.first.eq(first),
                out.last.eq(current.end & exhausted),
                out.empty.eq(current.empty),
                out.job.eq(current.job),
            ]
            with m.If(current_valid):
                m.d.sync += [current.bits.eq(rest), first.eq(current.end & exhausted)]
        with m.If(entries.r_en):
            m.d.sync += [current_valid.eq(entries.r_rdy), current.eq(next_entry)]
        return m


def _position_mask(n: int) -> int:
    """Bits of a word whose position has bit n set."""
    return sum(1 << p for p in range(BITMAP_WORD) if p >> n & 1)
