"""Every preset's engine in every mode, with and without masks, equal to golden to the last bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gradsieve.fpga.device import Device
from gradsieve.golden.backward import backward
from gradsieve.golden.random_case import random_case
from gradsieve.golden.types import SieveMode
from gradsieve.hw.config import EngineConfig, preset
from tests.fpga.conftest import simulator

SIZES = {"tiny": (7, 5, 5, 6), "edge": (61, 37, 1, 9), "default": (50, 64, 13, 5), "ptb": (200, 190, 9, 3)}
"""Sizes that are multiples of neither R nor C, near the largest."""


@pytest.mark.parametrize("name", SIZES)
def test_preset_equals_golden(name: str, devices: Callable[[EngineConfig], Device]) -> None:
    config = preset(name)
    device = devices(config)
    simulator(device).disturb(0, 0, 0)
    for seed, mode in enumerate(SieveMode):
        for extreme in (False, True):
            masks = "sparse" if extreme else "none"
            case = random_case(config, seed, sizes=SIZES[name], mode=mode, masks=masks, extreme=extreme)
            wrong = {k: n for k, n in device.backward(*case).differences(backward(config, *case)).items() if n}
            assert not wrong, f"{mode.name}, extreme {extreme}: {wrong}"
