"""The core file, as FuseSoC reads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gradsieve.hw.config import preset
from gradsieve.rtl_gen.generate import generate
from gradsieve.rtl_gen.verilator import verilator_env

TINY = preset("tiny")
SYSTEM = """CAPI=2:
name: ::system:0
filesets:
  rtl:
    files: [system.v: {file_type: verilogSource}]
    depend: ["gradsieve:gradsieve:gradsieve_tiny", "gradsieve:gradsieve:gradsieve_edge"]
targets:
  default:
    filesets: [rtl]
    toplevel: system
    flow: lint
    flow_options: {tool: verilator}
"""


def fusesoc(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run FuseSoC on the cores in `folder`/cores, with what it keeps in `folder`."""
    env = verilator_env(build=False) | {
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
        "XDG_CACHE_HOME": str(folder),
    }
    command = [sys.executable, "-m", "fusesoc.main", "--cores-root", str(folder / "cores"), *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path, small_engine: None) -> Path:
    generate(TINY, tmp_path / "cores" / "tiny")
    return tmp_path


def test_lint_runs_and_passes(folder: Path) -> None:
    done = fusesoc(folder, "run", "--target", "lint", "gradsieve:gradsieve:gradsieve_tiny:1.0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ERROR" not in done.stderr + done.stdout


def test_lint_finds_a_fault(folder: Path) -> None:
    path = folder / "cores" / "tiny" / "gradsieve_tiny.v"
    path.write_text(path.read_text().replace("endmodule", "  assign no_such_net = 1'h1;\nendmodule", 1))
    done = fusesoc(folder, "run", "--target", "lint", "gradsieve_tiny")
    assert done.returncode != 0
    assert "no_such_net" in done.stdout + done.stderr


def test_a_design_that_depends_on_two_engines_gets_their_verilog_and_no_waivers(folder: Path) -> None:
    generate(preset("edge"), folder / "cores" / "edge")
    (folder / "cores" / "system.v").write_text("module system;\nendmodule\n")
    (folder / "cores" / "system.core").write_text(SYSTEM)
    done = fusesoc(folder, "run", "--setup", "system")
    assert done.returncode == 0, done.stdout + done.stderr
    names = {p.name for p in (folder / "build").rglob("*") if p.suffix in (".v", ".vlt")}
    assert names == {"system.v", "gradsieve_tiny.v", "gradsieve_edge.v"}
