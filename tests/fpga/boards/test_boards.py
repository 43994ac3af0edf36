"""Boards: their tops elaborate, every port has a pin, and what they are made of is known elsewhere."""

from __future__ import annotations

import re

import pytest

from gradsieve.fpga.boards import top
from gradsieve.fpga.boards.board import BAUD_TOLERANCE, LED_SIGNALS, Board, BoardError
from gradsieve.fpga.boards.registry import BOARDS, board
from gradsieve.fpga.link.protocol import DIVISOR_MIN
from gradsieve.fpga.parts import part_named
from gradsieve.fpga.toolchain import fit
from gradsieve.fpga.toolchain.build import Design, prepare
from gradsieve.fpga.toolchain.flows import FLOWS
from gradsieve.hw.config import preset
from tests.fpga.small_core import SmallCore

every_board = pytest.mark.parametrize("each", BOARDS.values(), ids=BOARDS)

_PINS = {
    ".lpf": re.compile(r'LOCATE COMP "(.+?)" SITE "\w+"'),
    ".cst": re.compile(r'IO_LOC "(.+?)" \w+'),
    ".xdc": re.compile(r'LOC \w+ \[get_ports "(.+?)"\]'),
}
_PORTS = {
    ".il": re.compile(r"^  wire .*\b(?:input|output|inout) \d+ +\\(\S+)$", re.MULTILINE),
    ".v": re.compile(r"^  (?:input|output|inout) (?:\[\d+:\d+\] )?(\w+)\s*;", re.MULTILINE),
}


def _top_module(design: Design, suffix: str) -> str:
    text = design.files[f"top{suffix}"]
    begin = text.index("module \\top\n" if suffix == ".il" else "module top(")
    return text[begin : text.index("\nend\n" if suffix == ".il" else "endmodule", begin)]


@every_board
def test_every_port_of_the_top_has_a_pin(each: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "BoardCore", SmallCore)
    flow = FLOWS[each.flow]
    design = prepare(each, preset("tiny"), each.clocking())
    ports = _PORTS[flow.source].findall(_top_module(design, flow.source))
    pins = [name.strip("{}") for name in _PINS[flow.constraints].findall(design.files[f"top{flow.constraints}"])]
    # oscillator, both ends of the serial line, button and LEDs
    assert len(ports) >= 3 + (each.reset is not None) + len(each.leds)
    assert sorted(ports) == sorted(pins)
    assert prepare(each, preset("tiny"), each.clocking()) == design
    assert "/work" not in "".join(design.files.values())


@every_board
def test_what_a_board_is_made_of(each: Board) -> None:
    family = {"trellis": "ECP5", "apicula": "Gowin", "vivado": "Xilinx"}[each.flow]
    assert part_named(each.part).family == family
    assert set(each.leds) <= set(LED_SIGNALS)
    assert len(set(each.leds.values())) == len(each.leds)
    fit.check_config(each, each.config)
    clocking = each.clocking()
    assert 0.9 * each.clock_mhz <= clocking.hz / 1e6 <= each.clock_mhz
    assert clocking.divisor >= DIVISOR_MIN
    assert abs(clocking.hz / clocking.divisor / clocking.baud - 1) <= BAUD_TOLERANCE
    assert clocking.baud in each.bauds


def test_the_target_cells_of_a_family_reach_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Core(SmallCore):
        def elaborate(self, platform):  # type: ignore[no-untyped-def]
            seen.append(getattr(platform, "cells", None))
            return super().elaborate(platform)

    monkeypatch.setattr(top, "BoardCore", Core)
    for name in ("ulx3s", "ecpix5", "orangecrab", "tang_primer_20k"):
        prepare(board(name), preset("tiny"), board(name).clocking())
    assert [getattr(cells, "name", None) for cells in seen] == ["ecp5", "ecp5", "ecp5", "gowin"]


def test_the_clock_asked_for_is_the_clock_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "BoardCore", SmallCore)
    ulx3s = board("ulx3s")
    design = prepare(ulx3s, preset("tiny"), ulx3s.clocking(80))
    text = design.files["top.il"]
    values = {k: int(v) for k, v in re.findall(r"parameter \\(CLKI_DIV|CLKOP_DIV|CLKOS_DIV|CLKFB_DIV) (\d+)", text)}
    assert 25e6 / values["CLKI_DIV"] * values["CLKFB_DIV"] * values["CLKOP_DIV"] / values["CLKOS_DIV"] == 80e6
    # the clock generator drives the core's clock, and its lock the reset
    generator = text[text.index("cell \\EHXPLLL") :].split("\n  end\n")[0]
    assert re.search(r"connect \\CLKOS \\(?:clk|clock)\b", generator)
    assert re.search(r"connect \\LOCK \\locked", generator)
    assert re.search(r"cell \$not .*\n(?:.*\n){1,5}\s+connect \\A \\locked", text)


def test_unknown_board_lists_those_there_are() -> None:
    with pytest.raises(
        BoardError, match="board must be one of ulx3s, ecpix5, orangecrab, tang_primer_20k, arty_a7; got 'basys'"
    ):
        board("basys")
