"""The clock generators: any clock that a part can make is found, and none is outside its limits."""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradsieve.fpga.boards.ecp5_pll import Ecp5Pll
from gradsieve.fpga.boards.gowin_pll import OUTPUT_DIVIDERS, GowinPll
from gradsieve.fpga.boards.pll import ClockError, Pll
from gradsieve.fpga.boards.xilinx_pll import XilinxPll

MHZ = 1_000_000
INPUTS = st.sampled_from((25 * MHZ, 27 * MHZ, 48 * MHZ, 100 * MHZ))
FAMILIES: dict[type[Pll], tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    # MHz of the detector, the oscillator and the output, from the data sheets
    Ecp5Pll: ((10, 400), (400, 800), (3.125, 400)),
    GowinPll: ((3, 500), (500, 1250), (3.90625, 625)),
    XilinxPll: ((19, 450), (800, 1600), (6.25, 800)),
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def _within(mhz: Fraction, limits: tuple[float, float]) -> bool:
    return limits[0] <= mhz <= limits[1]


def _legal(pll: Pll) -> bool:
    assert isinstance(pll, Ecp5Pll | GowinPll | XilinxPll)
    detector_limits, oscillator_limits, output_limits = FAMILIES[type(pll)]
    detector = Fraction(pll.input_hz, MHZ * pll.input_divider)
    output = pll.output_hz / MHZ
    oscillator = output * pll.output_divider
    if isinstance(pll, GowinPll):
        dividers = 1 <= pll.input_divider <= 64 and 1 <= pll.multiplier <= 64 and pll.output_divider in OUTPUT_DIVIDERS
    elif isinstance(pll, Ecp5Pll):
        dividers = all(1 <= d <= 128 for d in (pll.input_divider, pll.multiplier, pll.output_divider))
    else:
        dividers = 1 <= pll.input_divider <= 56 and 2 <= pll.multiplier <= 64 and 1 <= pll.output_divider <= 128
    limits = ((detector, detector_limits), (oscillator, oscillator_limits), (output, output_limits))
    return dividers and all(_within(mhz, limit) for mhz, limit in limits)


@every_family
@settings(max_examples=30, deadline=None)
@given(input_hz=INPUTS, share=st.floats(0, 1))
def test_settings_are_legal_and_no_faster_than_asked(family: type[Pll], input_hz: int, share: float) -> None:
    target = 7 + share * (FAMILIES[family][2][1] - 7)
    pll = family.at_most(input_hz, target * MHZ)
    assert _legal(pll)
    assert pll.output_hz <= target * MHZ


@cache
def _every_legal(family: type) -> list[Pll]:
    """Settings that are legal, of a grid of them."""
    grid = (
        family(input_hz, input_divider, multiplier, output_divider)
        for input_hz in (25 * MHZ, 27 * MHZ, 48 * MHZ)
        for input_divider in range(1, 8)
        for multiplier in range(2, 65)
        for output_divider in OUTPUT_DIVIDERS
    )
    return [pll for pll in grid if _legal(pll)]


@every_family
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_clock_that_can_be_made_is_made(family: type[Pll], data: st.DataObject) -> None:
    wanted = data.draw(st.sampled_from(_every_legal(family)))
    assert isinstance(wanted, Ecp5Pll | GowinPll | XilinxPll)
    # a hertz above, as a float need not hold the fraction
    target = min(float(wanted.output_hz) + 1, FAMILIES[family][2][1] * MHZ)
    assert wanted.output_hz <= family.at_most(wanted.input_hz, target).output_hz


@every_family
@pytest.mark.parametrize("target", [0.0, -5e6, 1e6, 1e9, float("inf"), float("nan")])
def test_a_clock_out_of_reach_is_refused(family: type[Pll], target: float) -> None:
    _, _, (least, most) = FAMILIES[family]
    expected = (
        f"a clock of {target / 1e6:g} MHz cannot be made from 25 MHz: clocks of about {least:g} to {most:g} MHz can"
    )
    with pytest.raises(ClockError, match=expected):
        family.at_most(25 * MHZ, target)
