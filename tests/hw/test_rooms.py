"""The rooms of hw/: who may import whom, and how many files are in one."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

HW = Path(__file__).parents[2] / "hw"
ROOMS = {
    "lib": {"cells"},  # which library a platform has is asked there
    "cells": set(),
    "gates": {"lib"},
    "array": {"lib"},
    "host": {"lib", "gates", "array"},
}
"""A room, and the rooms it may import beside itself and the files at the top of hw/."""
MOST_FILES = 15


def imports(path: Path) -> set[str]:
    """Modules of hw that a file imports when it runs, as `room.module` or `module`."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:  # not under TYPE_CHECKING, and not in functions
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("gradsieve."):
            module = node.module.removeprefix("gradsieve.")
            found |= {f"hw.{alias.name}" for alias in node.names} if module == "hw" else {module}
    return found


def modules() -> dict[str, set[str]]:
    """Every module below hw/ and what it imports."""
    found = {}
    for path in HW.rglob("*.py"):
        name = ".".join(("hw", *path.relative_to(HW).with_suffix("").parts))
        found[name.removesuffix(".__init__")] = imports(path)
    return found


def test_hw_imports_nothing_else_of_the_project() -> None:
    assert {m for used in modules().values() for m in used if not m.startswith("hw.")} == set()


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_one_way(room: str) -> None:
    allowed = {room, *ROOMS[room]}
    for name, used in modules().items():
        if name.startswith(f"hw.{room}."):
            rooms = {m.split(".")[1] for m in used if m.count(".") > 1 or m.split(".")[1] in ROOMS}
            assert rooms <= allowed, name


def test_no_file_imports_in_a_circle() -> None:
    list(TopologicalSorter(modules()).static_order())  # raises CycleError


def test_rooms_are_small() -> None:
    counts = {room: len(list((HW / room).glob("*.py"))) - 1 for room in ROOMS}
    assert set(ROOMS) == {p.name for p in HW.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert max(counts.values()) <= MOST_FILES, counts
