"""What a library of target cells offers, and how a block finds the one of its platform."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from amaranth.hdl import Module

if TYPE_CHECKING:
    from gradsieve.hw.lib.block_memory import BlockMemory
    from gradsieve.hw.lib.multiplier import Multiplier
    from gradsieve.hw.lib.mux_adder import MuxAdder


class Cells:
    """Cells of one FPGA family behind the interfaces of the portable blocks, equal to them cycle by cycle.

    Each method gives the module that stands in for the block, or None, as here, where a family has nothing better for
    its sizes than what its tools infer from the portable description.
    """

    name: str
    models: Path | None = None
    """Verilog with a behavioural model of every cell that is instantiated and that Yosys has no model of."""
    registered_ready: bool = True
    """Whether a RegisterSlice gives `ready` from a register too, for which it needs as many registers again."""

    def multiplier(self, block: Multiplier) -> Module | None:
        """`gradsieve.hw.lib.multiplier.Multiplier` with the input and output registers of a hard multiplier."""
        return None

    def memory(self, block: BlockMemory) -> Module | None:
        """`gradsieve.hw.lib.block_memory.BlockMemory` with the output register of hard memories."""
        return None

    def mux_adder(self, block: MuxAdder) -> Module | None:
        """`gradsieve.hw.lib.mux_adder.MuxAdder` with choice and addition in one carry chain."""
        return None


def cells_of(platform: Any) -> Cells | None:
    """The cells of a platform: its attribute `cells`, or None, which means the portable description."""
    return getattr(platform, "cells", None)
