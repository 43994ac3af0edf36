"""`gradsieve deploy`: the check through a virtual board, and loading through an emulated cable."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gradsieve.fpga.check
from gradsieve.cli.application import main
from gradsieve.fpga.parts import part_named
from gradsieve.golden.backward import backward
from gradsieve.golden.types import Gradients
from tests.fpga.loading import ecp5_bitstream, loader_environment
from tests.fpga.virtual import CONFIG, BoardProcess
from tests.fpga.xvc import Ecp5, XvcServer

SMALL = (3, 2, 2, 2)
ECP5_85 = part_named("LFE5U-85F").code


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with BoardProcess(tmp_path_factory.mktemp("board") / "port") as board:
        yield str(board.link)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deploy")


@pytest.fixture(scope="module")
def bit(folder: Path) -> Path:
    return ecp5_bitstream(folder / "top.bit", "LFE5U-85F")


@pytest.fixture
def cable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Ecp5, str]]:
    """An emulated board on an emulated cable, and the arguments that name it."""
    monkeypatch.setenv("LD_LIBRARY_PATH", loader_environment(folder).get("LD_LIBRARY_PATH", ""))
    board = Ecp5(ECP5_85)
    with XvcServer(board) as server:
        yield board, shlex.join(server.cable)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert out == "" and len(errors) == 1 and err.splitlines()[-1] == errors[0]
    return errors[0]


def test_the_check_compares_every_mode_and_splits_the_time(
    port: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.json"
    assert main(["deploy", "--preset", "tiny", "--port", port, "--check", "--seed", "5", "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert f"{port} holds the engine tiny (digest {CONFIG.digest})" in out and "…" not in out
    result = json.loads(file.read_text())["check"]
    assert result["digest"] == CONFIG.digest and result["port"] == port
    assert [m["mode"] for m in result["modes"]] == ["dense", "element", "row", "stochastic"]
    for m in result["modes"]:
        H, I, B, T = m["sizes"]
        assert (H, I, B, T) == (8, 8, 6, 4)
        assert m["mismatches"] == 0 and m["differences"] == {}
        assert m["values"] > T * B * I + 2 * B * H + 4 * H * (I + H + 1)
        # the weights alone, the weight gradients alone
        assert m["bytes_sent"] > 2 * 4 * H * (I + H) and m["bytes_received"] > 6 * 4 * H * (I + H)
        parts = [m["transfer_seconds"], m["compute_seconds"], m["other_seconds"]]
        assert sum(parts) == pytest.approx(m["seconds"]) and min(parts) >= 0
        assert min(m["transfer_seconds"], m["compute_seconds"]) > 0
        assert 0 < m["array_cycles"] <= m["run_cycles"]
        assert re.search(rf"{m['mode']} .*{m['values']:,} .* 0 .*{m['seconds']:.3f} s .*{m['array_cycles']:,}", out)


def test_a_wrong_result_is_status_1_and_says_which(
    port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(*arguments: Any) -> Gradients:
        gradients = backward(*arguments)
        gradients.dw_hh[0, :3] += 1
        return gradients

    monkeypatch.setattr(gradsieve.fpga.check, "backward", wrong)
    monkeypatch.setattr(gradsieve.fpga.check, "SIZES_MAX", SMALL)
    assert main(["deploy", "--preset", "tiny", "--port", port, "--check"]) == 1
    assert "row.dw_hh: 3 differ from golden" in capsys.readouterr().out


def test_without_a_check_the_engine_is_named(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "--preset", "tiny", "--port", port]) == 0
    assert capsys.readouterr().out == f"{port} holds the engine tiny (digest {CONFIG.digest})\n"


def test_another_engine_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "--preset", "default", "--port", port, "--check"]) == 1
    assert f"the engine was built from another config: its digest is {CONFIG.digest}" in one_line(capsys)


def test_a_missing_port_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "--preset", "tiny", "--port", "/dev/ttyNONE7", "--check"]) == 1
    assert "there is no port /dev/ttyNONE7: is the board plugged in?" in one_line(capsys)


def test_a_bitstream_is_loaded_and_the_engine_checked(
    port: str, bit: Path, cable: tuple[Ecp5, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    board, arguments = cable
    monkeypatch.setattr(gradsieve.fpga.check, "SIZES_MAX", SMALL)
    file = tmp_path / "result.json"
    command = ["deploy", "--board", "ulx3s", "--bitstream", str(bit), "--cable", arguments, "--preset", "tiny"]
    assert main([*command, "--port", port, "--json", str(file)]) == 0
    assert bit.read_bytes().endswith(board.payload) and len(board.payload) > 1000
    assert f"{bit} is in the configuration memory of Radiona ULX3S-85F" in capsys.readouterr().out
    result = json.loads(file.read_text())
    assert result["loaded"]["board"] == "ulx3s" and result["loaded"]["flash"] is False
    assert [m["mismatches"] for m in result["check"]["modes"]] == [0, 0, 0, 0]


def test_the_default_bitstream_is_that_of_build(
    bit: Path, cable: tuple[Ecp5, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    board, arguments = cable
    monkeypatch.chdir(tmp_path)
    command = ["deploy", "--board", "ulx3s", "--cable", arguments]
    assert main(command) == 1
    assert "build holds no bitstream of default for ulx3s: make it by `gradsieve build --board ulx3s`" in (
        one_line(capsys)
    )
    assert main([*command, "--preset", "tiny"]) == 1
    assert "no bitstream of tiny for ulx3s: make it by `gradsieve build --board ulx3s --preset tiny`" in one_line(
        capsys
    )
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "ulx3s_default.bit").write_bytes(bit.read_bytes())
    assert main(command) == 0
    assert bit.read_bytes().endswith(board.payload) and len(board.payload) > 1000


def test_a_board_of_another_part_is_refused(
    bit: Path, cable: tuple[Ecp5, str], capsys: pytest.CaptureFixture[str]
) -> None:
    board, arguments = cable
    assert main(["deploy", "--board", "ecpix5", "--bitstream", str(bit), "--cable", arguments]) == 1
    assert "the board is one with 0x81113043 (LFE5UM5G-85F): build it again" in one_line(capsys)
    assert board.instructions == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--check"], "--check needs --port"),
        ([], "there is nothing to do: give --board NAME to load a board, --port PORT --check to check one"),
        (["--check", "--board", "ulx3s"], "--check needs --port"),
        (["--baud", "9600", "--board", "ulx3s"], "--baud needs --port"),
        (["--write-flash", "--port", "p"], "--write-flash needs --board"),
        (["--bitstream", "b", "--port", "p"], "--bitstream needs --board"),
        (["--cable", "-c x", "--port", "p"], "--cable needs --board"),
        (["--board", "nope"], "board must be one of ulx3s, ecpix5, "),
        (["--port", "p"], "there is no config"),
    ],
)
def test_bad_options_are_refused(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", *options]) == 2
    assert message in one_line(capsys)
