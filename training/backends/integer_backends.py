"""The integer backends: the golden model, and a device, simulated or a board."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradsieve.golden.backward import backward as golden_backward
from gradsieve.golden.forward import forward as golden_forward
from gradsieve.golden.quantize import (
    dequantize,
    dequantize_inputs,
    dequantize_outputs,
    quantize_inputs,
    quantize_tape,
    quantize_weights,
)
from gradsieve.golden.types import Gradients, Masks, Sieve, Tape, Weights
from gradsieve.hw.config import GATES, ConfigError, EngineConfig
from gradsieve.training.backends.backend import (
    BackwardPass,
    ForwardPass,
    column_tiles,
    mode_and_tau,
    steer,
)
from gradsieve.training.float_pass import LayerGradients, Workspace, Workspaces
from gradsieve.training.layer_state import LayerState
from gradsieve.training.methods.sieves import GradientSieve
from gradsieve.training.statistics import ForwardStatistics, PassStatistics
from gradsieve.training.tape import LayerTape

if TYPE_CHECKING:
    from gradsieve.fpga.device import Device


class GoldenBackend:
    """The golden integers: the tape is quantised with an automatic loss scale, the results scaled back to floats.

    So is a forward pass with `SievedLSTM(forward="backend")`: x, state, weights and bias are quantised, and the tape is
    of the integers as floats, which float32 and float64 hold exactly; what masks and dropout drop is skipped.

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

    def forward(self, run: ForwardPass) -> tuple[LayerTape, ForwardStatistics | None]:
        """See `Backend`."""
        T, B, I = run.x.shape
        H = run.h0.shape[1]
        config = self.config_for(H, I, B, T)
        _check_tiles(config, run)
        x_scale, h_scale = (1.0, 1.0) if run.columns is None else (run.columns.x_scale, run.columns.h_scale)
        inputs, quantized = quantize_inputs(config, run.x * x_scale, run.h0, run.c0)
        bias = run.w_ih.new_zeros(4 * H) if run.bias is None else run.bias
        weights, more = quantize_weights(config, run.w_ih, run.w_hh * h_scale, bias)
        outputs = golden_forward(config, weights, inputs, Masks(block=run.block, column=column_tiles(run, config.R)))
        x, real = dequantize_inputs(config, inputs), dequantize_outputs(config, outputs)
        x_mask = None if run.columns is None else run.columns.by_column(torch.device("cpu"))[0]
        tape = LayerTape(
            x=(x if x_mask is None else x * x_mask[:, None]).to(run.x),
            hs=torch.cat([real["h_prev"][:1], real["y"]]).to(run.x),
            cs=torch.cat([real["c_prev"], real["c_n"][None]]).to(run.x),
            gates=torch.cat([real[gate] for gate in GATES], dim=2).to(run.x),
            tanh_c=real["tanh_c"].to(run.x),
        )
        return tape, ForwardStatistics(outputs.saturations, quantized | more)

    def backward(self, run: BackwardPass) -> tuple[LayerGradients, PassStatistics]:
        """See `Backend`.  Passes of one layer go one after the other: each begins with the random word of the last."""
        with run.state.lock, self._workspaces.borrowed() as workspace:
            return self._backward(run, workspace)

    def _backward(self, run: BackwardPass, workspace: Workspace) -> tuple[LayerGradients, PassStatistics]:
        H, I, B, T = run.tape.sizes
        config = self.config_for(H, I, B, T)
        _check_tiles(config, run)
        upstream = run.upstream
        largest = max(float(v.abs().max()) for v in (upstream.dy, upstream.dh, upstream.dc))
        state, form = run.state, config.formats.gradient
        # A NaN or infinity is refused by the quantiser, which names where it is, and must not spoil the scale.
        finite = torch.isfinite(torch.tensor(largest))
        scale = state.loss_scale.choose(form, largest) if finite else 1.0
        tape, quantized = quantize_tape(config, _float_tape(run), scale)
        h_scale = run.columns.h_scale if run.columns is not None else 1.0
        weights, more = quantize_weights(config, run.w_ih, run.w_hh * h_scale)
        mode, tau = mode_and_tau(run, config.C, workspace)
        register = 0 if tau is None else _register(tau, scale * form.scale, form.width)
        masks = Masks(block=run.block, column=column_tiles(run, config.R))
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
        steer(run, statistics, statistics.kept_rows / statistics.all_rows)
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

    def forward(self, run: ForwardPass) -> tuple[LayerTape, ForwardStatistics | None]:
        """Raises ConfigError: engines compute backward passes only."""
        raise ConfigError(
            f"forward must be 'float' with a DeviceBackend (engine {self.device.config.name!r} computes backward "
            "passes only), got 'backend'"
        )

    def __repr__(self) -> str:
        return f"DeviceBackend({self.device.config.name!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> DeviceBackend:
        return self  # there is but one device

    def __reduce__(self) -> Any:
        raise TypeError(
            "a module with a DeviceBackend cannot be saved whole, as a device cannot: save its state_dict and "
            "sieve_state_dict, or set another backend first"
        )


def _check_tiles(config: EngineConfig, run: ForwardPass | BackwardPass) -> None:
    """Raise ConfigError unless blocks and tiles of the masks are as wide as the engine's."""
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


def fitting_config(H: int, I: int, B: int, T: int, lanes: int = 4, columns: int = 16, **more: Any) -> EngineConfig:
    """An engine whose largest run has these sizes."""
    from gradsieve.hw.config import make

    sizes = {"max_H": H, "max_I": I, "max_B": B, "max_T": T}
    return make("engine", **({"name": "fitting", "R": columns, "C": lanes} | sizes | more))


def _register(tau: float, lsb_per_unit: float, width: int) -> int:
    """A threshold in gradient LSBs: at least 1, so that rows of zeros stay out, at most what the register holds."""
    return max(1, min((1 << width) - 1, round(min(tau * lsb_per_unit, float(1 << width)))))


def _float_tape(run: BackwardPass) -> Tape:
    H, _, B, T = run.tape.sizes
    i, f, g, o = run.tape.gates.view(T, B, 4, H).unbind(2)
    up = run.upstream
    return Tape(
        x=run.tape.x, h_prev=run.tape.hs[:-1], i=i, f=f, g=g, o=o, tanh_c=run.tape.tanh_c, c_prev=run.tape.cs[:-1],
        dy=up.dy, dh=up.dh, dc=up.dc,
    )  # fmt: skip
