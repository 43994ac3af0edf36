"""Train with a simulated engine in the loop, and with the golden integers: every weight is equal.

The first simulation of an engine builds its simulator, which takes a minute or two.  With a board
in place of `simulated(config)` the loop is the same: see docs/boards.md.
"""

import argparse
import time

import torch
from torch import Tensor

from gradsieve import DeviceBackend, GoldenBackend, SievedLSTM, StochasticSieve, preset, simulated
from gradsieve.training.backends import Backend

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--preset", default="tiny", help="the engine: tiny, edge, default or ptb")
parser.add_argument("--steps", type=int, default=5)
arguments = parser.parse_args()

config = preset(arguments.preset)


def train(backend: Backend) -> tuple[SievedLSTM, int]:
    """The LSTM after the steps, and the cycles of its backward passes, 0 if none were counted."""
    torch.manual_seed(1)
    lstm = SievedLSTM(config.max_I, config.max_H, backend=backend)
    lstm.sieve = StochasticSieve(target=0.3)
    optimizer = torch.optim.Adam(lstm.parameters(), lr=1e-2)
    for _ in range(arguments.steps):
        x = torch.randn(min(config.max_T, 8), config.max_B, config.max_I)  # steps, batch, inputs
        y, _ = lstm(x)
        optimizer.zero_grad()
        ((y - 0.1) ** 2).mean().backward()  # the backward pass runs on the backend
        optimizer.step()
    return lstm, sum(p.cycles or 0 for p in lstm.take_statistics())


def differing(a: Tensor, b: Tensor) -> int:
    """How many elements differ in any bit."""
    return int((a != b).sum())


begin = time.monotonic()
with simulated(config) as device:
    on_device, cycles = train(DeviceBackend(device))
seconds = time.monotonic() - begin
print(f"{arguments.steps} steps on engine {config.name}: {cycles} cycles, {seconds:.1f} seconds")

golden, _ = train(GoldenBackend(config))
state = golden.state_dict()
different = sum(differing(value, state[name]) for name, value in on_device.state_dict().items())
weights = sum(value.numel() for value in state.values())
print(f"{different} of {weights} weights differ from the golden backend's")
