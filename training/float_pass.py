"""What every way to compute a float backward pass takes and gives, and the buffers that its passes share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradsieve.golden.types import SieveMode
from gradsieve.training.methods.structured_dropout import ColumnMasks
from gradsieve.training.tape import LayerTape


@dataclass(frozen=True)
class Upstream:
    """Gradients that reach the layer: `dy` (T, B, H), and `dh`, `dc` (B, H) of the state after the last step."""

    dy: Tensor
    dh: Tensor
    dc: Tensor


@dataclass(frozen=True)
class LayerGradients:
    """`dx` (T, B, I; None if nobody needs it), `dh0`, `dc0` (B, H), `dw_ih` (4H, I), `dw_hh` (4H, H), `db` (4H).

    dx is the gradient of the tape's x: what the dropout did to it is not undone.
    """

    dx: Tensor | None
    dh0: Tensor
    dc0: Tensor
    dw_ih: Tensor
    dw_hh: Tensor
    db: Tensor


@dataclass(frozen=True)
class Kept:
    """What the sieve kept: `rows` (T, batch_tiles, 4H) bool, and elements of dz' that are not zero (dense: all).

    `share` of the rows; `finite`: whether all of db is.  `gemm_seconds` of the pass were spent in GEMMs; None where
    nobody measured them.
    """

    rows: Tensor
    elements: int
    share: float
    finite: bool
    gemm_seconds: float | None = None


class Workspace:
    """Buffers that live from pass to pass: fresh memory costs as much as the arithmetic on it."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self.block = torch.empty(0, dtype=torch.uint8)
        """Memory of the compiled passes, which let it grow."""

    def get(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """An uninitialised buffer of this shape; the one of the last call with this name if it fits."""
        size = torch.Size(shape).numel()
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < size or buffer.dtype != like.dtype or buffer.device != like.device:
            buffer = self._buffers[name] = like.new_empty(size)
        return buffer[:size].view(shape)


class Workspaces:
    """Workspaces that wait for a pass: each has its own while it runs, as passes may run in several threads at once."""

    def __init__(self) -> None:
        self._idle: list[Workspace] = []

    @contextmanager
    def borrowed(self) -> Iterator[Workspace]:
        """A workspace that nobody else uses in this block: the last one that was given back, or a new one."""
        try:
            workspace = self._idle.pop()
        except IndexError:
            workspace = Workspace()
        try:
            yield workspace
        finally:
            self._idle.append(workspace)

    def __deepcopy__(self, memo: dict[int, Any]) -> Workspaces:
        return Workspaces()

    def __reduce__(self) -> tuple[type[Workspaces], tuple[()]]:
        return Workspaces, ()


@dataclass
class FloatPass(ABC):
    """One backward pass in floats.

    `w_ih` (4H, I) and `w_hh` (4H, H) are the effective weights (masks applied; w_hh without the dropout's scale).
    `lanes` is the width of a batch tile, `generator` what the stochastic sieve draws from.
    """

    tape: LayerTape
    upstream: Upstream
    w_ih: Tensor
    w_hh: Tensor
    mode: SieveMode
    tau: float
    lanes: int
    columns: ColumnMasks | None
    generator: torch.Generator | None
    workspace: Workspace
    need_dx: bool = True

    @abstractmethod
    def run(self) -> tuple[LayerGradients, Kept]:
        """The gradients, and what was kept.  Raises nothing of its own: shapes were checked where the tape was made."""

    @property
    def masks(self) -> tuple[Tensor | None, Tensor | None]:
        """The columns of x (T, I) and of h (T, H) that the dropout kept, bool; None for all."""
        return self.columns.by_column(self.upstream.dy.device) if self.columns is not None else (None, None)

    @property
    def h_scale(self) -> float:
        """What the dropout multiplied the h that survived by."""
        return self.columns.h_scale if self.columns is not None else 1.0

    def draws(self, batch_tiles: int) -> Tensor | None:
        """The random numbers of the stochastic sieve, (T, batch_tiles, 4H), from 0 to below 1, all drawn at once."""
        if self.mode != SieveMode.STOCHASTIC:
            return None
        H, _, _, T = self.tape.sizes
        like = self.tape.gates
        drawn = torch.rand(T, batch_tiles, 4 * H, generator=self.generator, dtype=like.dtype)
        return drawn.to(like.device)
