"""Backends: what computes a layer's backward pass.  Float, the golden integers, or a device; one interface."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from gradsieve.fpga.device import Device
from gradsieve.golden.backward import backward as golden_backward
from gradsieve.golden.quantize import dequantize, quantize_tape, quantize_weights
from gradsieve.golden.types import Gradients, Masks, Sieve, SieveMode, Tape, Weights
from gradsieve.hw.config import ConfigError, EngineConfig
from gradsieve.training.float_backward import FloatBackward, LayerGradients, Upstream, Workspace
from gradsieve.training.forward import LayerTape
from gradsieve.training.loss_scale import LossScale
from gradsieve.training.methods.sieves import GradientSieve, Threshold
from gradsieve.training.methods.structured_dropout import ColumnMasks
from gradsieve.training.statistics import PassStatistics

GOLDEN_RATIO = 0x9E3779B9
"""Seeds differ from layer to layer by multiples of it: far apart, and never the zero that xorshift32 cannot leave."""


@dataclass
class LayerState:
    """What a layer and direction keeps from pass to pass: the threshold, the random words, the loss scale."""

    layer: str
    number: int
    seed: int = 1
    threshold: Threshold = field(default_factory=Threshold)
    loss_scale: LossScale = field(default_factory=LossScale)
    random: int = 0
    generator: torch.Generator = field(default_factory=torch.Generator)
    share: float | None = None
    """Share of rows that the last sieved pass kept."""
    rested: int = 0
    """Passes since then that were dense because sieving gained nothing."""

    def __post_init__(self) -> None:
        self.reseed(self.seed)

    def reseed(self, seed: int) -> None:
        """Begin the random words anew."""
        self.seed = seed
        self.generator.manual_seed((seed << 16) + self.number)
        self.random = (seed + (self.number + 1) * GOLDEN_RATIO) % (1 << 32) or 1

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "seed": self.seed,
            "threshold": self.threshold.state_dict(),
            "loss_scale": self.loss_scale.state_dict(),
            "random": self.random,
            "generator": self.generator.get_state(),
            "share": self.share,
            "rested": self.rested,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.seed, self.random = state["seed"], state["random"]
        self.threshold.load_state_dict(state["threshold"])
        self.loss_scale.load_state_dict(state["loss_scale"])
        self.generator.set_state(state["generator"])
        self.share, self.rested = state["share"], state["rested"]


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

    def passes_over(self, sieve: GradientSieve, state: LayerState, H: int, B: int) -> bool:
        """Whether the next pass of a layer had better be PyTorch's own dense one, as the sieve would save no time."""

    def backward(self, run: BackwardPass) -> tuple[LayerGradients, PassStatistics]:
        """The gradients of the pass, in the dtype and on the device of its tensors, and what it did."""


def _float_pass(run: BackwardPass, mode: SieveMode, tau: float, lanes: int, workspace: Workspace) -> FloatBackward:
    return FloatBackward(
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
    dense = _float_pass(run, SieveMode.DENSE, 0.0, lanes, workspace)
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


def _steer(run: BackwardPass, statistics: PassStatistics) -> None:
    if statistics.tau is None:
        return
    if run.sieve.of_elements:
        share = statistics.elements / statistics.all_elements
    else:
        share = statistics.kept_rows / statistics.all_rows
    run.state.threshold.observe(run.sieve, share)


PROBE = 32
"""A fixed threshold that gained nothing is tried again after so many passes."""
ROW_COST, COPY_COST, STEP_COST, MARGIN = 1.9, 15, 2000, 0.9
"""Of a sieved pass, relative to PyTorch's dense one: a row kept takes ROW_COST + COPY_COST / B of a dense row, every
pass STEP_COST / (B H) besides; below MARGIN it is worth while.  Fitted to `gradsieve speed` on one CPU; others differ.
"""


def sieving_pays(share: float, H: int, B: int) -> bool:
    """Whether a float pass that keeps `share` of the rows in the whole batch is faster than PyTorch's dense one."""
    return share * (ROW_COST + COPY_COST / B) + STEP_COST / (B * H) < MARGIN


class FloatBackend:
    """The fast path, on any device of PyTorch: GEMMs over the surviving rows or columns only.

    `lanes`: lanes of a batch tile.  None, the whole batch, is what a CPU or GPU gains most from: where so many rows
    stay that sieving gains no time, the pass is PyTorch's own dense one.  A number, as an engine's C, studies the
    engine's narrow tiles, which keep more sparsity: the sieve always applies, and the GEMMs of a step run over every
    row that any tile keeps.  `columns`: R, for the accounting.
    """

    name = "float"

    def __init__(self, lanes: int | None = None, columns: int = 16) -> None:
        if lanes is not None and lanes < 1:
            raise ValueError(f"lanes must be at least 1, or None for the whole batch; got {lanes!r}")
        if columns < 1:
            raise ValueError(f"columns must be at least 1, got {columns!r}")
        self.lanes, self.columns = lanes, columns
        self._workspace = Workspace()

    def passes_over(self, sieve: GradientSieve, state: LayerState, H: int, B: int) -> bool:
        """See `Backend`."""
        if sieve.dense:
            return True
        if self.lanes is not None:
            return False
        # Of the rows, the element sieve keeps more than its target of the elements: only trying tells how many.
        known = sieve.target if not sieve.of_elements else None
        share = known if known is not None else state.share
        if share is None or sieving_pays(share, H, B):
            return False
        if known is None and state.rested >= PROBE:
            state.rested = 0
            return False
        state.rested += 1
        return True

    def backward(self, run: BackwardPass) -> tuple[LayerGradients, PassStatistics]:
        """See `Backend`."""
        H, I, B, T = run.tape.sizes
        lanes = min(self.lanes or B, B)
        mode, tau = _mode_and_tau(run, lanes, self._workspace)
        gradients, kept = _float_pass(run, mode, tau or 0.0, lanes, self._workspace).run()
        statistics = PassStatistics(
            layer=run.state.layer, H=H, I=I, B=B, T=T,
            lanes=self.lanes or B,
            columns=self.columns,
            rows=None if mode == SieveMode.DENSE else kept.rows,
            elements=kept.elements,
            tau=tau,
            block=run.block if run.block_columns == self.columns else None,
            column=_column_tiles(run, self.columns),
        )  # fmt: skip
        if mode != SieveMode.DENSE:
            run.state.share = statistics.kept_rows / statistics.all_rows
        _steer(run, statistics)
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
        self._workspace = Workspace()

    def passes_over(self, sieve: GradientSieve, state: LayerState, H: int, B: int) -> bool:
        """Never: even a dense pass runs on the engine."""
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
        """See `Backend`."""
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
        mode, tau = _mode_and_tau(run, config.C, self._workspace)
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
        _steer(run, statistics)
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
        gradients = self.device.backward(weights, tape, sieve, masks)
        return gradients, self.device.counters()["CYCLES"]


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
