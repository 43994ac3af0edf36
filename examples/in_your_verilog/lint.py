"""Generate an engine beside a design that instantiates it, and let Verilator check both.

`top.v` in this folder is the design, with a FIFO beside it; the engine's files go to the folder that is named.
"""

import argparse
import subprocess
from pathlib import Path

from gradsieve import generate, preset
from gradsieve.rtl_gen.verilator import verilator_env
from gradsieve.rtl_gen.verilog import top_name

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("directory", type=Path, help="where the generated files go")
parser.add_argument("--preset", default="tiny", help="the engine: tiny, edge, default or ptb")
arguments = parser.parse_args()

config = preset(arguments.preset)
engine = generate(config, arguments.directory)
design = Path(__file__).with_name("top.v")
fifo = Path(__file__).with_name("fifo.v")

command = ["verilator", "--lint-only", "-Wall", "--top-module", "top"]
command += [f"-DENGINE={top_name(config)}", f"-DWIDTH={config.stream_width}"]
command += [str(engine.directory / "verilator.vlt"), str(design), str(fifo), str(engine.verilog)]
print(" ".join(command))
subprocess.run(command, env=verilator_env(build=False), check=True)
print(f"{design.name} and {engine.verilog.name}: clean")
