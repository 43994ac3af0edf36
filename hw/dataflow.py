"""The array's dataflows as data: what moves, what is stationary, where sums begin and end.

A dataflow is a member of `Dataflow` and its `Traits`.  The blocks ask for traits with `having`, never for a dataflow by
name, so that one more is a row here, a mode of the processing element, and the blocks that its operands need.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import reduce
from operator import or_
from typing import Any, Literal

from amaranth.hdl import Const, Value


class Dataflow(IntEnum):
    """How the array takes the indices of a job."""

    ERROR = 0
    """dx and dh_rec: W^T dz', output-stationary."""
    GRADIENT = 1
    """dW: dz' xh^T, input-stationary."""


@dataclass(frozen=True)
class Traits:
    """What one dataflow does with its operands and sums; k is the index, j the row of the array, b its lane."""

    along_lanes: Literal["weight", "partial_sum"]
    """What flows from lane to lane of a row: W[k, j], or the sum of index k."""
    down_rows: Literal["dz"]
    """What flows from row to row of a lane: dz'[k, b]."""
    stationary: Literal["sum", "input"]
    """What stays in the element for a whole job: its sum (output-stationary), or x or h, which is loaded before."""
    begins: Literal["zero", "store"]
    """What a sum is before its first product: zero, or what the weight gradient store has of it."""
    ends: Literal["drain", "store"]
    """Where a sum goes: with the job's last index to the drain, or with every index back to the store it came from."""


TRAITS: dict[Dataflow, Traits] = {
    Dataflow.ERROR: Traits(along_lanes="weight", down_rows="dz", stationary="sum", begins="zero", ends="drain"),
    Dataflow.GRADIENT: Traits(
        along_lanes="partial_sum", down_rows="dz", stationary="input", begins="store", ends="store"
    ),
}
"""What follows for a job: one with a stationary input waits for it with its first index; one that ends in the drain
waits for room there with its last index; one that ends in the store waits with its first index, if another dataflow ran
before, until all that is on the way back is stored.  A job without an index is left out if its sums begin in the store:
they stay what they are."""


def having(dataflow: Any, **traits: str) -> Value:
    """Whether the dataflow (of hardware) has all of these traits."""
    known = [f for f, of in TRAITS.items() if all(getattr(of, name) == trait for name, trait in traits.items())]
    return reduce(or_, [dataflow == flow for flow in known], Const(0))
