"""The automatic loss scale of the integer backends."""

from __future__ import annotations

import math

import pytest

from gradsieve.golden.types import Saturations
from gradsieve.hw.formats import FixedPoint
from gradsieve.training.loss_scale import FORGET, HEADROOM, MOST_HEADROOM, RELAX, LossScale

FORM = FixedPoint(width=16, fraction=12)
LIMIT = 32767 / 4096
CLEAN = Saturations()
GRADIENTS = [1.0, 0.75, 1e-3, 7.3e-9, 1e4, 123.456, LIMIT, LIMIT / 4, 2.0**-20, math.nextafter(LIMIT / 2, 0)]


@pytest.mark.parametrize("largest", GRADIENTS)
def test_the_largest_power_of_two_that_leaves_the_headroom(largest: float) -> None:
    scale = LossScale().choose(FORM, largest)
    mantissa, _ = math.frexp(scale)
    assert mantissa == 0.5  # a power of two
    room = LIMIT / 2**HEADROOM
    assert scale * largest <= room * (1 + 1e-12) < 2 * scale * largest * (1 + 1e-9)


@pytest.mark.parametrize("largest", [5e-324, 1e-310, 1e-300, 1e300, 1.7e308])
def test_extreme_gradients_get_a_finite_scale(largest: float) -> None:
    scale = LossScale().choose(FORM, largest)
    assert 0 < scale < math.inf and math.frexp(scale)[0] == 0.5


def test_other_formats() -> None:
    for width, fraction in ((8, 6), (16, 6), (24, 20)):
        form = FixedPoint(width=width, fraction=fraction)
        scale = LossScale().choose(form, 0.1)
        limit = (2 ** (width - 1) - 1) / 2**fraction
        assert limit / 8 < scale * 0.1 <= limit / 4


def test_no_gradient_yet() -> None:
    scale = LossScale()
    assert scale.choose(FORM, 0.0) == 1.0
    scale.observe(0.0, CLEAN)
    assert scale.choose(FORM, 0.0) == 1.0
    assert scale.choose(FORM, 1.0) == LossScale().choose(FORM, 1.0)


def test_remembers_the_largest_and_forgets_it_slowly() -> None:
    scale = LossScale()
    small, large = (LossScale().choose(FORM, v) for v in (1e-3, 0.9))
    scale.observe(0.9, CLEAN)
    assert scale.choose(FORM, 1e-3) == large  # one small pass does not move it
    scales = []
    for _ in range(600):
        scale.observe(1e-3, CLEAN)
        scales.append(scale.choose(FORM, 1e-3))
    assert scales == sorted(scales) and scales[-1] == small
    # A factor of 1000 at FORGET a pass.
    assert abs(scales.index(small) - math.log(small / large) / -math.log(FORGET)) < math.log(2) / -math.log(FORGET) + 2
    assert scale.choose(FORM, 0.9) == large  # a large one counts in its own pass


def test_choosing_learns_nothing() -> None:
    scale = LossScale()
    before = scale.state_dict()
    scale.choose(FORM, 3.0)
    assert scale.state_dict() == before


def test_many_passes_without_gradients_are_survived() -> None:
    scale = LossScale()
    scale.observe(1.0, CLEAN)
    for _ in range(40000):
        scale.observe(0.0, CLEAN)
    assert 0 < scale.choose(FORM, 0.0) < math.inf
    assert scale.choose(FORM, 1.0) == LossScale().choose(FORM, 1.0)


@pytest.mark.parametrize("kind", ["gate", "sieve", "error"])
def test_saturations_add_headroom_and_quiet_passes_give_it_back(kind: str) -> None:
    scale, first = LossScale(), LossScale().choose(FORM, 1.0)
    for n in range(1, MOST_HEADROOM + 5):
        scale.observe(1.0, Saturations(**{kind: 1}))
        assert scale.choose(FORM, 1.0) == first / 2 ** min(n, MOST_HEADROOM - HEADROOM)
    for n in range(1, MOST_HEADROOM + 3):
        for _ in range(RELAX):
            lowest = scale.choose(FORM, 1.0)
            scale.observe(1.0, CLEAN)
        assert lowest == first / 2 ** max(0, MOST_HEADROOM - HEADROOM - n + 1)
        assert scale.choose(FORM, 1.0) == first / 2 ** max(0, MOST_HEADROOM - HEADROOM - n)


def test_a_saturation_begins_the_count_anew_and_factors_do_not_count() -> None:
    scale = LossScale()
    scale.observe(1.0, Saturations(gate=3))
    for _ in range(RELAX - 1):
        scale.observe(1.0, Saturations(factor=7))
    assert scale.headroom == HEADROOM + 1
    scale.observe(1.0, Saturations(error=1))
    assert scale.headroom == HEADROOM + 2
    for _ in range(RELAX - 1):
        scale.observe(1.0, CLEAN)
    assert scale.headroom == HEADROOM + 2
    scale.observe(1.0, CLEAN)
    assert scale.headroom == HEADROOM + 1


def test_state_resumes() -> None:
    scale, resumed = LossScale(), LossScale()
    scale.observe(2.0, Saturations(gate=1))
    scale.observe(0.5, CLEAN)
    resumed.load_state_dict(scale.state_dict())
    for largest in (0.1, 5.0, 0.2):
        assert scale.choose(FORM, largest) == resumed.choose(FORM, largest)
        for one in (scale, resumed):
            one.observe(largest, CLEAN)
    assert scale == resumed
