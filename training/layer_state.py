"""What a layer and direction of a `SievedLSTM` keeps from pass to pass."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import torch

from gradsieve.hw.config import RANDOM_SEED
from gradsieve.training.loss_scale import LossScale
from gradsieve.training.methods.sieves import Threshold

GOLDEN_RATIO = RANDOM_SEED
"""Seeds differ from layer to layer by multiples of it: far apart, and never the zero that xorshift32 cannot leave."""


@dataclass
class LayerState:
    """The threshold, the loss scale, and the random numbers of the stochastic sieve: `random`, the word of the integer
    backends, and `generator`, that of the float one.  Whoever changes something holds `lock`: two threads may run
    passes of one module.
    """

    layer: str
    number: int
    seed: int = 1
    threshold: Threshold = field(default_factory=Threshold)
    loss_scale: LossScale = field(default_factory=LossScale)
    random: int = 0
    generator: torch.Generator = field(default_factory=torch.Generator)
    share: float | None = None
    """Share of rows that the last sieved pass kept."""
    rested: int = 0
    """Passes since then that were dense because sieving gained nothing."""
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.reseed(self.seed)

    def __getstate__(self) -> dict[str, Any]:
        """Without the lock: a copy has its own."""
        return {name: value for name, value in vars(self).items() if name != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, lock=threading.RLock())

    def reseed(self, seed: int) -> None:
        """Begin the random words anew."""
        self.seed = seed
        self.generator.manual_seed((seed << 16) + self.number)
        self.random = (seed + (self.number + 1) * GOLDEN_RATIO) % (1 << 32) or 1

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: plain values and a tensor."""
        return {
            "seed": self.seed,
            "threshold": self.threshold.state_dict(),
            "loss_scale": self.loss_scale.state_dict(),
            "random": self.random,
            "generator": self.generator.get_state(),
            "share": self.share,
            "rested": self.rested,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.seed, self.random = state["seed"], state["random"]
        self.threshold.load_state_dict(state["threshold"])
        self.loss_scale.load_state_dict(state["loss_scale"])
        self.generator.set_state(state["generator"])
        self.share, self.rested = state["share"], state["rested"]
