"""The compactor: turns bitmaps into a stream of row indices, one a cycle."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import BITMAP_WORD, EngineConfig
from gradsieve.hw.layouts import index_layout, job_layout, run_layout
from gradsieve.hw.lib.credit_queue import QUEUE_LATENCY
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.idioms import gated, one_hot_choice
from gradsieve.hw.lib.register_slice import RegisterSlice
from gradsieve.hw.lib.stream_memory import StreamMemory, write_layout

GROUP = 8
"""Bits that are searched at once; a bitmap word has as many groups."""


PENDING = 1
"""Cycles of a word in the register where it waits for the next one that has a bit."""

SEARCHED = 1
"""Cycles of a word, a group of its bits or an index in the register that holds it."""


def _fetched_layout(config: EngineConfig) -> data.StructLayout:
    return data.StructLayout({"word": range(config.bitmap_words), "last": 1, "job": job_layout(config)})


def _entry_layout(config: EngineConfig) -> data.StructLayout:
    return data.StructLayout(
        {
            "bits": BITMAP_WORD,
            "groups": BITMAP_WORD // GROUP,  # which groups of bits have one
            "word": range(config.bitmap_words),
            "end": 1,
            "empty": 1,
            "job": job_layout(config),
        }
    )


def _group_layout(config: EngineConfig) -> data.StructLayout:
    return data.StructLayout(
        {
            "bits": GROUP,
            "place": range(config.bitmap_words * BITMAP_WORD // GROUP),
            "end": 1,
            "empty": 1,
            "job": job_layout(config),
        }
    )


class Compactor(wiring.Component):
    """For each job, the indices q with row_kept[q] & block_kept[q, tile] & column_kept, ascending, one a cycle.

    Bitmaps are read a word of BITMAP_WORD bits a cycle, also across jobs; words of zeros cost nothing downstream, and
    `look_ahead` words are kept ready, so that bitmaps down to 2 % density stream without a bubble.  A job without any
    index gives one beat marked `empty`.  The first index comes `latency` cycles after an idle compactor takes its job
    if the first two words have a bit; else it waits a cycle for each word more until the second that has one, or the
    last.
    """

    look_ahead = 16
    latency = (
        RegisterSlice.latency  # the request
        + StreamMemory.latency
        + 2 * RegisterSlice.latency  # the wanted bits, and which groups of them have one
        + PENDING
        + RegisterSlice.latency  # into the look-ahead
        + QUEUE_LATENCY
        + RegisterSlice.latency  # out of it
        + SEARCHED  # the word
        + RegisterSlice.latency
        + SEARCHED  # the group
        + SEARCHED  # the index
    )

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
        rows, blocks, fetched_fifo = self._fetch(m)
        entries = self._look_ahead(m, rows, blocks, fetched_fifo)
        self._indices(m, self._groups(m, entries))
        return m

    def _fetch(self, m: Module) -> tuple[StreamMemory, StreamMemory, SyncFIFOBuffered]:
        """A word of both bitmaps a cycle; the queue says whose it is."""
        c, words = self.config, self.config.bitmap_words
        m.submodules.row_bitmaps = rows = StreamMemory(BITMAP_WORD, 2 * words)
        m.submodules.block_bitmaps = blocks = StreamMemory(BITMAP_WORD, c.tiles * words)
        wiring.connect(m, wiring.flipped(self.row_bitmap_write), rows.write)
        wiring.connect(m, wiring.flipped(self.block_bitmap_write), blocks.write)
        fetched_layout = _fetched_layout(c)
        m.submodules.fetched = fetched_fifo = SyncFIFOBuffered(width=fetched_layout.size, depth=4)
        fetched_in = Signal(fetched_layout)
        # no stall of the bitmaps reaches the jobs within a cycle
        m.submodules.row_request = row_request = RegisterSlice(rows.request.payload.shape())
        m.submodules.block_request = block_request = RegisterSlice(blocks.request.payload.shape())
        wiring.connect(m, row_request.sink, rows.request)
        wiring.connect(m, block_request.sink, blocks.request)
        ask_row, ask_block = row_request.source, block_request.source
        word = Signal(range(words))
        issue = Signal()
        last_word = Signal()
        job = self.jobs.payload
        m.d.comb += [
            # a column that is not kept has no index whatever its rows: one word is enough to say so
            last_word.eq((word == self.run.end.bitmap_words) | ~job.kept),
            issue.eq(self.jobs.valid & ask_row.ready & ask_block.ready & fetched_fifo.w_rdy),
            self.jobs.ready.eq(issue & last_word),
            ask_row.valid.eq(issue),
            ask_row.payload.eq(Mux(job.slot, words, 0) + word),
            ask_block.valid.eq(issue),
            ask_block.payload.eq(job.tile * words + word),
            fetched_in.word.eq(word),
            fetched_in.last.eq(last_word),
            fetched_in.job.eq(job),
            fetched_fifo.w_data.eq(fetched_in),
            fetched_fifo.w_en.eq(issue),
        ]
        with m.If(issue):
            m.d.sync += word.eq(Mux(last_word, 0, word + 1))
        return rows, blocks, fetched_fifo

    def _look_ahead(
        self, m: Module, rows: StreamMemory, blocks: StreamMemory, fetched_fifo: SyncFIFOBuffered
    ) -> SyncFIFOBuffered:
        """Drops words of zeros, and knows of each word that is left whether it is its job's last."""
        c = self.config
        fetched_layout = _fetched_layout(c)
        fetched = data.View(fetched_layout, fetched_fifo.r_data)
        m.submodules.entries = entries = SyncFIFOBuffered(width=_entry_layout(c).size, depth=self.look_ahead)
        m.submodules.new_entry = new_entry = RegisterSlice(_entry_layout(c))
        wiring.connect(m, new_entry.sink, entries.w_stream)
        entry_free, pushes = new_entry.source.ready, new_entry.source.valid
        arrived = Signal()
        some = Signal()
        wanted_layout = data.StructLayout({"bits": BITMAP_WORD, **dict(fetched_layout.members)})
        masked_layout = data.StructLayout({"groups": BITMAP_WORD // GROUP, "some": 1, **dict(wanted_layout.members)})
        m.submodules.wanted = wanted_slice = RegisterSlice(wanted_layout)
        m.submodules.masked = masked_slice = RegisterSlice(masked_layout)
        wanted = wanted_slice.sink.payload
        masked = masked_slice.sink.payload
        fetched_now = Signal()
        pending = Signal(_entry_layout(c))
        pending_valid = Signal()
        pushed = Signal(_entry_layout(c))
        m.d.comb += [
            wanted_slice.source.valid.eq(rows.word.valid & blocks.word.valid & fetched_fifo.r_rdy),
            fetched_now.eq(wanted_slice.source.valid & wanted_slice.source.ready),
            rows.word.ready.eq(fetched_now),
            blocks.word.ready.eq(fetched_now),
            fetched_fifo.r_en.eq(fetched_now),
            wanted_slice.source.payload.bits.eq(
                gated(
                    rows.word.payload & (blocks.word.payload | (~self.run.block_mask).replicate(BITMAP_WORD)),
                    fetched.job.kept,
                )
            ),
            *[getattr(wanted_slice.source.payload, n).eq(getattr(fetched, n)) for n in ("word", "last", "job")],
            # which groups of bits have one, and whether any has
            masked_slice.source.valid.eq(wanted_slice.sink.valid),
            wanted_slice.sink.ready.eq(masked_slice.source.ready),
            masked_slice.source.payload.groups.eq(
                Cat(*[wanted.bits[n : n + GROUP].any() for n in range(0, BITMAP_WORD, GROUP)])
            ),
            masked_slice.source.payload.some.eq(wanted.bits.any()),
            *[getattr(masked_slice.source.payload, n).eq(getattr(wanted, n)) for n in wanted_layout.members],
            arrived.eq(masked_slice.sink.valid & entry_free),
            masked_slice.sink.ready.eq(arrived),
            some.eq(masked.some),
            pushed.eq(pending),
            new_entry.source.payload.eq(pushed),
        ]
        open_job = Signal()  # the pending word is of the job whose words are arriving
        m.d.comb += open_job.eq(pending_valid & ~pending.end)
        with m.If(pending_valid & pending.end & entry_free):
            m.d.comb += pushes.eq(1)
            m.d.sync += pending_valid.eq(0)
        with m.If(arrived):
            with m.If(some | (masked.last & ~open_job)):
                m.d.comb += pushes.eq(pending_valid)
                m.d.sync += [
                    pending_valid.eq(1),
                    pending.bits.eq(masked.bits),
                    pending.groups.eq(masked.groups),
                    pending.word.eq(masked.word),
                    pending.end.eq(masked.last),
                    pending.empty.eq(~some),
                    pending.job.eq(masked.job),
                ]
            with m.Elif(masked.last):
                m.d.comb += [pushes.eq(1), pushed.end.eq(1)]
                m.d.sync += pending_valid.eq(0)
        return entries

    def _groups(self, m: Module, entries: SyncFIFOBuffered) -> RegisterSlice:
        """From words to groups of bits: the lowest group that has one."""
        c = self.config
        current = Signal(_entry_layout(c))
        current_valid = Signal()
        m.submodules.next_entry = next_entry = RegisterSlice(_entry_layout(c))
        wiring.connect(m, entries.r_stream, next_entry.source)
        groups = [current.bits[n : n + GROUP] for n in range(0, BITMAP_WORD, GROUP)]
        # known ahead, from registers: the group to take, those after it, and whether there are none
        chosen = Signal(BITMAP_WORD // GROUP)
        rest = Signal(BITMAP_WORD // GROUP)
        word_done = Signal()
        group_taken = Signal()
        m.d.comb += [
            next_entry.sink.ready.eq(~current_valid | (group_taken & word_done)),
        ]
        with m.If(next_entry.sink.ready):
            m.d.sync += [current_valid.eq(next_entry.sink.valid), current.eq(next_entry.sink.payload)]
        ahead = Mux(next_entry.sink.ready, next_entry.sink.payload.groups, rest)
        with m.If(next_entry.sink.ready | (group_taken & current_valid)):
            m.d.sync += [chosen.eq(_lowest(ahead)), rest.eq(ahead & ~_lowest(ahead)), word_done.eq(~_several(ahead))]

        # both levels end a word or group by their own bits only
        m.submodules.next_group = next_group = RegisterSlice(_group_layout(c))
        found = next_group.source.payload
        m.d.comb += [
            next_group.source.valid.eq(current_valid),
            group_taken.eq(next_group.source.ready),
            found.bits.eq(one_hot_choice(zip(chosen, groups, strict=True))),
            found.place.eq(Cat(_position(chosen), current.word)),
            found.end.eq(current.end & word_done),
            found.empty.eq(current.empty),
            found.job.eq(current.job),
        ]
        return next_group

    def _indices(self, m: Module, next_group: RegisterSlice) -> None:
        """From groups to indices: the lowest bit."""
        c = self.config
        group = Signal(_group_layout(c))
        group_valid = Signal()
        first = Signal(init=1)
        group_done = Signal()
        advance = Signal()
        lowest = _lowest(group.bits)
        out = self.indices.payload
        m.d.comb += [
            advance.eq(~self.indices.valid | self.indices.ready),
            next_group.sink.ready.eq(~group_valid | (advance & group_done)),
        ]
        with m.If(advance):
            m.d.sync += [
                self.indices.valid.eq(group_valid),
                out.q.eq(Cat(_position(lowest), group.place)),
                out.first.eq(first),
                out.last.eq(group.end & group_done),
                out.empty.eq(group.empty),
                out.job.eq(group.job),
            ]
            with m.If(group_valid):
                others = group.bits & ~lowest
                m.d.sync += [group.bits.eq(others), group_done.eq(~_several(others)), first.eq(group.end & group_done)]
        with m.If(next_group.sink.ready):
            m.d.sync += [
                group_valid.eq(next_group.sink.valid),
                group.eq(next_group.sink.payload),
                group_done.eq(~_several(next_group.sink.payload.bits)),
            ]


def _lowest(bits: Value) -> Value:
    """The lowest set bit alone: each bit looks at those below it, with no carry."""
    return Cat(*[bits[n] & ~bits[:n].any() if n else bits[0] for n in range(len(bits))])


def _several(bits: Value) -> Value:
    """Whether more than one bit is set."""
    return Cat(*[bits[n] & bits[:n].any() for n in range(1, len(bits))]).any()


def _position(one_hot: Value) -> Value:
    """The position of the one bit that is set; 0 if none is."""
    width = len(one_hot)
    masks = [sum(1 << p for p in range(width) if p >> n & 1) for n in range((width - 1).bit_length())]
    return Cat(*[(one_hot & mask).any() for mask in masks])
