"""The order of the work as data: the phases of a batch tile, which the array sequencer walks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gradsieve.hw.dataflow import Dataflow


@dataclass(frozen=True)
class Phase:
    """The jobs of one dataflow for one batch tile, a column tile each, ascending."""

    result: Literal["dh_rec", "dx", "dW_ih", "dW_hh"]
    dataflow: Dataflow
    columns: Literal["x", "h"]
    """Whose column tiles."""
    waits_for: Literal["rows", "inputs"] | None = None
    """What must be stored before the first job is given out: the batch tile's rows of dz', or its x and h."""


# --8<-- [start:backward]
BACKWARD = (
    Phase("dh_rec", Dataflow.ERROR, "h", waits_for="rows"),
    Phase("dx", Dataflow.ERROR, "x"),
    Phase("dW_ih", Dataflow.GRADIENT, "x", waits_for="inputs"),
    Phase("dW_hh", Dataflow.GRADIENT, "h"),
)
"""For each batch tile of each step.  dh_rec comes first because the next step's gate gradients wait for it; dx and dW
cover them."""
# --8<-- [end:backward]
