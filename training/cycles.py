"""Cycle model: how long the engine takes for a backward pass whose kept rows are known, without simulating it.

Training with the float backend reports these cycles; those of a device in the loop come from its counters.  The model
is held against the counters of the RTL in `tests/training/test_cycles.py`, which states how far it may be off.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradsieve.hw.config import GATES, EngineConfig
from gradsieve.hw.packets import INPUT, RESULT, PacketKind, Run

GATE_LATENCY = 128
"""Cycles, and R more, from the last dh_rec of a step to the first row of the step before, about."""
SLOT_LATENCY = 122
"""Cycles from the end of a batch tile to the first row of the next one in its slot, about."""
ENDS = 132
"""Cycles before the first index and after the last one, about."""


def run_cycles(config: EngineConfig, H: int, I: int, B: int, T: int, counts: Tensor) -> int:
    """Cycles of one run, as the counter CYCLES defines them.

    `counts` (T, batch_tiles, tiles): indices of one dataflow, as `gradsieve.golden.work.index_counts`, for the config's
    C and R.  Each tile takes its indices, R at least; batch tiles overlap as two slots and the recurrence allow (see
    docs/architecture.md).  Raises ValueError if the counts are of other tiles than the config's.
    """
    x_tiles, h_tiles, batch_tiles = -(-I // config.R), -(-H // config.R), -(-B // config.C)
    expected = (T, batch_tiles, x_tiles + h_tiles)
    if tuple(counts.shape) != expected:
        raise ValueError(f"counts must have shape (T, batch_tiles, tiles) = {expected}, got {tuple(counts.shape)}")
    least = counts.clamp(min=config.R)
    # Jobs of dW that can have no index are left out; those of dx and dh_rec write zeros.
    gradient = torch.where(counts > 0, least, 0)
    hidden = least[:, :, x_tiles:].sum(dim=2)
    rest = least[:, :, :x_tiles].sum(dim=2) + gradient.sum(dim=2)
    gates, inputs, results = _stream_cycles(config, H, I)
    feed = max(gates, len(GATES) * H // config.gate_rows_per_cycle)
    latency = GATE_LATENCY + config.R
    order = [(t, b) for t in reversed(range(T)) for b in range(batch_tiles)]
    hidden_cycles, rest_cycles = hidden.tolist(), rest.tolist()
    dh_ready = [0] * batch_tiles
    fed = done = before = sent = 0
    for n, (t, b) in enumerate(order):
        first = n < batch_tiles
        # The tape has come, a slot is free, dh_rec is there.
        start = max(fed, before + SLOT_LATENCY if n > 1 else 0, 0 if first else dh_ready[b] + latency)
        ready = start + feed
        fed = ready + inputs
        begin, before = max(done, ready), done
        dh_ready[b] = begin + hidden_cycles[t][b]
        sent = max(sent, dh_ready[b]) + results
        done = max(dh_ready[b] + rest_cycles[t][b], sent - rest_cycles[t][b])
    return max(done, sent) + ENDS


def _stream_cycles(config: EngineConfig, H: int, I: int) -> tuple[int, int, int]:
    """Beats of a step and batch tile: the records and x sections of the tape, and statistics with dx of the result."""
    run = Run(config, H, I, config.C, 1)
    records, x = (section.beats(run) for section in INPUT[PacketKind.TAPE].sections)
    steps, _ = RESULT.groups
    return records, x, sum(section.beats(run) for section in steps.sections)
