"""The wording of error messages: "X must be Y, got Z", each on one line."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    p for d in ("hw", "golden", "rtl_gen", "tb", "fpga", "training", "gradsieve/cli") for p in (ROOT / d).rglob("*.py")
)
TURNED = re.compile(r"\b(?:not|is|are) accepted\b")
"""What is accepted comes first, what was given last: not "X = V is not accepted: Y is"."""


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of every string but docstrings; what an f-string fills in reads {}."""
    inner = {id(part) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for part in n.values}
    bare = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner | bare:
            yield node.lineno, node.value


def turned(tree: ast.AST) -> list[str]:
    """Strings in the old form."""
    return [f"{line}: {text}" for line, text in sorted(texts(tree)) if TURNED.search(text)]


def broken(tree: ast.AST) -> list[str]:
    """Raised messages of more than one line."""
    raised = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc is not None]
    return [f"{line}: {text}" for exc in raised for line, text in texts(exc) if "\n" in text]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_messages_say_what_a_value_must_be(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not turned(tree)
    assert not broken(tree)


def test_what_the_scan_finds() -> None:
    bad = '''
def f(x):
    """A docstring may say that x is not accepted."""
    if x:
        raise ValueError(f"x = {x} is not "
                         f"accepted: 1 is")
    return "such as /dev/ttyUSB0 is accepted"
def g(log):
    raise RuntimeError(f"failed:\\n{log}")
'''
    tree = ast.parse(bad)
    assert turned(tree) == ["5: x = {} is not accepted: 1 is", "7: such as /dev/ttyUSB0 is accepted"]
    assert broken(tree) == ["9: failed:\n{}"]
