"""What is built of whole engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradsieve.fpga import bitstream
from gradsieve.fpga.boards.registry import board
from gradsieve.fpga.toolchain.build import build
from gradsieve.hw.config import preset


def test_bitstream_of_an_engine(tmp_path: Path) -> None:
    report = build(board("ulx3s"), preset("tiny"), output=tmp_path, seeds=(1,), clock_mhz=25)
    assert report.bitstream is not None
    assert bitstream.read(report.bitstream).digest_checked
    config = preset("tiny")
    assert report.resources["multipliers"].used == config.multipliers + 1  # the controller's, for batch times steps
    assert report.array_luts > 0
    assert report.path is not None


@pytest.mark.heavy
def test_project_for_vivado(tmp_path: Path) -> None:
    report = build(board("arty_a7"), preset("tiny"), output=tmp_path)
    assert report.bitstream is None
    assert not report.seeds
    assert report.as_json()["place_and_route"] == "not run"
    assert report.array_luts > 0
    assert report.resources["multipliers"].used == preset("tiny").multipliers
    project = (tmp_path / "arty_a7_tiny.tcl").read_text()
    for suffix in (".v", ".xdc"):
        assert f"arty_a7_tiny{suffix}\n" in project
        assert (tmp_path / f"arty_a7_tiny{suffix}").stat().st_size > 0
