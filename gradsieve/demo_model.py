"""The demo's model: a small character LSTM, its training on a text, and the tape of one real training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from golden.float_lstm import FloatGradients, FloatTape, forward
from gradsieve.options import CommandError

LEARNING_RATE = 5e-3
CLIP = 1.0
EMBEDDING_SPREAD = 0.5
"""Standard deviation of the first embeddings: it keeps x well inside the engine's input format."""


@dataclass(frozen=True)
class Sizes:
    """H hidden units, I values of an embedding, B streams of text, T characters a training step."""

    H: int
    I: int
    B: int
    T: int


@dataclass(frozen=True)
class TrainingStep:
    """One training step in float64: what the backward pass needs, and the gradients that autograd makes of it.

    Gradients are those of the sum of the losses of all characters.
    """

    w_ih: Tensor
    w_hh: Tensor
    tape: FloatTape
    gradients: FloatGradients


def read_text(path: Path | None) -> str:
    """The text of a UTF-8 file, by default Python's own documentation.  Raises CommandError if it cannot be read."""
    if path is None:
        from pydoc_data.topics import topics

        return "\n".join(topics[name] for name in sorted(topics))
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise CommandError(f"{path}: is no UTF-8 text") from None


class Streams:
    """A text as B parallel streams of character numbers, read T at a time, again and again.

    Raises CommandError, naming `source`, if the text is too short for two steps of its streams.
    """

    def __init__(self, text: str, sizes: Sizes, source: str) -> None:
        need = sizes.B * (2 * sizes.T + 1)
        if len(text) < need:
            raise CommandError(f"{source}: has {len(text)} characters, and the demo needs {need} or more")
        self.symbols = sorted(set(text))
        numbers = {symbol: n for n, symbol in enumerate(self.symbols)}
        length = len(text) // sizes.B
        codes = torch.tensor([numbers[symbol] for symbol in text[: length * sizes.B]])
        self._codes = codes.view(sizes.B, length).T.contiguous()
        self._T = sizes.T
        self._at = 0

    def next(self) -> tuple[Tensor, Tensor, bool]:
        """Characters and their successors, (T, B) each, and whether this is the beginning of the streams."""
        if self._at + self._T + 1 > len(self._codes):
            self._at = 0
        at = self._at
        self._at += self._T
        return self._codes[at : at + self._T], self._codes[at + 1 : at + self._T + 1], at == 0


class CharacterModel(nn.Module):
    """Embedding, one LSTM layer, and a linear layer to the characters."""

    def __init__(self, symbols: int, sizes: Sizes) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, sizes.I)
        self.lstm = nn.LSTM(sizes.I, sizes.H)
        self.output = nn.Linear(sizes.H, symbols)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_SPREAD)
        # A forget bias of 1 would saturate cells and make the gradients look sparser than they are.
        for bias in (self.lstm.bias_ih_l0, self.lstm.bias_hh_l0):
            assert isinstance(bias, Tensor)
            nn.init.zeros_(bias)


class Training:
    """Truncated backpropagation through time with Adam, the state carried from step to step."""

    def __init__(self, text: str, sizes: Sizes, seed: int, source: str) -> None:
        torch.manual_seed(seed)
        self.streams = Streams(text, sizes, source)
        self.model = CharacterModel(len(self.streams.symbols), sizes)
        self._sizes = sizes
        self._state = self._zero_state()

    def _zero_state(self) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros(1, self._sizes.B, self._sizes.H)
        return zeros, zeros

    def _next(self) -> tuple[Tensor, Tensor]:
        characters, successors, first = self.streams.next()
        if first:
            self._state = self._zero_state()
        return characters, successors

    def run(self, steps: int, progress: Callable[[int, float], None]) -> list[float]:
        """Train; `progress` is told the steps done and the loss a character in nats.  Returns the loss of each step."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # matrices this small gain nothing from more threads
        try:
            return self._run(steps, progress)
        finally:
            torch.set_num_threads(threads)

    def _run(self, steps: int, progress: Callable[[int, float], None]) -> list[float]:
        optimizer = torch.optim.Adam(self.model.parameters(), lr=LEARNING_RATE)
        losses = []
        for done in range(1, steps + 1):
            characters, successors = self._next()
            y, (h, c) = self.model.lstm(self.model.embedding(characters), self._state)
            self._state = h.detach(), c.detach()
            loss = cross_entropy(self.model.output(y).flatten(0, 1), successors.flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
            optimizer.step()
            losses.append(loss.item())
            progress(done, losses[-1])
        return losses

    def training_step(self) -> TrainingStep:
        """The next step's tape and autograd's gradients of the LSTM layer, in float64; the model stays as it is."""
        characters, successors = self._next()
        sizes = self._sizes
        lstm = nn.LSTM(sizes.I, sizes.H, dtype=torch.float64)
        lstm.load_state_dict({name: value.double() for name, value in self.model.lstm.state_dict().items()})
        x = self.model.embedding(characters).detach().double().requires_grad_()
        h0, c0 = (s.double() for s in self._state)
        y, _ = lstm(x, (h0, c0))
        y.retain_grad()
        weight, bias = (p.detach().double() for p in (self.model.output.weight, self.model.output.bias))
        loss = cross_entropy((y @ weight.T + bias).flatten(0, 1), successors.flatten(), reduction="sum")
        loss.backward()
        parameters = list(lstm.parameters())
        w_ih, w_hh, b_ih, b_hh = (p.detach() for p in parameters)
        dw_ih, dw_hh, db, _ = (_gradient(p) for p in parameters)
        _, tape = forward(x.detach(), h0[0], c0[0], w_ih, w_hh, b_ih, b_hh)
        empty = torch.empty(0, dtype=torch.float64)
        return TrainingStep(
            w_ih=w_ih,
            w_hh=w_hh,
            tape=replace(tape, dy=_gradient(y)),
            gradients=FloatGradients(
                dx=_gradient(x),
                dh0=empty,
                dc0=empty,
                dw_ih=dw_ih,
                dw_hh=dw_hh,
                db=db,
            ),
        )


def _gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def relative_error(gradients: FloatGradients, reference: FloatGradients) -> float:
    """|gradients - reference| / |reference| of dW_ih, dW_hh, db and dx taken as one vector, in the Euclidean norm."""
    ours, theirs = (
        torch.cat([g.dw_ih.flatten(), g.dw_hh.flatten(), g.db, g.dx.flatten()]) for g in (gradients, reference)
    )
    return float((ours - theirs).norm() / theirs.norm())
