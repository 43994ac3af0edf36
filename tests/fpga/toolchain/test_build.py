"""Bitstreams, made for real, of a core that is small enough for the tools to be quick."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gradsieve.fpga import bitstream
from gradsieve.fpga.boards import top
from gradsieve.fpga.boards.registry import board
from gradsieve.fpga.toolchain import build as module
from gradsieve.fpga.toolchain.build import BuildError, build
from gradsieve.fpga.toolchain.report import BuildReport
from gradsieve.hw.config import preset
from gradsieve.rtl_gen.tools import run
from tests.fpga.small_core import SmallCore

ULX3S = board("ulx3s")
CLOCK = 80


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for the outputs, and beside it the caches, while the core is the small one."""
    root = tmp_path_factory.mktemp("bitstreams")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(top, "BoardCore", SmallCore)
        patch.setenv("GRADSIEVE_BUILD", str(root / "cache"))
        yield root


@pytest.fixture(scope="module")
def report(folder: Path) -> BuildReport:
    """The report of the first build."""
    stages: list[str] = []
    made = build(
        ULX3S,
        preset("tiny"),
        clock_mhz=CLOCK,
        output=folder / "a",
        seeds=(1,),
        progress=lambda s, detail: stages.append(s),
    )
    assert list(dict.fromkeys(stages)) == ["generating the design", "synthesis", "floorplan", "seed 1", "packing"]
    return made


def test_bitstream_and_report_are_those_of_the_board(folder: Path, report: BuildReport) -> None:
    assert report.bitstream == folder / "a" / "ulx3s_tiny.bit"
    image = bitstream.read(report.bitstream)
    assert image.part.name == ULX3S.part
    assert image.digest_checked
    values = json.loads((folder / "a" / "ulx3s_tiny.json").read_text())
    assert values == json.loads(json.dumps(report.as_json()))
    assert values["sha256"] == hashlib.sha256(report.bitstream.read_bytes()).hexdigest()
    assert values["clock_mhz"] == CLOCK
    # the counter and the synchronisers of the small core
    assert 8 <= values["resources"]["flip_flops"]["used"] <= 20
    assert values["resources"]["multipliers"] == {
        "title": "multipliers (MULT18X18D)",
        "used": 0,
        "available": 156,
        "left": 156,
    }
    assert values["fmax_mhz"]["best"] > CLOCK
    (log,) = (folder / "cache" / "bitstreams" / "routed").glob("*/nextpnr.log")
    # the goal of placement is above the clock
    assert re.search(r"Max frequency for clock .*: [\d.]+ MHz \(PASS at 88.00 MHz\)", log.read_text())
    assert values["critical_path"]["words"].startswith("from ")
    assert (folder / "a" / "ulx3s_tiny.svf").stat().st_size > 0


def test_same_input_gives_the_same_bytes_in_another_place(folder: Path, report: BuildReport) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADSIEVE_BUILD", str(folder / "other" / "cache"))
        again = build(ULX3S, preset("tiny"), clock_mhz=CLOCK, output=folder / "b", seeds=(1,))
    assert again.sha256 == report.sha256


def test_unpacked_and_packed_again_it_is_the_same(folder: Path, report: BuildReport) -> None:
    assert report.bitstream is not None
    work = folder / "unpacked"
    work.mkdir()
    (work / "top.bit").write_bytes(report.bitstream.read_bytes())
    run(["yowasp-ecpunpack", "top.bit", "top.config"], work, "log")
    run(["yowasp-ecppack", "--compress", "top.config", "again.bit"], work, "log")
    assert (work / "again.bit").read_bytes() == report.bitstream.read_bytes()


def test_stages_that_were_done_are_not_done_again(
    folder: Path, report: BuildReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_tool(*arguments: object) -> None:
        raise AssertionError("a tool was run")

    monkeypatch.setattr(module, "run", no_tool)
    assert build(ULX3S, preset("tiny"), clock_mhz=CLOCK, output=folder / "c", seeds=(1,)).sha256 == report.sha256
    with pytest.raises(AssertionError):
        build(ULX3S, preset("tiny"), clock_mhz=CLOCK, output=folder / "c", seeds=(1, 2))


def test_a_bitstream_that_is_too_slow_is_not_written(
    folder: Path, report: BuildReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        build(ULX3S, preset("tiny"), clock_mhz=CLOCK, output=folder / "d", seeds=(1,)).bitstream
        == folder / "d" / "ulx3s_tiny.bit"
    )
    monkeypatch.setattr(module, "_fmax", lambda report: {"clk": 79.2})
    slow = build(ULX3S, preset("tiny"), clock_mhz=CLOCK, output=folder / "d", seeds=(1,))
    assert slow.bitstream is slow.sha256 is None
    assert slow.refusal == (
        "the best seed reached a routed Fmax of 79.2 MHz, 1 % less than the clock of 80 MHz: "
        "--clock 71.88 should do; more seeds may help"
    )
    assert [path.name for path in (folder / "d").iterdir()] == ["ulx3s_tiny.json"]


def test_no_seed_that_can_be_routed_is_an_error(folder: Path, report: BuildReport) -> None:
    with pytest.raises(BuildError, match=r"tiny could not be placed and routed on ulx3s with any of 1 seeds \(.*nonse"):
        build(ULX3S, preset("tiny"), clock_mhz=CLOCK, output=folder / "e", seeds=(1,), place_options=("--nonsense",))


def test_output_that_cannot_be_made_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BuildError, match="file/out: cannot be made a directory"):
        build(ULX3S, preset("tiny"), clock_mhz=CLOCK, output=tmp_path / "file" / "out")


@pytest.mark.heavy
def test_bitstream_of_a_gowin_part(folder: Path) -> None:
    tang = board("tang_primer_20k")
    report = build(tang, output=folder / "gowin", seeds=(1,))
    assert report.bitstream is not None
    image = bitstream.read(report.bitstream)
    assert image.part.name == tang.part
    assert image.digest_checked
    assert report.fmax_mhz["best"] > tang.clock_mhz
    assert 8 <= report.resources["flip_flops"].used <= 20
    assert report.path is not None
