"""Engines that nobody chose by hand: random shapes, formats and streams, every run equal to golden to the last bit."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from gradsieve.fpga.device import Device
from gradsieve.golden.backward import backward
from gradsieve.golden.random_case import MASK_KINDS, random_case
from gradsieve.golden.types import SieveMode
from gradsieve.hw.config import EngineConfig, make
from tests.conftest import session_seed
from tests.fpga.conftest import simulator

ENGINES = 6
RUNS = 7


def random_config(seed: int, index: int) -> EngineConfig:
    """Small, so that it builds in seconds; `index` makes rates and stream widths differ from engine to engine."""
    rng = random.Random(f"{seed} {index}")

    def form(fractions: tuple[int, int]) -> str:
        width = rng.randint(8, 18)
        return f"{width}.{min(width - 1, rng.randint(*fractions))}"

    return make(
        f"random engine {index} of seed {seed}",
        name=f"random_{index}",
        R=rng.randint(1, 5),
        C=rng.randint(1, 4),
        max_H=rng.randint(3, 20),
        max_I=rng.randint(1, 9),
        max_B=rng.randint(1, 9),
        max_T=rng.randint(2, 5),
        gate_rows_per_cycle=(1, 2, 4)[index % 3],
        stream_width=(32, 64, 128, 256, 512, 64)[index % 6],
        formats={
            "weight": form((3, 15)),
            "activation": form((5, 17)),
            "cell": form((2, 12)),
            "input": form((3, 15)),
            "gradient": form((2, 13)),
            "weight_grad_width": rng.randint(42, 60),
        },
    )


@pytest.mark.parametrize("index", range(ENGINES))
def test_random_engine_equals_golden(index: int, devices: Callable[[EngineConfig], Device]) -> None:
    seed = session_seed()
    config = random_config(seed, index)
    device = devices(config)
    rng = random.Random(f"{seed} {index} runs")
    for run in range(RUNS):
        mode = SieveMode((index + run) % 4)
        masks = MASK_KINDS[run % len(MASK_KINDS)]
        case = random_case(config, rng.getrandbits(32), mode=mode, masks=masks)
        simulator(device).disturb(rng.getrandbits(32), *rng.choice(((0, 0), (0.5, 0), (0, 0.5), (0.3, 0.8))))
        wrong = {k: n for k, n in device.backward(*case).differences(backward(config, *case)).items() if n}
        assert not wrong, f"seed {seed}, {config!r}, run {run}, sizes {case[1].sizes}, {case[2]}, {masks}: {wrong}"


def test_random_configs_cover_what_they_are_meant_to() -> None:
    configs = [random_config(session_seed(), n) for n in range(ENGINES)]
    assert {c.gate_rows_per_cycle for c in configs} == {1, 2, 4}
    assert {c.stream_width for c in configs} == {32, 64, 128, 256, 512}
    assert len({c.digest for c in configs}) == ENGINES
    assert ENGINES * RUNS >= 40
