"""The scoreboard: every comparison of a bench, with ==, counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SHOWN = 5
"""Mismatches that a failing test quotes."""


class Scoreboard:
    """Counts comparisons and mismatches, and keeps the first few mismatches for the message of `verdict`."""

    def __init__(self) -> None:
        self.comparisons = 0
        self.mismatches = 0
        self.examples: list[str] = []

    def equal(self, what: str, actual: Any, expected: Any) -> bool:
        """Count one comparison; a difference is kept for the verdict, and the test goes on."""
        self.comparisons += 1
        if actual == expected:
            return True
        self._mismatch(f"{what}: is {_show(actual)}, should be {_show(expected)}")
        return False

    def sequence(self, what: str, actual: Sequence[Any], expected: Sequence[Any]) -> None:
        """Compare item by item; a wrong length is a mismatch of its own."""
        self.equal(f"length of {what}", len(actual), len(expected))
        for n, (a, e) in enumerate(zip(actual, expected, strict=False)):
            self.equal(f"{what}[{n}]", a, e)

    def tensors(self, what: str, actual: Any, expected: Any) -> None:
        """Compare two integer tensors element by element; a wrong shape counts as all of them."""
        self.comparisons += expected.numel()
        if actual.shape != expected.shape:
            self._mismatch(f"{what}: shape {tuple(actual.shape)}, should be {tuple(expected.shape)}", expected.numel())
            return
        wrong = (actual.long() != expected.long()).nonzero()
        if len(wrong):
            at = tuple(wrong[0].tolist())
            message = f"{what}{list(at)}: is {int(actual[at])}, should be {int(expected[at])}"
            self._mismatch(f"{message} ({len(wrong)} of {expected.numel()} differ)", len(wrong))

    def _mismatch(self, text: str, count: int = 1) -> None:
        self.mismatches += max(count, 1)
        if len(self.examples) < SHOWN:
            self.examples.append(text)

    def verdict(self) -> None:
        """Raise AssertionError if anything differed, or if nothing was compared."""
        assert self.comparisons > 0, "this test compares nothing"
        assert self.mismatches == 0, f"{self.mismatches} of {self.comparisons} differ: " + "; ".join(self.examples)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:297]}..."
