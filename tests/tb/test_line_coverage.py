"""What the coverage of the generated Verilog counts, and that the benches reach it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradsieve.hw.config import preset
from gradsieve.tb.line_coverage import Coverage, Module, merge, modules, points
from gradsieve.tb.runner import COUNTS_FILE, DESIGN_FILE, run_bench

BODY = """\
  input {clock};
  wire {clock};
  always @(posedge {clock})
    if (a) begin
      q <= d;
    end
    if (b) begin
      q <= 1'h0;
    end
endmodule
"""


def counts(*entries: tuple[int, str, str, str, int]) -> str:
    """A file of counts: for each point its line, kind and module, lines covered, comment and count."""
    lines = ["# SystemC::Coverage-3"]
    for number, page, span, comment, count in entries:
        keys = {"f": "design.v", "l": number, "page": f"v_{page}", "o": comment, "S": span}
        lines.append("C '" + "".join(f"\x01{key}\x02{value}" for key, value in keys.items()) + f"' {count}")
    return "\n".join(lines) + "\n"


def branches(module: str, start: int, first: int, second: int) -> str:
    """How often each branch of BODY ran, in a module that begins at line `start`."""
    return counts(
        (start + 4, f"branch/{module}", f"{start + 4}-{start + 5}", "if", first),
        (start + 4, f"branch/{module}", "", "else", 9),
        (start + 7, f"branch/{module}", f"{start + 7}-{start + 8}", "if", second),
        (start + 1, f"toggle/{module}", "", "clk:0->1", 3),
        (start + 1, f"toggle/{module}", "", "clk:1->0", 0),
        (start + 1, f"toggle/{module}", "", "__024initial:1->0", 0),
    )


def only(found: dict[str, Module]) -> Module:
    (module,) = found.values()
    return module


def test_lines_and_toggles_of_a_module() -> None:
    module = only(modules("module dut(clk);\n" + BODY.format(clock="clk"), branches("dut", 1, 5, 0)))
    assert list(module.lines.values()) == [True, True, False, False]
    assert module.toggles == {"clk:0->1": True, "clk:1->0": False}
    assert [text for text, _ in module.gaps()] == ["if (b) begin q <= 1'h0;"]


def test_a_line_ran_only_if_all_its_points_were_reached() -> None:
    text = "module dut(clk);\n  assign q = a ? b : c;\nendmodule\n"
    for first, second in ((1, 0), (0, 1), (0, 0), (1, 1)):
        points_of_line = counts((2, "branch/dut", "2", "cond_then", first), (2, "branch/dut", "2", "cond_else", second))
        assert list(only(modules(text, points_of_line)).lines.values()) == [first + second == 2]


def folder(path: Path, design: str, count: str) -> Path:
    """A folder as `run_bench` leaves it."""
    path.mkdir()
    (path / DESIGN_FILE).write_text(design)
    (path / COUNTS_FILE).write_text(count)
    return path


def test_the_same_module_in_two_designs_counts_once(tmp_path: Path) -> None:
    alone = folder(tmp_path / "alone", "module dut(clk);\n" + BODY.format(clock="clk"), branches("dut", 1, 5, 0))
    inside = folder(
        tmp_path / "inside",
        "// a design\nmodule dut__part(engine_clk);\n" + BODY.format(clock="engine_clk"),
        branches("dut__part", 2, 0, 1),
    )
    (coverage,) = merge({"alone": alone, "inside": inside})
    assert (coverage.block, coverage.lines, coverage.toggles, coverage.gaps) == ("alone", (4, 4), (1, 2), [])


def test_a_module_of_another_text_counts_for_itself(tmp_path: Path) -> None:
    design = "module dut(clk);\n" + BODY.format(clock="clk")
    one = folder(tmp_path / "one", design, branches("dut", 1, 5, 0))
    other = folder(tmp_path / "other", design.replace("1'h0", "1'h1"), branches("dut", 1, 0, 5))
    first, second = merge({"one": one, "other": other})
    assert [g.text for g in first.gaps] == ["if (b) begin q <= 1'h0;"]
    assert [g.text for g in second.gaps] == ["if (a) begin q <= d;"]


@pytest.mark.parametrize("text", ["", "TN:\n", "# SystemC::Coverage-3\nC \x01l\x023 5\n"])
def test_what_is_no_file_of_counts_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="counts must be"):
        list(points(text))


def coverage_of(block: str, path: Path, *tests: str) -> Coverage:
    path.mkdir()
    assert run_bench(block, preset("tiny"), tests=tests, counts=path).passed
    (coverage,) = merge({block: path})
    return coverage


def test_what_a_test_is_for_is_not_covered_without_it(tmp_path: Path) -> None:
    without = coverage_of("packet_closer", tmp_path / "without", "passes")
    whole = coverage_of("packet_closer", tmp_path / "whole")
    assert any(gap.text.startswith("if (") for gap in without.gaps)
    assert whole.gaps == []
    assert without.lines[0] < without.lines[1] == whole.lines[1] == whole.lines[0]
    assert without.toggles[1] == whole.toggles[1]
    assert any("clear:0->1" in missed for missed in without.still.values())
    assert whole.still == {}
