"""What a training run records: read by the reports and comparisons, written as JSON."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Work(_Frozen):
    """Multiply-accumulates of the LSTM layers and cycles of the engine, since the start of the training.

    Multiply-accumulates count real samples and columns only, no padding.  `backward` counts those of the gate rows that
    were kept (times the columns kept by masks): what an engine does.  `elements` counts those of the gate gradients
    that are not zero: what could be skipped at the finest grain.  `dense_` is the same step without any sieve or mask.
    `cycles` are those of the backward pass on the engine: counted by its RTL if the result was `measured`, else by the
    cycle model.
    """

    forward: int = 0
    dense_forward: int = 0
    backward: int = 0
    elements: int = 0
    dense_backward: int = 0
    cycles: int = 0
    dense_cycles: int = 0

    @property
    def skipped(self) -> float:
        """Share of all multiply-accumulates of training (forward and backward) that kept rows and masks save."""
        return self._less(self.forward + self.backward)

    @property
    def redundant(self) -> float:
        """The same at the grain of single elements: Zhu et al. 2016's measure."""
        return self._less(self.forward + self.elements)

    def _less(self, done: int) -> float:
        dense = self.dense_forward + self.dense_backward
        return 1 - done / dense if dense else 0.0


class LayerRecord(_Frozen):
    """One layer and direction over the steps since the last record.  Shares are 0 to 1."""

    layer: str
    """`l0`, `l1_reverse`, ... as in the names of its parameters."""
    tau: float | None
    """Threshold at the end, in units of the gradient of the loss summed over the tokens; None where there is none."""
    scale: float | None
    """Loss scale of the integer backends, a power of two."""
    rows_by_gate: tuple[float, float, float, float]
    """Share of gate rows kept by the sieve, of gates i, f, g, o."""
    rows_by_time: tuple[float, ...]
    """Share of gate rows kept, by time step of the window, first to last."""
    elements: float
    """Share of gate gradient elements that are not zero after the sieve."""
    blocks: float
    """Share of weight blocks kept."""
    columns: float
    """Share of columns of x and h kept."""


class Record(_Frozen):
    """The state of a training after `step` steps."""

    step: int
    train_loss: float
    """Nats a token, mean over the steps since the last record."""
    valid_loss: float | None
    """Nats a token over the validation text; None where it was not evaluated."""
    seconds: float
    """Wall clock of the training steps so far, without evaluation, checkpoints and start-up."""
    backward_seconds: float
    """Wall clock from the gradient of the LSTM's output to that of its input, so far."""
    rows: float
    """Share of gate rows kept, over all layers."""
    elements: float
    """Share of gate gradient elements not zero, over all layers."""
    work: Work
    saturations: dict[str, int]
    """Values that left their number format so far, by kind; empty for the float backend."""
    layers: tuple[LayerRecord, ...]


class Result(_Frozen):
    """One training run."""

    name: str
    """The method in a few words, as in `row sieve, 20 %`."""
    settings: dict[str, Any]
    """The configuration, every default filled in."""
    records: tuple[Record, ...]
    measured: bool
    """Whether cycles were counted by the engine's RTL."""
    parameters: int
    """Parameters of the model."""
    finished: bool = True

    @property
    def last(self) -> Record:
        """The state at the end."""
        return self.records[-1]

    @property
    def valid_loss(self) -> float:
        """The last validation loss, nats a token."""
        return next(r.valid_loss for r in reversed(self.records) if r.valid_loss is not None)
