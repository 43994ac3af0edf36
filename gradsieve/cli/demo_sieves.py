"""The demo's sieves: one for each mode, its threshold chosen for a share of kept rows or elements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gradsieve.golden.backward import backward
from gradsieve.golden.types import Gradients, Sieve, SieveMode, Tape, Weights
from gradsieve.hw.config import EngineConfig


@dataclass(frozen=True)
class Target:
    """A mode, and the share of rows (or of elements) that its threshold shall keep."""

    mode: SieveMode
    share: float
    of_elements: bool = False


TARGETS = (
    Target(SieveMode.DENSE, 1.0),
    Target(SieveMode.ELEMENT, 0.15, of_elements=True),
    Target(SieveMode.ROW, 0.2),
    Target(SieveMode.STOCHASTIC, 0.1),
)


@dataclass(frozen=True)
class Sieved:
    """A sieve and what the golden model makes of the training step with it."""

    target: Target
    sieve: Sieve
    expected: Gradients


def shares(gradients: Gradients, elements: int) -> tuple[float, float]:
    """The shares of rows, and of `elements` gate gradients, that were kept."""
    rows = gradients.rows_kept
    return int(rows.sum()) / rows.numel(), int(gradients.elements_kept.sum()) / elements


def sieves(config: EngineConfig, weights: Weights, tape: Tape, random: int) -> Iterator[Sieved]:
    """The sieve of each of TARGETS, in their order."""
    for target in TARGETS:

        def run(tau: int, mode: SieveMode = target.mode) -> Gradients:
            return backward(config, weights, tape, Sieve(mode=mode, tau=tau, random=random))

        def kept(tau: int, of_elements: bool = target.of_elements, run: Callable[[int], Gradients] = run) -> float:
            return shares(run(tau), 4 * tape.i.numel())[of_elements]

        top = (1 << config.formats.gradient.width) - 1
        tau = 0 if target.mode == SieveMode.DENSE else _threshold(kept, target.share, top)
        yield Sieved(target=target, sieve=Sieve(mode=target.mode, tau=tau, random=random), expected=run(tau))


def _threshold(kept: Callable[[int], float], share: float, top: int) -> int:
    """The tau up to `top` at which `kept`, which falls with tau but for noise, is nearest to `share`."""
    low, high = 1, top
    while low < high:
        middle = (low + high) // 2
        if kept(middle) <= share:
            high = middle
        else:
            low = middle + 1
    return min((tau for tau in (low - 1, low) if tau > 0), key=lambda tau: abs(kept(tau) - share))
