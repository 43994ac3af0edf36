"""The cycle model against the counters of the RTL."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gradsieve.cli.bench_case import make_case
from gradsieve.fpga.device import Device
from gradsieve.golden.work import index_counts
from gradsieve.hw.config import EngineConfig, preset
from gradsieve.training.cycles import run_cycles

Devices = Callable[[EngineConfig], Device]

NEAR = 0.02
"""Largest relative error where a batch tile takes hundreds of cycles, as in every real layer."""
FAR = 0.08
"""The same where it takes tens, and latencies that the model leaves out count."""


def error(device: Device, sizes: tuple[int, int, int, int], share: float) -> float:
    """Relative error of the model for a run that keeps `share` of the rows."""
    config = device.config
    H, I, B, T = sizes
    case = make_case(config, sizes, share, seed=1)
    gradients = device.backward(case.weights, case.tape, case.sieve)
    counted = device.counters()["CYCLES"]
    tiles = -(-I // config.R) + -(-H // config.R)
    return run_cycles(config, H, I, B, T, index_counts(gradients.rows_kept, None, None, tiles)) / counted - 1


@pytest.mark.parametrize("share", [1, 0.3, 0.2, 0.1, 0.02])
@pytest.mark.parametrize("sizes", [(64, 64, 16, 6), (64, 64, 4, 6), (50, 30, 10, 4)])
def test_model_is_near_the_counters_of_a_real_layer(
    sizes: tuple[int, int, int, int], share: float, devices: Devices
) -> None:
    assert abs(error(devices(preset("default")), sizes, share)) <= NEAR


@pytest.mark.parametrize("share", [1, 0.2, 0.05])
@pytest.mark.parametrize("sizes", [(8, 8, 6, 6), (7, 5, 1, 6), (8, 8, 3, 1)])
def test_model_of_tiny_runs_leaves_only_latencies_out(
    sizes: tuple[int, int, int, int], share: float, devices: Devices
) -> None:
    # Beyond the array's work, latencies only add: the model may be below the counters, never far above.
    assert -FAR <= error(devices(preset("tiny")), sizes, share) <= NEAR


def test_masked_columns_cost_no_gradient_tile() -> None:
    config = preset("default")
    counts = torch.full((4, 4, 8), 256)
    half = counts.clone()
    half[:, :, ::2] = 0
    whole, masked = (run_cycles(config, 64, 64, 16, 4, c) for c in (counts, half))
    # dx and dh_rec of a dropped tile still take R cycles, to write zeros.
    assert whole - masked == 4 * 4 * 4 * (2 * 256 - config.R)


def test_counts_of_other_tiles_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"counts must have shape \(T, batch_tiles, tiles\) = \(4, 4, 8\), got \(4, 4, 7\)"
    ):
        run_cycles(preset("default"), 64, 64, 16, 4, torch.zeros(4, 4, 7))
