"""Idioms that a fast clock asks for, each with its reason (docs/timing.md)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import Any

from amaranth.hdl import Value


def gated(value: Value, enable: Value) -> Value:
    """`value` while `enable`, else 0.

    Of a choice, `Mux(enable, value, 0)`, Yosys makes the synchronous reset of the register that takes it, and a reset
    that comes late in the cycle is slower than a gate, as it has to reach all bits of the register from one driver.
    """
    return value & enable.replicate(len(value))


def one_hot_choice(choices: Iterable[tuple[Value, Value]]) -> Value:
    """The value whose enable is high, of (enable, value) of which at most one is; 0 if none is.

    A gate and a tree of ORs; a chain of choices would know an order that nobody needs, and wait for it.
    """
    return reduce(or_, (gated(value, enable) for enable, value in choices))


def unshared(number: int) -> dict[str, Any]:
    """Attributes of a register that begins as anything, so that up to four copies of it stay apart.

    Synthesis merges registers that always hold the same; one in place of many is far from most of its users.  What
    differs in its initial value or in having a reset is not the same.
    """
    return {"init": number % 2, "reset_less": number % 4 > 1}
