"""Generate an engine, run backward passes on it in simulation, and compare them with the golden model.

The engine's files (Verilog, register map, documentation) go to the folder that is named.  The first
simulation of an engine builds its simulator, which takes a minute or two.
"""

import argparse
from pathlib import Path

from gradsieve import generate, preset, simulated
from gradsieve.golden.backward import backward
from gradsieve.golden.random_case import random_case
from gradsieve.golden.types import Sieve, SieveMode

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("directory", type=Path, help="where the generated files go")
parser.add_argument("--preset", default="tiny", help="the engine: tiny, edge, default or ptb")
arguments = parser.parse_args()

config = preset(arguments.preset)
generated = generate(config, arguments.directory)
print(f"{generated.verilog}: {config.R} x {config.C} processing elements")

# A run with the values of a trained LSTM, at sizes that are no multiple of a tile.
sizes = (config.max_H - 1, config.max_I - 1, max(1, config.max_B - 1), min(config.max_T, 6))
weights, tape, _, masks = random_case(config, seed=1, sizes=sizes, masks="none", extreme=False)

with simulated(config) as device:
    for sieve in (Sieve(), Sieve(SieveMode.ROW, tau=2)):
        result = device.backward(weights, tape, sieve, masks)
        expected = backward(config, weights, tape, sieve, masks)
        kept = result.rows_kept.double().mean()
        cycles = device.counters()["CYCLES"]
        wrong = result.mismatches(expected)
        name = sieve.mode.name.lower()
        print(f"{name}: {100 * kept:.0f} % of the rows, {cycles} cycles, {wrong} mismatches")
