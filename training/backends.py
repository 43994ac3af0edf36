"""Backends: what computes a layer's backward pass.  Float, the golden integers, or a device; one interface."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor

from gradsieve.golden.backward import backward as golden_backward
from gradsieve.golden.quantize import dequantize, quantize_tape, quantize_weights
from gradsieve.golden.types import Gradients, Masks, Sieve, SieveMode, Tape, Weights
from gradsieve.hw.config import ConfigError, EngineConfig
from gradsieve.training.float_backward import FloatBackward
from gradsieve.training.float_pass import FloatPass, LayerGradients, Upstream, Workspace, Workspaces
from gradsieve.training.layer_state import LayerState
from gradsieve.training.methods.sieves import GradientSieve
from gradsieve.training.methods.structured_dropout import ColumnMasks
from gradsieve.training.native import library
from gradsieve.training.native.passes import NativeBackward
from gradsieve.training.statistics import PassStatistics
from gradsieve.training.tape import LayerTape

if TYPE_CHECKING:
    from gradsieve.fpga.device import Device


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


class Backend(Protocol):
    """Computes backward passes."""

    name: str
    lanes: int | None
    """Lanes of a batch tile, C; None: the whole batch is one."""
    columns: int
    """Columns of a tile, R."""

    def passes_over(self, sieve: GradientSieve, state: LayerState, weight: Tensor, B: int) -> bool:
        """Whether the next pass of a layer had better be PyTorch's own dense one, as the sieve would save no time.

        `weight` (4H, n) is one of the layer's, `B` the batch of the first step.
        """

    def backward(self, run: BackwardPass) -> tuple[LayerGradients, PassStatistics]:
        """The gradients of the pass, in the dtype and on the device of its tensors, and what it did."""


AnyPass = TypeVar("AnyPass", bound=FloatPass)


def _float_pass(
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


def _measure(run: BackwardPass, lanes: int, workspace: Workspace) -> None:
    """Choose the first threshold of a steered sieve from a dense float pass, whatever the backend: all agree."""
    dense = _float_pass(FloatBackward, run, SieveMode.DENSE, 0.0, lanes, workspace)
    dense.run()
    run.state.threshold.measure(run.sieve, dense.dz, lanes)


def _mode_and_tau(run: BackwardPass, lanes: int, workspace: Workspace) -> tuple[SieveMode, float | None]:
    """The mode and threshold of the pass: dense while there is nothing to choose a threshold from."""
    if run.sieve.dense:
        return SieveMode.DENSE, None
    if run.state.threshold.current(run.sieve) is None:
        _measure(run, lanes, workspace)
    tau = run.state.threshold.current(run.sieve)
    return (SieveMode.DENSE if tau is None else run.sieve.mode), tau


def _steer(run: BackwardPass, statistics: PassStatistics, rows: float) -> None:
    """Move the threshold after a pass that kept this share of the rows."""
    if statistics.tau is not None:
        elements = statistics.elements / statistics.all_elements
        run.state.threshold.observe(run.sieve, elements if run.sieve.of_elements else rows)


PROBE = 32
"""A fixed threshold that gained nothing is tried again after so many passes."""
MARGIN = 0.9
"""Sieving is worth while below so much of the time of PyTorch's dense pass."""


@dataclass(frozen=True)
class Costs:
    """Of a sieved pass, in times of PyTorch's dense one: a row kept takes `row` + `copy` / B of a dense row, every pass
    `step` / (B H) besides.  Fitted to `gradsieve speed` on one CPU; others differ.
    """

    row: float
    copy: float
    step: float


COMPILED, OPERATIONS = Costs(row=1.15, copy=0, step=600), Costs(row=1.9, copy=15, step=2000)


def sieving_pays(share: float, H: int, B: int, costs: Costs = COMPILED) -> bool:
    """Whether a float pass that keeps `share` of the rows in the whole batch is faster than PyTorch's dense one."""
    return share * (costs.row + costs.copy / B) + costs.step / (B * H) < MARGIN


@cache
def _warn_of_speed(device: torch.device) -> None:
    """Warn once for each device whose speed nobody has measured."""
    if device.type not in ("cpu", "meta"):
        warnings.warn(
            f"sieved passes on {device} run in PyTorch's operations and have not been measured there: they are for "
            "study, not for speed",
            stacklevel=2,
        )


class FloatBackend:
    """Floats, on any device of PyTorch: GEMMs over the surviving rows or columns only.

    float32 and float64 on a CPU take compiled passes (`gradsieve.training.native`), which are built on first use;
    everything else, or all without a C++ compiler, takes PyTorch's operations, which compute the same up to rounding.
    On other devices these are for study, not for speed, as one warning says.

    `lanes`: lanes of a batch tile.  None, the whole batch, is what a CPU or GPU gains most from.  A number, as an
    engine's C, studies the engine's narrow tiles, which keep more sparsity: the GEMMs of a step run over every row that
    any tile keeps.  `columns`: R, for the accounting.  Passes with a sieve always sieve, but with
    `dense_where_faster`: then those in which sieving would save no time (`sieving_pays`) are PyTorch's own dense ones,
    of which one warning tells, and which the statistics count (`PassStatistics.left_dense`).  Raises ValueError for
    sizes below 1, and for `dense_where_faster` with `lanes`.  One backend may serve many modules and threads.
    """

    name = "float"

    def __init__(self, lanes: int | None = None, columns: int = 16, *, dense_where_faster: bool = False) -> None:
        if lanes is not None and lanes < 1:
            raise ValueError(f"lanes must be at least 1, or None for the whole batch; got {lanes!r}")
        if columns < 1:
            raise ValueError(f"columns must be at least 1, got {columns!r}")
        if dense_where_faster and lanes is not None:
            raise ValueError(f"lanes must be None with dense_where_faster, got {lanes!r}")
        self.lanes, self.columns, self.dense_where_faster = lanes, columns, dense_where_faster
        self._workspaces = Workspaces()

    def __repr__(self) -> str:
        faster = ", dense_where_faster=True" if self.dense_where_faster else ""
        return f"FloatBackend(lanes={self.lanes}, columns={self.columns}{faster})"

    def passes_over(self, sieve: GradientSieve, state: LayerState, weight: Tensor, B: int) -> bool:
        """See `Backend`."""
        if sieve.dense:
            return True
        if not self.dense_where_faster:
            return False
        with state.lock:
            # Of the rows, the element sieve keeps more than its target of the elements: only trying tells how many.
            known = sieve.target if not sieve.of_elements else None
            share = known if known is not None else state.share
            costs = COMPILED if library.serves(weight) else OPERATIONS
            if share is None or sieving_pays(share, len(weight) // 4, B, costs):
                return False
            if known is None and state.rested >= PROBE:
                state.rested = 0
                return False
            state.rested += 1
            return True

    def backward(self, run: BackwardPass) -> tuple[LayerGradients, PassStatistics]:
        """See `Backend`."""
        H, I, B, T = run.tape.sizes
        _warn_of_speed(run.tape.x.device)
        lanes = min(self.lanes or B, B)
        with self._workspaces.borrowed() as workspace:
            with run.state.lock:
                mode, tau = _mode_and_tau(run, lanes, workspace)
            kind = NativeBackward if library.serves(run.tape.x) else FloatBackward
            gradients, kept = _float_pass(kind, run, mode, tau or 0.0, lanes, workspace).run()
        statistics = PassStatistics(
            layer=run.state.layer, H=H, I=I, B=B, T=T,
            lanes=self.lanes or B,
            columns=self.columns,
            rows=None if mode == SieveMode.DENSE else kept.rows,
            elements=kept.elements,
            tau=tau,
            block=run.block if run.block_columns == self.columns else None,
            column=_column_tiles(run, self.columns),
            gemm_seconds=kept.gemm_seconds,
        )  # fmt: skip
        # every NaN and infinity of a gate gradient is kept, and so in db: what it did to the rows says nothing
        if kept.finite:
            with run.state.lock:
                if mode != SieveMode.DENSE:
                    run.state.share = kept.share
                _steer(run, statistics, kept.share)
        return gradients, statistics


class GoldenBackend:
    """The golden integers: the tape is quantised with an automatic loss scale, the results scaled back to floats.

    `config`: the engine; sizes of a run must be within its maxima.  None: one of `lanes` and `columns` that fits
    whatever comes.  Raises ConfigError for a run that does not fit, and ValueError for a tape with values that are not
    finite.
    """

    name = "golden"

    def __init__(self, config: EngineConfig | None = None, lanes: int = 4, columns: int = 16) -> None:
        self.config = config
        self.lanes: int | None = config.C if config is not None else lanes
        self.columns = config.R if config is not None else columns
        self._workspaces = Workspaces()

    def __repr__(self) -> str:
        engine = (
            f"lanes={self.lanes}, columns={self.columns}" if self.config is None else f"config={self.config.name!r}"
        )
        return f"GoldenBackend({engine})"

    def passes_over(self, sieve: GradientSieve, state: LayerState, weight: Tensor, B: int) -> bool:
        """Never: even a dense pass is an integer one."""
        return False

    def config_for(self, H: int, I: int, B: int, T: int) -> EngineConfig:
        """The engine of a run of these sizes."""
        if self.config is None:
            assert self.lanes is not None
            return fitting_config(H, I, B, T, lanes=self.lanes, columns=self.columns)
        self.config.check_run(H=H, I=I, B=B, T=T)
        return self.config

    def run(
        self, config: EngineConfig, weights: Weights, tape: Tape, sieve: Sieve, masks: Masks
    ) -> tuple[Gradients, int | None]:
        """The integer backward pass, and its cycles where they were counted."""
        return golden_backward(config, weights, tape, sieve, masks), None

    def backward(self, run: BackwardPass) -> tuple[LayerGradients, PassStatistics]:
        """See `Backend`.  Passes of one layer go one after the other: each begins with the random word of the last."""
        with run.state.lock, self._workspaces.borrowed() as workspace:
            return self._backward(run, workspace)

    def _backward(self, run: BackwardPass, workspace: Workspace) -> tuple[LayerGradients, PassStatistics]:
        H, I, B, T = run.tape.sizes
        config = self.config_for(H, I, B, T)
        if run.block is not None and run.block_columns != config.R:
            raise ConfigError(
                f"blocks of the weight masks must be R = {config.R} columns wide for engine {config.name!r}, "
                f"got {run.block_columns}"
            )
        if run.columns is not None and run.columns.columns != config.R:
            raise ConfigError(
                f"tiles of the structured dropout must be R = {config.R} columns wide for engine {config.name!r}, "
                f"got {run.columns.columns}"
            )
        upstream = run.upstream
        largest = max(float(v.abs().max()) for v in (upstream.dy, upstream.dh, upstream.dc))
        state, form = run.state, config.formats.gradient
        # A NaN or infinity is refused by the quantiser, which names where it is, and must not spoil the scale.
        finite = torch.isfinite(torch.tensor(largest))
        scale = state.loss_scale.choose(form, largest) if finite else 1.0
        tape, quantized = quantize_tape(config, _float_tape(run), scale)
        h_scale = run.columns.h_scale if run.columns is not None else 1.0
        weights, more = quantize_weights(config, run.w_ih, run.w_hh * h_scale)
        mode, tau = _mode_and_tau(run, config.C, workspace)
        register = 0 if tau is None else _register(tau, scale * form.scale, form.width)
        masks = Masks(block=run.block, column=_column_tiles(run, config.R))
        integers, cycles = self.run(config, weights, tape, Sieve(mode=mode, tau=register, random=state.random), masks)
        state.random = integers.random
        state.loss_scale.observe(largest, integers.saturations)
        statistics = PassStatistics(
            layer=state.layer, H=H, I=I, B=B, T=T,
            lanes=config.C,
            columns=config.R,
            rows=integers.rows_kept,
            elements=int(integers.elements_kept.sum()),
            tau=tau,
            block=masks.block,
            column=masks.column,
            scale=scale,
            saturations=integers.saturations,
            quantized=quantized | more,
            cycles=cycles,
        )  # fmt: skip
        _steer(run, statistics, statistics.kept_rows / statistics.all_rows)
        real = dequantize(config, integers, scale)
        like = upstream.dy
        gradients = LayerGradients(
            dx=real.dx.to(like) if run.need_dx else None,
            dh0=real.dh0.to(like),
            dc0=real.dc0.to(like),
            dw_ih=real.dw_ih.to(like),
            dw_hh=(real.dw_hh * h_scale).to(like),
            db=real.db.to(like),
        )
        return gradients, statistics


class DeviceBackend(GoldenBackend):
    """A device, simulated or a board: the numbers of `GoldenBackend`, bit for bit, and its cycles.

    `device`: an open one; sizes of a run must be within the maxima of its config.
    """

    name = "device"

    def __init__(self, device: Device) -> None:
        super().__init__(device.config)
        self.device = device

    def run(
        self, config: EngineConfig, weights: Weights, tape: Tape, sieve: Sieve, masks: Masks
    ) -> tuple[Gradients, int | None]:
        """The backward pass on the device, with what its counter CYCLES says."""
        with self.device.lock:  # layers and threads may share the device
            gradients = self.device.backward(weights, tape, sieve, masks)
            return gradients, self.device.counters()["CYCLES"]

    def __repr__(self) -> str:
        return f"DeviceBackend({self.device.config.name!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> DeviceBackend:
        return self  # there is but one device

    def __reduce__(self) -> Any:
        raise TypeError(
            "a module with a DeviceBackend cannot be saved whole, as a device cannot: save its state_dict and "
            "sieve_state_dict, or set another backend first"
        )


def fitting_config(H: int, I: int, B: int, T: int, lanes: int = 4, columns: int = 16, **more: Any) -> EngineConfig:
    """An engine whose largest run has these sizes."""
    from gradsieve.hw.config import make

    sizes = {"max_H": H, "max_I": I, "max_B": B, "max_T": T}
    return make("engine", **({"name": "fitting", "R": columns, "C": lanes} | sizes | more))


def _register(tau: float, lsb_per_unit: float, width: int) -> int:
    """A threshold in gradient LSBs: at least 1, so that rows of zeros stay out, at most what the register holds."""
    return max(1, min((1 << width) - 1, round(min(tau * lsb_per_unit, float(1 << width)))))


def _column_tiles(run: BackwardPass, columns: int) -> Tensor | None:
    if run.columns is None or run.columns.columns != columns:
        return None
    return run.columns.tiles()


def _float_tape(run: BackwardPass) -> Tape:
    H, _, B, T = run.tape.sizes
    i, f, g, o = run.tape.gates.view(T, B, 4, H).unbind(2)
    up = run.upstream
    return Tape(
        x=run.tape.x, h_prev=run.tape.hs[:-1], i=i, f=f, g=g, o=o, tanh_c=run.tape.tanh_c, c_prev=run.tape.cs[:-1],
        dy=up.dy, dh=up.dh, dc=up.dc,
    )  # fmt: skip
