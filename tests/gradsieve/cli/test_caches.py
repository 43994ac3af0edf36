"""Verbs where the caches cannot be in their usual place, or are in one that makefiles do not take."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gradsieve.tb.runner
from gradsieve.cli.application import main
from gradsieve.fpga.verilated import Wrapper, build
from gradsieve.rtl_gen.files import CacheError
from gradsieve.rtl_gen.tools import run
from gradsieve.rtl_gen.verilator import ToolError
from gradsieve.rtl_gen.verilog import component_verilog

ROOT = Path(__file__).parents[3]
GENERATE = "generate --preset tiny -o out"
SHORT = "[text]\nvalid_tokens = 50\n[model]\nhidden = 4\n[training]\nsteps = 1\nbatch = 2\nwindow = 3\n"


def homeless(arguments: str, folder: Path, home: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command line, with that home and no other hint where caches could be."""
    env = {k: v for k, v in os.environ.items() if k not in ("GRADSIEVE_BUILD", "XDG_CACHE_HOME", "YOWASP_CACHE_DIR")}
    env |= {"HOME": home, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-m", "gradsieve", *arguments.split()]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("home", ["/dev/null", "/proc/nonexistent"])
def test_no_place_for_caches_is_one_line_that_names_the_variable(home: str, tmp_path: Path) -> None:
    done = homeless(GENERATE, tmp_path, home)
    assert done.returncode == 1
    said, error = done.stderr.splitlines()
    assert said == "generating tiny: Verilog"
    assert error.startswith(f"error: the cache folder must be one that can be written, got {home}/.cache/gradsieve")
    assert error.endswith(": set GRADSIEVE_BUILD to another")
    assert not (tmp_path / "out").exists()


def test_with_the_variable_everything_goes_there(tmp_path: Path) -> None:
    done = homeless(GENERATE, tmp_path, "/dev/null", GRADSIEVE_BUILD="caches")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "gradsieve_tiny.v").is_file()
    assert list((tmp_path / "caches" / "tools").rglob("wasmtime"))


def test_training_needs_no_home(tmp_path: Path) -> None:
    (tmp_path / "short.toml").write_text(SHORT)
    done = homeless("train --config short.toml -o out", tmp_path, "/dev/null")
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert (tmp_path / "out" / "report.html").is_file()


def test_synthesis_finds_a_place_for_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("GRADSIEVE_BUILD", str(tmp_path / "caches"))
    folder = tmp_path / "work"
    folder.mkdir()
    run([sys.executable, "-c", "import os; print(os.environ['XDG_CACHE_HOME'])"], folder, "log")
    assert (folder / "log").read_text().strip() == str(tmp_path / "caches" / "tools")
    monkeypatch.setenv("GRADSIEVE_BUILD", "/dev/null")
    with pytest.raises(CacheError, match="set GRADSIEVE_BUILD to another"):
        run([sys.executable, "-V"], folder, "log")


def test_yosys_that_fails_is_one_line_and_leaves_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from amaranth.back.verilog import YosysError

    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("GRADSIEVE_BUILD", str(tmp_path))
    before, within = dict(os.environ), []

    def fail(*_: object, **__: object) -> None:
        within.append(os.environ["XDG_CACHE_HOME"])
        raise YosysError("Traceback:\n  File x\nOSError: [Errno 28] No space left on device\n")

    monkeypatch.setattr("amaranth.back.verilog.convert", fail)
    with pytest.raises(ToolError, match=r"^Yosys fails: OSError: \[Errno 28\] No space left on device$"):
        component_verilog(None, "top")
    assert within == [str(tmp_path / "tools")]
    assert dict(os.environ) == before


def test_a_bench_runs_in_a_relative_folder_whose_name_no_makefile_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADSIEVE_BUILD", "my caches/$(x) #1")
    assert main(["verify", "--preset", "tiny", "--block", "counters"]) == 0
    assert "1 of 1 benches passed" in capsys.readouterr().out
    assert list((tmp_path / "my caches" / "$(x) #1" / "benches").glob("*/dut"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("environment", "the Python environment must have a path of letters.*got '.*/my env': make the virtual"),
        ("temporary", "the folder of temporary files must have a path of.*got '.*my temp.*': set TMPDIR to another"),
    ],
)
def test_other_folders_that_no_makefile_takes_are_refused(
    change: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if change == "environment":
        monkeypatch.setattr(gradsieve.tb.runner, "package_folder", lambda: tmp_path / "my env")
    else:
        (tmp_path / "my temp").mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "my temp"))
    monkeypatch.setenv("GRADSIEVE_BUILD", str(tmp_path))
    with pytest.raises(ToolError, match=message):
        gradsieve.tb.runner.build("module dut; endmodule\n")


def test_the_simulated_device_is_built_in_such_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my clone $(x)"
    folder.mkdir()
    monkeypatch.setenv("GRADSIEVE_BUILD", str(folder / "caches"))
    (folder / "top.v").write_text("module top(input a, output b); assign b = ~a; endmodule\n")
    (folder / "wrapper.cpp").write_text(
        "#include THING_HEADER\ndouble sc_time_stamp() { return 0; }\n"
        'extern "C" int inverted(int a) { VerilatedContext c; THING t(&c); t.a = a; t.eval(); return t.b; }\n'
    )
    library = ctypes.CDLL(str(build(folder / "top.v", "top", Wrapper("thing", folder / "wrapper.cpp"))))
    assert [library.inverted(a) for a in (0, 1)] == [1, 0]
