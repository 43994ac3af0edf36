"""Schedules of a sieve over a training: dense steps among sieved ones, and a target that moves."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from gradsieve.training.methods.sieves import DenseSieve, GradientSieve, SieveError


@dataclass(frozen=True)
class MixedTraining:
    """A sieve mixed with dense steps, after Zhu et al. 2018, who found that mixing closes the gap to dense training.

    Their order and ratio are not known; these are the usual ones, and they combine.  A step is dense during the first
    `warm_up` steps, if it is the last of every `dense_every` steps (0: never), and in the last `dense_tail` share of
    `steps`.  `targets` moves the sieve's target: pairs (progress from 0 to 1, share), linear in between.  Raises
    SieveError for values that make no sense.
    """

    sieve: GradientSieve
    steps: int
    warm_up: int = 0
    dense_every: int = 0
    dense_tail: float = 0.0
    targets: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise SieveError(f"steps must be at least 1, got {self.steps}")
        if self.warm_up < 0:
            raise SieveError(f"warm_up must be at least 0, got {self.warm_up}")
        if self.dense_every < 0 or self.dense_every == 1:
            raise SieveError(f"dense_every must be 0 (never) or at least 2, got {self.dense_every}")
        if not 0 <= self.dense_tail <= 1:
            raise SieveError(f"dense_tail must be from 0 to 1, got {self.dense_tail}")
        if self.targets and self.sieve.tau is not None:
            raise SieveError(f"targets must be empty with a fixed tau = {self.sieve.tau}, got {self.targets}")
        progress = [p for p, _ in self.targets]
        if progress != sorted(set(progress)) or any(not 0 <= p <= 1 for p in progress):
            raise SieveError(f"targets must be at ascending points of progress from 0 to 1, got {progress}")
        for _, share in self.targets:
            if not 0 < share <= 1:
                raise SieveError(f"targets must have shares greater than 0 and at most 1, got {share}")

    def at(self, step: int) -> GradientSieve:
        """The sieve of step 0, 1, ...: `DenseSieve()` in the dense ones."""
        if (
            step < self.warm_up
            or (self.dense_every and step % self.dense_every == self.dense_every - 1)
            or (self.dense_tail and step >= self.steps - round(self.steps * self.dense_tail))
        ):
            return DenseSieve()
        return self.sieve.with_target(self._target(step / self.steps)) if self.targets else self.sieve

    def _target(self, progress: float) -> float:
        points = self.targets
        if progress <= points[0][0]:
            return points[0][1]
        for (p0, s0), (p1, s1) in pairwise(points):
            if progress <= p1:
                return s0 + (s1 - s0) * (progress - p0) / (p1 - p0)
        return points[-1][1]
