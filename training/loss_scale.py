"""The loss scale of the integer backends: a power of two that puts the gradients where their format is fine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gradsieve.golden.types import Saturations
from gradsieve.hw.formats import FixedPoint

HEADROOM = 2
"""Bits between the largest upstream gradient and the format's limit: dh and dc add up over the steps."""
MOST_HEADROOM = 10
FORGET = 0.98
"""How much of the largest gradient seen is remembered from pass to pass."""
RELAX = 200
"""Passes without saturation after which a bit of the extra headroom is given back."""


@dataclass
class LossScale:
    """Chosen anew for every backward pass from the maxima observed so far; ours.

    The largest |dy|, |dh| or |dc| that reached the layer, scaled, stays `headroom` bits below the gradient format's
    limit.  A pass whose gate gradients, dx or dh saturate adds a bit of headroom for those after it.
    """

    largest: float = 0.0
    headroom: int = HEADROOM
    clean: int = 0

    def choose(self, form: FixedPoint, upstream: float) -> float:
        """The scale for a pass whose largest upstream gradient is `upstream`, in the gradient format `form`."""
        largest = self._remembered(upstream)
        if largest == 0:
            return 1.0
        limit = form.maximum / form.scale
        exponent = math.floor(math.log2(limit) - math.log2(largest)) - self.headroom  # a quotient could overflow
        return math.ldexp(1.0, max(-1000, min(1000, exponent)))

    def _remembered(self, upstream: float) -> float:
        return max(upstream, FORGET * self.largest)

    def observe(self, upstream: float, saturations: Saturations) -> None:
        """Learn from a pass: its largest gradient, and what saturated (factors do not depend on the scale)."""
        self.largest = self._remembered(upstream)
        if saturations.gate or saturations.sieve or saturations.error:
            self.headroom = min(MOST_HEADROOM, self.headroom + 1)
            self.clean = 0
            return
        self.clean += 1
        if self.clean >= RELAX:
            self.headroom = max(HEADROOM, self.headroom - 1)
            self.clean = 0

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return vars(self).copy()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.largest, self.headroom, self.clean = state["largest"], state["headroom"], state["clean"]
