"""A `torch.nn.LSTM` and a `SievedLSTM` of the same weights."""

from __future__ import annotations

from typing import Any

from torch import nn

from gradsieve.training.backends import BackwardPass, FloatBackend
from gradsieve.training.float_pass import LayerGradients
from gradsieve.training.lstm import SievedLSTM
from gradsieve.training.methods.masks import WeightMasks
from gradsieve.training.methods.sieves import RowSieve
from gradsieve.training.statistics import PassStatistics

I, H = 3, 4
COARSE: dict[str, Any] = {"rtol": 0.1, "atol": 0.05}
"""What bfloat16 leaves of a comparison."""
PATHS = ("plain", "sieved", "dense")


class CountingBackend(FloatBackend):
    """Tells how many backward passes were ours."""

    calls = 0

    def backward(self, run: BackwardPass) -> tuple[LayerGradients, PassStatistics]:
        self.calls += 1
        return super().backward(run)


def pair(path: str, *, double: bool = True, **layout: Any) -> tuple[nn.LSTM, SievedLSTM]:
    """The same weights in both; `path`: whose passes the second one takes."""
    theirs = nn.LSTM(I, H, **layout)
    ours = SievedLSTM(I, H, **layout)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    if path == "sieved":  # a tau of 0 keeps every row that is not zero; a number of lanes leaves no way round it
        ours.sieve, ours.backend = RowSieve(tau=0.0), CountingBackend(lanes=2)
    else:
        ours.backend = CountingBackend()
        if path == "dense":
            ours.weight_masks = WeightMasks(4, {})
    return (theirs.double(), ours.double()) if double else (theirs, ours)
