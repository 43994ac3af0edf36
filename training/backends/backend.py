"""What computes a layer's passes: the interface of all backends, and what they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor

from gradsieve.golden.types import SieveMode
from gradsieve.training.float_backward import FloatBackward
from gradsieve.training.float_pass import FloatPass, LayerGradients, Upstream, Workspace
from gradsieve.training.layer_state import LayerState
from gradsieve.training.methods.sieves import GradientSieve
from gradsieve.training.methods.structured_dropout import ColumnMasks
from gradsieve.training.statistics import ForwardStatistics, PassStatistics
from gradsieve.training.tape import LayerTape


@dataclass(frozen=True)
class BackwardPass:
    """One run: the tape, the gradients from above, the effective weights, what to keep, and the layer's state.

    `block` (4H, tiles) bool: weight blocks kept, the weights outside them zero already.
    """

    tape: LayerTape
    upstream: Upstream
    w_ih: Tensor
    w_hh: Tensor
    sieve: GradientSieve
    state: LayerState
    block: Tensor | None = None
    block_columns: int | None = None
    columns: ColumnMasks | None = None
    need_dx: bool = True


@dataclass(frozen=True)
class ForwardPass:
    """One run: `x` (T, B, I), the state `h0`, `c0` (B, H) before it, the effective weights, and what to leave out.

    `bias` (4H) is the sum of both of `torch.nn.LSTM`, None for none.  Neither x nor the weights are scaled or masked by
    `columns`; `block` as in `BackwardPass`.
    """

    x: Tensor
    h0: Tensor
    c0: Tensor
    w_ih: Tensor
    w_hh: Tensor
    bias: Tensor | None = None
    block: Tensor | None = None
    block_columns: int | None = None
    columns: ColumnMasks | None = None


class Backend(Protocol):
    """Computes backward passes, and forward passes where it is asked to."""

    name: str
    lanes: int | None
    """Lanes of a batch tile, C; None: the whole batch is one."""
    columns: int
    """Columns of a tile, R."""

    def passes_over(self, sieve: GradientSieve, state: LayerState, weight: Tensor, B: int) -> bool:
        """Whether the next pass of a layer had better be PyTorch's own dense one, as the sieve would save no time.

        `weight` (4H, n) is one of the layer's, `B` the batch of the first step.
        """

    def forward(self, run: ForwardPass) -> tuple[LayerTape, ForwardStatistics | None]:
        """The tape of the pass, in the dtype and on the device of its x, and what integers did, if they computed it."""

    def backward(self, run: BackwardPass) -> tuple[LayerGradients, PassStatistics]:
        """The gradients of the pass, in the dtype and on the device of its tensors, and what it did."""


AnyPass = TypeVar("AnyPass", bound=FloatPass)


def float_pass(
    kind: type[AnyPass], run: BackwardPass, mode: SieveMode, tau: float, lanes: int, workspace: Workspace
) -> AnyPass:
    return kind(
        tape=run.tape,
        upstream=run.upstream,
        w_ih=run.w_ih,
        w_hh=run.w_hh,
        mode=mode,
        tau=tau,
        lanes=lanes,
        columns=run.columns,
        generator=run.state.generator,
        workspace=workspace,
        need_dx=run.need_dx,
    )


def measure(run: BackwardPass, lanes: int, workspace: Workspace) -> None:
    """Choose the first threshold of a steered sieve from a dense float pass, whatever the backend: all agree."""
    dense = float_pass(FloatBackward, run, SieveMode.DENSE, 0.0, lanes, workspace)
    dense.run()
    run.state.threshold.measure(run.sieve, dense.dz, lanes)


def mode_and_tau(run: BackwardPass, lanes: int, workspace: Workspace) -> tuple[SieveMode, float | None]:
    """The mode and threshold of the pass: dense while there is nothing to choose a threshold from."""
    if run.sieve.dense:
        return SieveMode.DENSE, None
    if run.state.threshold.current(run.sieve) is None:
        measure(run, lanes, workspace)
    tau = run.state.threshold.current(run.sieve)
    return (SieveMode.DENSE if tau is None else run.sieve.mode), tau


def steer(run: BackwardPass, statistics: PassStatistics, rows: float) -> None:
    """Move the threshold after a pass that kept this share of the rows."""
    if statistics.tau is not None:
        elements = statistics.elements / statistics.all_elements
        run.state.threshold.observe(run.sieve, elements if run.sieve.of_elements else rows)


def column_tiles(run: ForwardPass | BackwardPass, columns: int) -> Tensor | None:
    if run.columns is None or run.columns.columns != columns:
        return None
    return run.columns.tiles()
