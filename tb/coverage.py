"""Functional coverage of the benches, by cocotb-coverage: modes, sizes and corner values that a run has seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cocotb_coverage.coverage import CoverCross, CoverItem, CoverPoint, coverage_db

from gradsieve.hw.formats import FixedPoint

CORNERS = ("minimum", "negative", "zero", "positive", "maximum")
"""Classes of a value of a format; `corner` names that of a value."""


def cover(
    group: str,
    points: Mapping[str, Sequence[Any]],
    crosses: Sequence[Sequence[str]] = (),
    impossible: Sequence[tuple[Any, ...]] = (),
) -> Callable[[Mapping[str, Any]], None]:
    """A function that samples a mapping from the names of `points` to values; each point is covered by its bins.

    `crosses` names points whose combinations count too, but those that are `impossible`.  The items are called
    `group`.point and `group`.a_x_b.
    """

    def sample(values: Mapping[str, Any]) -> None:
        pass

    # constructed in this order, applied in the reverse: a point must exist, and be sampled, before its crosses
    items: list[Any] = []
    for name, bins in points.items():
        items.append(CoverPoint(f"{group}.{name}", xf=lambda values, name=name: values.get(name), bins=list(bins)))
    for cross in crosses:
        items.append(
            CoverCross(f"{group}.{'_x_'.join(cross)}", items=[f"{group}.{p}" for p in cross], ign_bins=list(impossible))
        )
    for item in reversed(items):
        sample = item(sample)
    return sample


def corner(value: int, form: FixedPoint) -> str:
    """Which of CORNERS a value of the format is."""
    if value in (form.minimum, form.maximum):
        return "minimum" if value < 0 else "maximum"
    return "negative" if value < 0 else "positive" if value else "zero"


def fit(size: int, step: int, top: int) -> str:
    """How a size fills tiles of `step`: `one`, `top`, or else whether its last tile is `full` or `partial`."""
    if size in (1, top):
        return "one" if size == 1 else "top"
    return "partial" if size % step else "full"


def fits(step: int, top: int) -> list[str]:
    """The classes of `fit` that sizes from 1 to `top` can have."""
    return sorted({fit(n, step, top) for n in range(1, top + 1)})


def covered() -> dict[str, Any]:
    """Bins hit and bins in all, and by item the bins that no sample has hit."""
    hit = size = 0
    missing: dict[str, list[str]] = {}
    for name, item in coverage_db.items():
        if type(item) is CoverItem:  # a node of the tree, not a point of its own
            continue
        hit, size = hit + item.coverage, size + item.size
        gaps = [str(b) for b, count in item.detailed_coverage.items() if count < item.at_least]
        if gaps:
            missing[name] = gaps
    return {"hit": hit, "bins": size, "missing": missing}
