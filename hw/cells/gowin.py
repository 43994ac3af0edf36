"""Gowin GW2A: what its tools infer, and register slices that take no more flip-flops than there are lookup tables for.

A slot of this family has a lookup table and a flip-flop that only the table can feed, so that every flip-flop costs a
table too (Gowin UG288, configurable function unit).
"""

from __future__ import annotations

from gradsieve.hw.cells.library import Cells


class GowinCells(Cells):
    """Portable blocks, without registers in the way of `ready`: its boards' clocks are slow enough."""

    name = "gowin"
    registered_ready = False


GOWIN = GowinCells()
