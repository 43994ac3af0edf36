"""The forward pass's sigmoid and tanh, as exact functions of integers (docs/arithmetic.md, "The functions S and T")."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from gradsieve.golden.arithmetic import requantize
from gradsieve.hw.formats import FixedPoint

SEGMENTS = 512
"""Segments of a table, which has a node more."""

SIGMOID_STEPS, TANH_STEPS = 5, 6
"""Nodes a unit of the argument, as a power of two: the tables reach from 0 to 16, and to 8."""


def sigmoid(value: Tensor, argument: FixedPoint, result: FixedPoint) -> Tensor:
    """S of integers in the format `argument`, int64 of any shape: integers in the format `result`."""
    table = _table("sigmoid", result)
    upper = _interpolate(value, argument, table, SIGMOID_STEPS, result)
    return torch.where(value < 0, result.scale - upper, upper)


def tanh(value: Tensor, argument: FixedPoint, result: FixedPoint) -> Tensor:
    """T of integers in the format `argument`, int64 of any shape: integers in the format `result`."""
    upper = _interpolate(value, argument, _table("tanh", result), TANH_STEPS, result)
    return torch.where(value < 0, -upper, upper)


@cache
def _table(name: str, result: FixedPoint) -> Tensor:
    """The function at the nodes, rounded half to even, at most the format's maximum.

    float64 makes the same table everywhere: no node but the first lies within 4e-5 LSB of a tie, in any format.
    """
    nodes = torch.arange(SEGMENTS + 1, dtype=torch.float64)
    values = torch.sigmoid(nodes / 2**SIGMOID_STEPS) if name == "sigmoid" else torch.tanh(nodes / 2**TANH_STEPS)
    return torch.round(values * result.scale).clamp(max=result.maximum).long()


def _interpolate(value: Tensor, argument: FixedPoint, table: Tensor, steps: int, result: FixedPoint) -> Tensor:
    """The table at |value|, between its nodes on a straight line, and past the last node that node."""
    magnitude = value.abs().clamp(max=argument.maximum)
    fine = argument.fraction - steps  # bits of the argument below a node's
    if fine < 0:
        node, rest, fine = magnitude << -fine, torch.zeros_like(magnitude), 0
    else:
        node, rest = magnitude >> fine, magnitude & (1 << fine) - 1
    rest = torch.where(node < SEGMENTS, rest, 0)
    node = node.clamp(max=SEGMENTS)
    first, second = table[node], table[(node + 1).clamp(max=SEGMENTS)]
    between, _ = requantize((first << fine) + (second - first) * rest, result.fraction + fine, result)
    return between
