"""Modules of Verilog text: parsed, shared, renamed, with nothing changed in what they mean."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from amaranth.back import verilog as backend

from gradsieve.hw.config import preset
from gradsieve.rtl_gen.netlist import NetlistError, canonical, hierarchy, instances, parse, plain_names, share
from gradsieve.rtl_gen.verilator import verilator_env
from gradsieve.rtl_gen.verilog import component_verilog
from tests.rtl_gen.stand_in import Engine

TOP = "gradsieve_tiny"


@pytest.fixture(scope="module")
def raw() -> str:
    return backend.convert(Engine(preset("tiny")), name=TOP, emit_src=False, strip_internal_attrs=True)


def test_parsing_loses_nothing(raw: str) -> None:
    modules = parse(raw)
    assert len(modules) == 1 + 2 + 4
    text = "\n".join(m.text() for m in modules.values())
    assert sorted(text.split()) == sorted(raw.split("\n", 1)[1].replace("\n(", "(").split())


def test_equal_modules_are_shared(raw: str) -> None:
    modules = share(canonical(parse(raw)), TOP)
    # the two rows are equal, and so are the elements but for the slices of b that they take
    assert len(modules) == 3
    assert sum(1 for _ in hierarchy(modules, TOP)) == 1 + 2 + 4
    paths = {".".join(path) for path, _ in hierarchy(modules, TOP)}
    assert paths == {".".join(path) for path, _ in hierarchy(parse(raw), TOP)}


def test_unequal_modules_are_not_shared() -> None:
    text = (
        "module top(clk);\n  input clk;\n  a x (\n    .clk(clk)\n  );\n  b y (\n    .clk(clk)\n  );\nendmodule\n"
        "module a(clk);\n  input clk;\n  wire w = 1'h0;\nendmodule\n"
        "module b(clk);\n  input clk;\n  wire w = 1'h1;\nendmodule\n"
    )
    modules = share(canonical(parse(text)), "top")
    assert list(instances(modules["top"], modules)) == [("a", "x"), ("b", "y")]


def test_parents_of_shared_modules_are_shared_too_and_top_stays() -> None:
    def module(name: str, *children: str) -> str:
        lines = [f"  {child} x{i} (\n    .clk(clk)\n  );\n" for i, child in enumerate(children)]
        return f"module {name}(clk);\n  input clk;\n{''.join(lines)}endmodule\n"

    text = module("top", "p", "q") + module("p", "leaf1") + module("q", "leaf2") + module("leaf1") + module("leaf2")
    modules = share(canonical(parse(text)), "top")
    assert list(modules) == ["top", "p", "leaf1"]
    assert [m for m, _ in instances(modules["top"], modules)] == ["p", "p"]


def test_names_need_no_escape_and_stay_distinct() -> None:
    text = "".join(f"module {n}(clk);\n  input clk;\nendmodule\n" for n in ("a_b", "\\a.b ", "\\a_b$ "))
    assert list(plain_names(parse(text))) == ["a_b", "a__b", "a_b_"]


def test_ports_named_after_nets_stay_connected() -> None:
    text = (
        "module top(clk, i, \\port$7$0 );\n  input clk;\n  input i;\n  input \\port$7$0 ;\n"
        "  \\top.a  a (\n    .clk(clk),\n    .\\port$10$0 (i),\n    .\\port$9$0 (\\port$7$0 )\n  );\nendmodule\n"
        "module \\top.a (clk, \\port$10$0 , \\port$9$0 );\n  input clk;\n  input \\port$10$0 ;\n  input \\port$9$0 ;\n"
        "  wire w;\n  assign w = \\port$10$0  & \\port$9$0 ;\nendmodule\n"
    )
    result = "\n".join(m.text() for m in plain_names(share(canonical(parse(text)), "top")).values())
    assert ".\\unnamed$port$0 (\\unnamed$port$0 )" in result  # port$9$0 of a, on port$7$0 of top
    assert ".\\unnamed$port$1 (i)" in result
    assert "assign w = \\unnamed$port$1  & \\unnamed$port$0 ;" in result


def test_headers_of_many_lines_are_read() -> None:
    modules = parse("module a(clk, x\n, \\y[0] , z);\n  input clk;\n  input x;\n  input z;\nendmodule\n")
    assert modules["a"].port_names == ("clk", "x", "\\y[0] ", "z")


def test_nets_of_no_bits_go_unless_they_are_used() -> None:
    body = "  wire [-1:0] \\a.b ;\n  wire [-1:0] \\a.c ;\n  wire \\a.bc ;\n  assign \\a.bc  = \\a.c ;\n"
    module = canonical(parse(f"module a(clk);\n  input clk;\n{body}endmodule\n"))["a"].text()
    assert "\\a.b " not in module
    assert "[-1:0] \\a.c " in module


def test_every_process_is_woken_once_all_wait() -> None:
    yosys = "\\$auto$verilog_backend.cc:1:dump_module$7 "
    always = "  always @*\n    s[1:0] = { 1'h1, 1'h0 };\n  always @*\n    s[2] = clk;\n"
    always += f"  always @* begin\n    if ({yosys}) begin end\n    s[3] = 1'h0;\n  end\n"
    text = f"module a(clk);\n  input clk;\n  reg [3:0] s;\n  reg {yosys} = 0;\n{always}endmodule\n"
    module = canonical(parse(text))["a"].text()
    wake = "  always @* begin\n    if (\\$initial ) begin end\n"
    for statement in ("s[1:0] = { 1'h1, 1'h0 };", "s[2] = clk;", "s[3] = 1'h0;"):
        assert f"{wake}    {statement}\n  end\n" in module
    assert module.count("  reg \\$initial ;\n  initial \\$initial <= 1'h1;\n") == 1
    assert "dump_module" not in module
    with pytest.raises(NetlistError, match="not understood as a combinational process"):
        canonical(parse("module a(clk);\n  input clk;\n  always @*\n    case (clk)\n    endcase\nendmodule\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no module"),
        ("module a(clk);\n", "no end"),
        ("module a(clk,\n", "no end"),
        ("wire x;\n", "line 1: outside"),
        ("module a #(parameter N = 1) (clk);\nendmodule\n", "line 1: not understood"),
        ("module a(clk);\nendmodule\nmodule a(clk);\nendmodule\n", "defined twice"),
    ],
)
def test_other_layouts_are_refused(text: str, message: str) -> None:
    with pytest.raises(NetlistError, match=message):
        parse(text)


def test_undeclared_ports_and_recursion_are_refused() -> None:
    with pytest.raises(NetlistError, match="does not declare its ports x"):
        _ = parse("module a(x);\nendmodule\n")["a"].ports
    with pytest.raises(NetlistError, match="contains itself"):
        share(parse("module a(clk);\n  input clk;\n  a b (\n    .clk(clk)\n  );\nendmodule\n"), "a")


MITER = """
module miter(input clk, input rst, input [7:0] payload, input valid, input ready, output [23:0] result, output equal);
  wire [23:0] other;
  wire [3:0] s;
  gradsieve_tiny a (.clk(clk), .rst(rst), .i__payload(payload), .i__valid(valid), .o__ready(ready),
                    .o__payload(result), .i__ready(s[0]), .o__valid(s[1]));
  raw b (.clk(clk), .rst(rst), .i__payload(payload), .i__valid(valid), .o__ready(ready),
         .o__payload(other), .i__ready(s[2]), .o__valid(s[3]));
  assign equal = result == other && s[0] == s[2] && s[1] == s[3];
endmodule
"""
HARNESS = """
#include "Vmiter.h"
#include <cstdio>
#include <cstdint>
int main() {
    Vmiter t;
    uint32_t state = 1;
    for (int n = 0; n < 3000; n++) {
        state ^= state << 13; state ^= state >> 17; state ^= state << 5;
        t.rst = n < 2; t.payload = state & 0xff; t.valid = (state >> 8) % 5 != 0; t.ready = (state >> 12) & 1;
        t.clk = 0; t.eval();
        printf("%d %x\\n", t.equal, (unsigned)t.result);
        t.clk = 1; t.eval();
    }
}
"""


def test_shared_text_behaves_as_the_text_of_yosys(tmp_path: Path) -> None:
    engine = Engine(preset("tiny"))
    raw = backend.convert(engine, name="raw", emit_src=False, strip_internal_attrs=True)
    (tmp_path / "miter.v").write_text(component_verilog(engine, TOP) + raw + MITER)
    (tmp_path / "main.cpp").write_text(HARNESS)
    command = ["verilator", "--cc", "--exe", "--build", "-Wno-fatal", "-O0", "-CFLAGS", "-O0"]
    command += ["--top-module", "miter", "miter.v", "main.cpp"]
    subprocess.run(command, cwd=tmp_path, env=verilator_env(), check=True, capture_output=True)
    done = subprocess.run([tmp_path / "obj_dir" / "Vmiter"], check=True, capture_output=True, text=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len({result for _, result in lines}) > 1000
    assert {equal for equal, _ in lines} == {"1"}
