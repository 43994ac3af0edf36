"""Target cells: what stands in for the multiplier, the memory and the accumulator where a family's tools infer less."""

from gradsieve.hw.cells.library import Cells, cells_of

__all__ = ["Cells", "cells_of"]
