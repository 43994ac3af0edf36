"""The functions S and T: their tables, how far they are from sigmoid and tanh, and what holds of them everywhere."""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal

import pytest
import torch

from gradsieve.golden.activation import SEGMENTS, sigmoid, tanh
from gradsieve.hw.formats import FixedPoint
from tests.golden.forward_contract import exact, function, node

Z, ACTIVATION = FixedPoint(width=16, fraction=11), FixedPoint(width=16, fraction=15)
FUNCTIONS = {"S": sigmoid, "T": tanh}
STEPS = {"S": 5, "T": 6}


def arguments(form: FixedPoint) -> torch.Tensor:
    """Every integer of a format."""
    return torch.arange(form.minimum, form.maximum + 1)


@pytest.mark.parametrize(("name", "stated"), [("S", 1.2098), ("T", 1.5458)])
def test_largest_error_over_all_arguments_is_the_one_that_is_documented(name: str, stated: float) -> None:
    values = arguments(Z)
    ideal = {"S": torch.sigmoid, "T": torch.tanh}[name](values.double() / Z.scale) * ACTIVATION.scale
    error = (FUNCTIONS[name](values, Z, ACTIVATION) - ideal).abs().max().item()
    assert round(error, 4) == stated


@pytest.mark.parametrize(
    ("argument", "result"),
    [
        ("16.11", "16.15"),
        ("16.11", "16.14"),  # 1.0 is exact
        ("18.17", "18.17"),  # the argument is below 1
        ("18.4", "18.16"),  # coarser than the nodes
        ("10.5", "6.5"),  # as fine as the nodes of S
        ("8.0", "4.0"),
        ("5.4", "12.3"),
    ],
)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_equals_the_scalar_functions_at_every_argument(name: str, argument: str, result: str) -> None:
    source, target = FixedPoint.model_validate(argument), FixedPoint.model_validate(result)
    values = arguments(source)
    found = FUNCTIONS[name](values, source, target)
    assert found.tolist() == [function(name, v, source, target) for v in values.tolist()]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_node_is_near_a_tie(name: str) -> None:
    """Not within 4e-5 of the last bit, a million times float64's error: so all machines make the same tables."""
    for fraction in range(18):
        for n in range(1, SEGMENTS + 1):
            scaled = exact(name, Decimal(n) / 2 ** STEPS[name]) * 2**fraction
            rest = scaled - scaled.to_integral_value(rounding=ROUND_FLOOR)
            assert abs(rest - Decimal("0.5")) > Decimal("4e-5"), (fraction, n)


@pytest.mark.parametrize(("name", "one"), [("S", 1), ("T", 0)])
def test_rises_and_is_symmetric(name: str, one: int) -> None:
    values = arguments(Z)
    found = FUNCTIONS[name](values, Z, ACTIVATION)
    assert (found.diff() >= 0).all()
    assert (found[1:] + found[1:].flip(0) == one * ACTIVATION.scale).all()
    assert found[0] == found[1]  # the most negative argument counts as the one after it


def test_past_the_last_node() -> None:
    form = FixedPoint(width=18, fraction=8)  # reaches 512
    for name in FUNCTIONS:
        last = node(name, SEGMENTS, ACTIVATION)
        assert last == ACTIVATION.maximum
        assert FUNCTIONS[name](torch.tensor([form.maximum]), form, ACTIVATION).item() == last
    wide = FixedPoint(width=16, fraction=14)
    assert sigmoid(torch.tensor([form.minimum, form.maximum]), form, wide).tolist() == [0, 1 << 14]
    assert tanh(torch.tensor([form.minimum, form.maximum]), form, wide).tolist() == [-1 << 14, 1 << 14]
