"""Simulated devices, built once a session and shared: the build cache makes that true across workers too."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from gradsieve.fpga.device import Device, simulated
from gradsieve.fpga.simulator import Simulator
from gradsieve.hw.config import EngineConfig

QUIET_CYCLES = 50_000
"""A small engine that moves no beat for so long hangs."""


def simulator(device: Device) -> Simulator:
    """The transport of a simulated device."""
    assert isinstance(device.transport, Simulator)
    return device.transport


@pytest.fixture(scope="session")
def devices() -> Iterator[Callable[[EngineConfig], Device]]:
    """A function that gives the session's device of a config."""
    made: dict[str, Device] = {}

    def get(config: EngineConfig) -> Device:
        if config.digest not in made:
            made[config.digest] = simulated(config)
            simulator(made[config.digest]).quiet_cycles = QUIET_CYCLES
        return made[config.digest]

    yield get
    for device in made.values():
        device.close()
