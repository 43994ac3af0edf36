"""The demo's training: of a small character LSTM on a text, and the tape of one real training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gradsieve.golden.float_lstm import FloatGradients, FloatTape, forward
from gradsieve.training.language_model import LanguageModel
from gradsieve.training.text import Streams, Vocabulary

LEARNING_RATE = 5e-3
CLIP = 1.0


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


class Training:
    """Truncated backpropagation through time with Adam, the state carried from step to step.

    Raises TextError, naming `source`, if the text is too short for two steps.
    """

    def __init__(self, text: str, sizes: Sizes, seed: int, source: str) -> None:
        self.vocabulary = Vocabulary("char", tuple(sorted(set(text))))
        self.streams = Streams(self.vocabulary.encode(text), sizes.B, sizes.T, source)
        lstm = nn.LSTM(sizes.I, sizes.H)
        torch.manual_seed(seed)
        self.model = LanguageModel(len(self.vocabulary), lstm)
        self._sizes = sizes
        self._state = self.model.zero_state(sizes.B)

    def _next(self) -> tuple[Tensor, Tensor]:
        characters, successors, first = self.streams.next()
        if first:
            self._state = self.model.zero_state(self._sizes.B)
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
            loss, self._state = self.model.loss(characters, successors, self._state)
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
        weight, bias = (p.detach().double() for p in (self.model.decoder.weight, self.model.decoder.bias))
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
