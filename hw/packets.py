"""Constants of the packets (docs/streams.md) that the engine and its host share."""

from __future__ import annotations

from enum import IntEnum


class PacketKind(IntEnum):
    """Bits 7:0 of the header of an input packet."""

    WEIGHT_X = 1
    WEIGHT_H = 2
    BLOCK_MASK = 3
    COLUMN_MASK = 4
    SEED = 5
    TAPE = 6


RECORD_VECTORS = 8
"""Lane vectors of one hidden unit in a tape."""

STATISTICS_WORDS = 4
"""Words behind the bitmap in a statistics section: rows and elements kept, a gate each."""
