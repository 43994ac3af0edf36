"""What is read from the tools' outputs, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradsieve.fpga.boards.registry import board
from gradsieve.fpga.toolchain import fit
from gradsieve.fpga.toolchain.critical_path import critical_path, readable
from gradsieve.fpga.toolchain.fit import DoesNotFit
from gradsieve.fpga.toolchain.flows import APICULA, TRELLIS, VIVADO
from gradsieve.fpga.toolchain.progress import Follower
from gradsieve.hw.config import preset
from gradsieve.rtl_gen.tools import ToolFailed, reason_of, run
from gradsieve.rtl_gen.verilator import ToolError


def _step(kind: str, delay: float, source: str, target: str) -> dict[str, object]:
    return {"type": kind, "delay": delay, "from": {"cell": source}, "to": {"cell": target}}


_FF, _LUT = "core.engine.core.sieve.sum_TRELLIS_FF_Q_3", "core.engine.core.drain.go_LUT4_A"
_RAM = "core.engine.blocks.state_store.ram_DP16KD"
_REPORT = [
    {"from": "async", "to": "posedge clk", "path": [_step("routing", 50, "x", "y")]},
    {
        "from": "posedge clk",
        "to": "posedge clk",
        "path": [
            _step("clk-to-q", 0.5, _FF, _FF),
            _step("routing", 2.0, _FF, _LUT),
            _step("logic", 0.25, _LUT, _LUT),
            _step("routing", 1.5, _LUT, _RAM),
            _step("setup", 0.25, _RAM, _RAM),
        ],
    },
]


def test_critical_path_in_words() -> None:
    path = critical_path(_REPORT, "clk")
    assert path is not None
    assert path.words() == (
        "from sieve.sum to state_store.ram through drain: 4.50 ns, 1.00 in 1 levels of logic and 3.50 in routing"
    )
    assert critical_path(_REPORT, "another") is None


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ("core.engine.core.systolic_array.pe_3_1.sum$12_TRELLIS_FF_Q", "systolic_array.pe_3_1.sum"),
        ("core.engine.blocks.input_slice.$signal$110_LUT4_B_Z", "input_slice"),
        ("core.link.receiver.state_LUT4_Z_1_PFUMX_C0", "link.receiver.state"),
        ("pll", "pll"),
    ],
)
def test_names_of_cells_are_told_without_what_the_tools_add(cell: str, name: str) -> None:
    assert readable(cell) == name


@pytest.mark.parametrize(
    ("flow", "cells", "counts"),
    [
        (
            TRELLIS,
            {"LUT4": 10, "CCU2C": 3, "TRELLIS_DPR16X4": 2, "TRELLIS_FF": 7, "MULT18X18D": 5, "DP16KD": 1, "PFUMX": 9},
            (24, 7, 5, 1),
        ),
        (
            APICULA,
            {"LUT1": 1, "LUT4": 2, "ALU": 3, "DFFRE": 4, "MULT18X18": 5, "SDPX9B": 6, "MUX2_LUT5": 9, "RAM16SDP4": 2},
            (14, 16, 5, 6),
        ),
        (VIVADO, {"LUT6": 4, "LUT2": 1, "FDRE": 2, "FDSE": 1, "DSP48E1": 3, "RAMB18E1": 3, "BUFG": 1}, (5, 3, 3, 2)),
    ],
)
def test_cells_are_counted_as_resources(flow, cells, counts) -> None:  # type: ignore[no-untyped-def]
    assert tuple(flow.count(cells).values()) == counts


def test_a_config_that_cannot_fit_is_refused_before_any_work() -> None:
    with pytest.raises(DoesNotFit) as caught:
        fit.check_config(board("tang_primer_20k"), preset("default"))
    message = str(caught.value)
    assert message.startswith("default does not fit tang_primer_20k (GW2A-18): multipliers (MULT18X18): at least ")
    assert "needed, 48 available" in message
    assert "memory blocks (BSRAM): at least " in message
    assert "lower max_H or max_I (the largest are weight_gradient_store with " in message
    fit.check_config(board("ulx3s"), preset("tiny"))


def test_counts_beyond_the_part_are_told_by_how_much() -> None:
    ulx3s, tiny = board("ulx3s"), preset("tiny")
    fit.check_counts(ulx3s, tiny, {"luts": 83_640, "flip_flops": 1, "multipliers": 156, "memory_blocks": 208})
    with pytest.raises(
        DoesNotFit, match=r"memory blocks \(DP16KD\): 312 needed, 208 available \(50 % too many\): lower max"
    ):
        fit.check_counts(ulx3s, tiny, {"luts": 1, "memory_blocks": 312})
    with pytest.raises(DoesNotFit, match="LUTs: 83,641 needed, 83,640 available"):
        fit.check_counts(ulx3s, tiny, {"luts": 83_641})


def test_progress_is_read_from_the_lines_of_the_tools() -> None:
    said: list[tuple[str, str]] = []
    follow = Follower("seed 1", lambda stage, detail: said.append((stage, detail)))
    for line in (
        "2.17.3. Executing OPT_MERGE pass (detect identical cells).",
        "Info:     at iteration #5, type ALL: wirelen solved = 80, spread = 90, legal = 1234; time = 0.01s",
        "Info: iter=387 steplen=2.013573 a=195.815750 penalty=[0.43, 0.43, 0.43, 0.43]",
        "Info:   at iteration #10: temp = 0.5, timing cost = 3, wirelen = 4321",
        "Info: Routing 5000 arcs.",
        "Info:       1000 |      100        800 |  100   800 |      4200|       0.5       0.5|",
        "Info: nothing of interest",
    ):
        follow(line)
    assert said == [
        ("seed 1", ""),
        ("seed 1", "opt_merge pass"),
        ("seed 1", "placing, iteration 5, 1,234 of wire"),
        ("seed 1", "placing, iteration 387"),
        ("seed 1", "refining the placement, iteration 10, 4,321 of wire"),
        ("seed 1", "routing, 5,000 arcs left"),
        ("seed 1", "routing, 4,200 arcs left of 5,000"),
    ]


def test_a_tool_that_was_ended_tells_by_which_signal(tmp_path: Path) -> None:
    with pytest.raises(ToolFailed, match=r"sh was ended by signal 9: begun$") as caught:
        run(["sh", "-c", "echo begun; kill -9 $$"], tmp_path, "log")
    assert caught.value.status == -9


def test_a_tool_that_fails_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(ToolFailed, match=r"yowasp-ecppack failed with status \d+: .*"):
        run(["yowasp-ecppack", "missing.config", "out.bit"], tmp_path, "log")
    assert (tmp_path / "log").stat().st_size > 0
    with pytest.raises(
        ToolError, match=r"no_such_tool is not installed: pip install 'gradsieve\[fpga\]', or make setup"
    ):
        run(["no_such_tool"], tmp_path, "log")
    assert reason_of(["a", "ERROR: b", "", "c"]) == "b"
    assert reason_of(["a", "", "b", "c", "d\n"]) == "b | c | d"
    assert (
        reason_of(["%Error: a.v:3:1: no b", "x.cpp:1:2: error: c", "d"])
        == "%Error: a.v:3:1: no b | x.cpp:1:2: error: c"
    )
    assert reason_of([f"ERROR: {n}" for n in range(9)]) == "0 | 1 | 2"
    assert reason_of([""]) == "it said nothing"
