"""Schedules of a sieve over a training."""

from __future__ import annotations

from typing import Any

import pytest

from gradsieve.training.methods.schedules import MixedTraining
from gradsieve.training.methods.sieves import (
    DenseSieve,
    ElementSieve,
    RowSieve,
    SieveError,
    StochasticSieve,
)

SIEVE = RowSieve(tau=0.5)


def dense_steps(schedule: MixedTraining, more: int = 0) -> list[int]:
    for step in range(schedule.steps + more):
        assert schedule.at(step) in (DenseSieve(), schedule.sieve)
    return [step for step in range(schedule.steps + more) if schedule.at(step).dense]


def test_without_settings_every_step_is_sieved() -> None:
    assert dense_steps(MixedTraining(SIEVE, 10)) == []


def test_each_kind_of_dense_step() -> None:
    assert dense_steps(MixedTraining(SIEVE, 10, warm_up=3)) == [0, 1, 2]
    assert dense_steps(MixedTraining(SIEVE, 10, warm_up=12)) == list(range(10))
    assert dense_steps(MixedTraining(SIEVE, 10, dense_every=4)) == [3, 7]
    assert dense_steps(MixedTraining(SIEVE, 10, dense_every=2)) == [1, 3, 5, 7, 9]
    assert dense_steps(MixedTraining(SIEVE, 10, dense_tail=0.2)) == [8, 9]
    assert dense_steps(MixedTraining(SIEVE, 10, dense_tail=1.0)) == list(range(10))
    assert dense_steps(MixedTraining(SIEVE, 10, dense_tail=0.2), more=5) == [8, 9, 10, 11, 12, 13, 14]


def test_they_combine() -> None:
    assert dense_steps(MixedTraining(SIEVE, 20, warm_up=2, dense_every=5, dense_tail=0.1)) == [0, 1, 4, 9, 14, 18, 19]


@pytest.mark.parametrize("steps", [10, 100, 1000])
def test_the_tail_has_its_share_of_the_steps_in_spite_of_rounding(steps: int) -> None:
    for percent in range(0, 101, 10):
        dense = dense_steps(MixedTraining(SIEVE, steps, dense_tail=percent / 100))
        assert len(dense) == steps * percent // 100 and dense == list(range(steps - len(dense), steps))


def test_targets_are_linear_between_points() -> None:
    for method in (StochasticSieve, RowSieve, ElementSieve):
        schedule = MixedTraining(method(target=1.0), 100, targets=((0.2, 0.8), (0.6, 0.2)))
        found = {step: schedule.at(step).target for step in (0, 10, 20, 30, 40, 50, 60, 80, 99)}
        expected = {0: 0.8, 10: 0.8, 20: 0.8, 30: 0.65, 40: 0.5, 50: 0.35, 60: 0.2, 80: 0.2, 99: 0.2}
        assert found == pytest.approx(expected)
        assert all(type(schedule.at(step)) is method for step in found)
    one = MixedTraining(StochasticSieve(target=0.5), 10, targets=((0.5, 0.25),))
    assert {one.at(step).target for step in range(10)} == {0.25}


def test_targets_and_dense_steps_combine() -> None:
    schedule = MixedTraining(
        StochasticSieve(target=0.5), 10, warm_up=1, dense_every=3, targets=((0.0, 0.5), (1.0, 0.1))
    )
    kinds = [schedule.at(step).target for step in range(6)]
    assert kinds == [None, pytest.approx(0.46), None, pytest.approx(0.38), pytest.approx(0.34), None]


def test_a_dense_sieve_stays_dense() -> None:
    schedule = MixedTraining(DenseSieve(), 10, targets=((0.0, 0.5),))
    assert all(schedule.at(step) == DenseSieve() for step in range(10))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"warm_up": -1}, "warm_up must .*, got -1"),
        ({"dense_every": 1}, "dense_every must .*, got 1"),
        ({"dense_every": -2}, "dense_every must .*, got -2"),
        ({"dense_tail": -0.1}, r"dense_tail must .*, got -0\.1"),
        ({"dense_tail": 1.5}, r"dense_tail must .*, got 1\.5"),
        ({"dense_tail": float("nan")}, "dense_tail must .*, got nan"),
        ({"targets": ((0.0, 0.5),)}, r"targets must be empty with a fixed tau = 0\.5, got \("),
        ({"sieve": StochasticSieve(target=0.5), "targets": ((0.5, 0.5), (0.2, 0.1))}, "ascending points"),
        ({"sieve": StochasticSieve(target=0.5), "targets": ((0.5, 0.5), (0.5, 0.1))}, "ascending points"),
        (
            {"sieve": StochasticSieve(target=0.5), "targets": ((0.5, 0.5), (1.2, 0.1))},
            "ascending points of progress from 0 to 1, got ",
        ),
        (
            {"sieve": StochasticSieve(target=0.5), "targets": ((-0.5, 0.5),)},
            "ascending points of progress from 0 to 1, got ",
        ),
        (
            {"sieve": StochasticSieve(target=0.5), "targets": ((0.5, 0.0),)},
            r"targets must have shares greater than 0 and at most 1, got 0\.0",
        ),
        ({"sieve": StochasticSieve(target=0.5), "targets": ((0.5, 1.5),)}, r"targets must .*, got 1\.5"),
        (
            {"sieve": StochasticSieve(target=0.5), "targets": ((float("nan"), 0.5),)},
            "ascending points of progress from 0 to 1, got ",
        ),
    ],
    ids=str,
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    made: dict[str, Any] = {"sieve": SIEVE, "steps": 10} | settings
    with pytest.raises(SieveError, match=message):
        MixedTraining(**made)
