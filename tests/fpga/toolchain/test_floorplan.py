"""Sites of hard blocks: one each, and near what they are wired to."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import numpy as np
import pytest

from gradsieve.fpga.boards.registry import BOARDS
from gradsieve.fpga.toolchain.floorplan import Site, ecp5_sites, floorplan

KIND = "MULT18X18D"
GRID = {KIND: tuple(Site(f"X{x}/Y{y}/MULT18_0", x, y) for y in (10, 34) for x in range(0, 120, 5))}


def cliques(count: int, size: int) -> dict[str, Any]:
    """Blocks in groups: each pair in a group shares a lookup table, each group is tied to the next by one net."""
    cells: dict[str, Any] = {}
    bit = iter(range(2, 10_000))
    for group in range(count):
        members = [f"mult_{group}_{n}" for n in range(size)]
        for name in members:
            cells[name] = {"type": KIND, "connections": {"A0": ["0"], "P0": [], "CLK": [1]}}
        for a, b in combinations(members, 2):
            there, back = next(bit), next(bit)
            cells[a]["connections"]["P0"].append(there)
            cells[b]["connections"]["P0"].append(back)
            cells[f"lut_{a}_{b}"] = {"type": "LUT4", "connections": {"A": [there], "Z": [back], "CLK": [1]}}
    for group in range(count - 1):
        tie = next(bit)
        for name in (f"mult_{group}_0", f"mult_{group + 1}_0"):
            cells[name]["connections"]["P0"].append(tie)
    cells["pin"] = {"type": "TRELLIS_IO", "connections": {"O": [2]}}
    return cells


def test_what_is_wired_together_lies_together() -> None:
    """With every site of a real part taken."""
    groups, size = 39, 4
    sites = ecp5_sites("LFE5U-85F")[KIND]
    assert len(sites) == groups * size
    plan = floorplan(cliques(groups, size), {KIND: sites})
    assert len(plan) == len(set(plan.values())) == groups * size
    where = {site.bel: np.array((site.x, site.y)) for site in sites}
    at = [[where[plan[f"mult_{g}_{n}"]] for n in range(size)] for g in range(groups)]

    def apart(pairs: Any) -> float:
        return float(np.mean([np.abs(a - b).sum() for a, b in pairs]))

    # columns and rows; 17 today, and 29 where each block takes a site near where the slowest vibrations put it
    assert apart(pair for group in at for pair in combinations(group, 2)) < 22
    assert apart(pair for a, b in combinations(at, 2) for pair in product(a, b)) > 44


def test_equal_input_gives_equal_output() -> None:
    assert floorplan(cliques(3, 5), GRID) == floorplan(cliques(3, 5), GRID)


def test_blocks_beyond_the_sites_are_left_to_the_placer() -> None:
    few = {KIND: GRID[KIND][:4]}
    plan = floorplan(cliques(2, 3), few)
    assert len(plan) == 4
    assert set(plan.values()) == {site.bel for site in few[KIND]}


@pytest.mark.parametrize("cells", [{}, {"lut": {"type": "LUT4", "connections": {"A": [2], "Z": [3]}}}])
def test_without_blocks_there_is_nothing_to_plan(cells: dict[str, Any]) -> None:
    assert floorplan(cells, GRID) == {}


@pytest.mark.parametrize("count", [1, 2])
def test_blocks_that_nothing_is_wired_to_get_sites(count: int) -> None:
    cells = {f"mult_{n}": {"type": KIND, "connections": {"A0": ["0"]}} for n in range(count)}
    assert len(set(floorplan(cells, GRID).values())) == count


@pytest.mark.parametrize("part", sorted({b.part for b in BOARDS.values() if b.flow == "trellis"}))
def test_sites_are_those_of_the_part(part: str) -> None:
    found = ecp5_sites(part)
    assert {kind: len(places) for kind, places in found.items()} == {KIND: 156, "DP16KD": 206}
    for places in found.values():
        assert len({site.bel for site in places}) == len(places)
