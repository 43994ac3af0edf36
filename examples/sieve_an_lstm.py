"""Swap the `torch.nn.LSTM` of a model for a `SievedLSTM`, with its weights, and sieve it.

The model learns to say of a sequence of numbers whether their sum is above zero.
"""

import argparse

import torch
from torch import nn

from gradsieve import FloatBackend, RowSieve, SievedLSTM

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--hidden", type=int, default=32)
arguments = parser.parse_args()


class Classifier(nn.Module):
    """An LSTM whose last output is read by a linear layer."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, hidden)
        self.read = nn.Linear(hidden, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (T, B, 1); returns a logit for each sequence, (B)."""
        return self.read(self.lstm(x)[0][-1])[:, 0]


torch.manual_seed(1)
torch.set_num_threads(1)  # a model as small as this one gains nothing from more
model = Classifier(arguments.hidden)

# The swap: constructor, state_dict and outputs are those of nn.LSTM.
x = torch.randn(6, 16, 1)
before = model(x)
sieved = SievedLSTM(1, arguments.hidden)
sieved.load_state_dict(model.lstm.state_dict())
model.lstm = sieved
print(f"weights loaded; outputs differ by {(model(x) - before).abs().max().item()}")

# Keep a fifth of the gate rows, in tiles of four lanes as the engine's.
sieved.sieve = RowSieve(target=0.2)
sieved.backend = FloatBackend(lanes=4)

optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
losses = []
for _ in range(arguments.steps):
    x = torch.randn(6, 16, 1)
    loss = nn.functional.binary_cross_entropy_with_logits(model(x), (x.sum(dim=(0, 2)) > 0).float())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())

passes = sieved.take_statistics()
rows = sum(p.kept_rows for p in passes) / sum(p.all_rows for p in passes)
macs = sum(p.macs for p in passes) / sum(p.dense_macs for p in passes)
print(f"loss {losses[0]:.2f} to {losses[-1]:.2f} with {100 * rows:.0f} % of the rows", end=" ")
print(f"and {100 * macs:.0f} % of the backward multiply-accumulates")

# And back, for deployment: the weights fit a plain nn.LSTM.
plain = nn.LSTM(1, arguments.hidden)
plain.load_state_dict(sieved.state_dict())
