"""The cycle model against the counters of the RTL."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gradsieve.cli.bench_case import make_case
from gradsieve.fpga.device import Device
from gradsieve.golden.types import Masks
from gradsieve.golden.work import index_counts
from gradsieve.hw.config import EngineConfig, preset
from gradsieve.hw.timing import Timing
from gradsieve.training.cycles import run_cycles

Devices = Callable[[EngineConfig], Device]
Sizes = tuple[int, int, int, int]

NEAR = 0.01
"""Largest relative error where a batch tile takes hundreds of cycles, as in every real layer."""
TINY = 0.05
"""The same where it takes tens."""
SHARES = (1, 0.5, 0.2, 0.1, 0.05, 0.02, 0)
"""Of the rows that a run keeps; at 0 one of each batch tile."""

FAST = preset("tiny").model_copy(update={"name": "fast", "gate_rows_per_cycle": 4})
"""Its intervals are one cycle, so nothing depends on where in one a run starts."""
SLOW_STREAM = EngineConfig(
    name="slow_stream", R=2, C=4, max_H=8, max_I=8, max_B=8, max_T=6, gate_rows_per_cycle=4, stream_width=32
)
"""A vector takes two beats, and so does a word of statistics."""


def cycles(device: Device, sizes: Sizes, share: float, masks: Masks | None = None) -> tuple[int, int]:
    """Of a run that keeps `share` of the rows: what the model says, and what the engine counted."""
    config = device.config
    H, I, B, T = sizes
    case = make_case(config, sizes, share, seed=1)
    gradients = device.backward(case.weights, case.tape, case.sieve, masks)
    tiles = -(-I // config.R) + -(-H // config.R)
    column = masks.column if masks else None
    counts = index_counts(gradients.rows_kept, None, column, tiles)
    return run_cycles(config, H, I, B, T, counts), device.counters()["CYCLES"]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize(
    ("engine", "sizes"),
    [
        ("default", (64, 64, 16, 6)),
        ("default", (64, 64, 4, 6)),
        ("default", (64, 64, 8, 1)),
        ("default", (64, 64, 4, 1)),
        ("default", (50, 30, 10, 4)),
        ("default", (20, 64, 16, 5)),
        ("default", (16, 16, 16, 8)),
        ("default", (48, 40, 3, 12)),
        ("ptb", (200, 200, 20, 2)),
        ("ptb", (200, 200, 4, 3)),
        ("ptb", (200, 200, 4, 1)),
        ("ptb", (150, 90, 7, 3)),
        ("ptb", (96, 96, 20, 4)),
        ("edge", (64, 64, 1, 6)),
        ("edge", (40, 20, 1, 6)),
    ],
)
def test_model_is_near_the_counters_of_a_real_layer(engine: str, sizes: Sizes, share: float, devices: Devices) -> None:
    said, counted = cycles(devices(preset(engine)), sizes, share)
    assert abs(said / counted - 1) <= NEAR, (said, counted)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize(
    "sizes", [(8, 8, 6, 6), (7, 5, 1, 6), (8, 8, 3, 1), (3, 1, 6, 6), (2, 2, 2, 3), (8, 8, 1, 1), (1, 1, 1, 1)]
)
def test_model_is_near_the_counters_of_tiny_runs(sizes: Sizes, share: float, devices: Devices) -> None:
    said, counted = cycles(devices(preset("tiny")), sizes, share)
    assert abs(said / counted - 1) <= TINY, (said, counted)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        *((FAST, sizes) for sizes in ((8, 8, 6, 6), (7, 5, 1, 6), (5, 8, 6, 3), (3, 1, 6, 6), (8, 8, 1, 1))),
        *((SLOW_STREAM, sizes) for sizes in ((8, 8, 8, 6), (7, 5, 3, 5), (1, 8, 8, 4), (8, 8, 8, 1), (1, 1, 1, 1))),
    ],
    ids=lambda value: value.name if isinstance(value, EngineConfig) else None,
)
def test_no_cycle_is_unexplained_where_no_phase_is_unknown(
    config: EngineConfig, sizes: Sizes, share: float, devices: Devices
) -> None:
    said, counted = cycles(devices(config), sizes, share)
    assert said == counted


@pytest.mark.parametrize("share", [1, 0.1])
def test_masked_columns_cost_what_the_model_says(share: float, devices: Devices) -> None:
    sizes = H, I, _, T = (8, 6, 6, 6)
    tiles = H // FAST.R + I // FAST.R
    column = torch.rand(T, tiles, generator=torch.Generator().manual_seed(2)) < 0.5
    masked = cycles(devices(FAST), sizes, share, Masks(column=column))
    whole = cycles(devices(FAST), sizes, share)
    assert masked[0] == masked[1] < whole[1]


@pytest.mark.parametrize(
    ("path", "sizes"),
    [
        ("start_to_tape", (8, 8, 6, 6)),
        ("record_to_rows", (8, 8, 6, 6)),
        ("rows_to_index", (8, 8, 6, 6)),
        ("inputs_reload", (8, 8, 6, 6)),
        ("index_to_start", (8, 8, 6, 6)),
        ("index_to_row", (7, 5, 1, 6)),
        ("hidden_to_start", (7, 5, 1, 6)),
        ("start_to_record", (7, 5, 1, 6)),
        ("index_to_end", (8, 8, 1, 1)),
    ],
)
def test_a_cycle_more_on_a_path_shows(
    path: str, sizes: Sizes, devices: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparisons see single cycles: a model that is one off says more than was counted."""
    longer = Timing(FAST)
    setattr(longer, path, getattr(longer, path) + 1)
    monkeypatch.setattr("gradsieve.training.cycles._timing", lambda config: longer)
    said, counted = cycles(devices(FAST), sizes, 0.1)
    assert said > counted


def test_counts_of_other_tiles_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"counts must have shape \(T, batch_tiles, tiles\) = \(4, 4, 8\), got \(4, 4, 7\)"
    ):
        run_cycles(preset("default"), 64, 64, 16, 4, torch.zeros(4, 4, 7))
