"""From the statistics of single passes to the records of a training."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from gradsieve.golden.types import Saturations
from gradsieve.hw.config import GATES, EngineConfig
from gradsieve.training.cycles import run_cycles
from gradsieve.training.history import LayerRecord, Work
from gradsieve.training.statistics import PassStatistics


@dataclass(frozen=True)
class LayerSize:
    """Sizes of a layer and direction at full size, without any mask."""

    layer: str
    H: int
    I: int
    B: int
    T: int

    @property
    def forward_macs(self) -> int:
        """Multiply-accumulates of a forward pass; a backward pass has twice as many."""
        return 4 * self.H * (self.I + self.H) * self.B * self.T


@lru_cache(maxsize=64)
def dense_cycles(config: EngineConfig, H: int, I: int, B: int, T: int) -> int:
    """Cycles of a pass without sieve and masks, by the cycle model."""
    tiles = -(-I // config.R) + -(-H // config.R)
    return run_cycles(config, H, I, B, T, torch.full((T, -(-B // config.C), tiles), 4 * H))


@dataclass
class _Layer:
    """Sums over the passes of one layer since the last record."""

    tau: float | None = None
    scale: float | None = None
    gate_rows: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))
    time_rows: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    passes: int = 0
    kept_rows: int = 0
    all_rows: int = 0
    elements: int = 0
    all_elements: int = 0
    blocks: float = 0.0
    columns: float = 0.0


class Account:
    """Adds passes up.  `sizes`: every layer at full size; `config`: the engine whose cycles are reported.

    Shares are of the full layer: units that a mask leaves out count as rows that were not kept.
    """

    def __init__(self, sizes: list[LayerSize], config: EngineConfig, tokens: int) -> None:
        self.sizes = {size.layer: size for size in sizes}
        self.config, self.tokens = config, tokens
        self.work = Work()
        self.saturations: Counter[str] = Counter()
        self._layers = {size.layer: _Layer() for size in sizes}

    def add_step(self, passes: list[PassStatistics], more_forward: int = 0) -> None:
        """The passes of one training step, one a layer, and multiply-accumulates of further forward passes."""
        w = self.work
        forward, backward, elements, cycles = more_forward, 0, 0, 0
        for p in passes:
            forward += p.forward_macs
            backward += p.macs
            elements += p.element_macs
            cycles += p.engine_cycles(self.config)
            self._add(p)
        full = sum(size.forward_macs for size in self.sizes.values())
        dense = sum(dense_cycles(self.config, s.H, s.I, s.B, s.T) for s in self.sizes.values())
        self.work = Work(
            forward=w.forward + forward,
            dense_forward=w.dense_forward + full,
            backward=w.backward + backward,
            elements=w.elements + elements,
            dense_backward=w.dense_backward + 2 * full,
            cycles=w.cycles + cycles,
            dense_cycles=w.dense_cycles + dense,
        )

    def _add(self, p: PassStatistics) -> None:
        size, layer = self.sizes[p.layer], self._layers[p.layer]
        full = replace(p, H=size.H, I=size.I)
        layer.tau, layer.scale = p.tau, p.scale
        layer.passes += 1
        layer.kept_rows += p.kept_rows
        layer.all_rows += full.all_rows
        layer.elements += p.elements
        layer.all_elements += full.all_elements
        tiles = full.all_rows / (4 * size.H * p.T)
        if p.rows is None:
            gates = torch.full((p.T, 4), p.H / size.H, dtype=torch.float64)
        else:
            gates = p.rows.view(p.T, -1, len(GATES), p.H).sum(dim=(1, 3)).double() / (tiles * size.H)
        layer.gate_rows = layer.gate_rows + gates.mean(dim=0)
        if len(layer.time_rows) != p.T:
            layer.time_rows = torch.zeros(p.T, dtype=torch.float64)
        layer.time_rows = layer.time_rows + gates.mean(dim=1)
        # A layer that runs with fewer units has the square of their share of the blocks.
        layer.blocks += (p.H * (p.I + p.H)) / (size.H * (size.I + size.H)) * _share(p.block)
        layer.columns += _share(p.column)
        if p.saturations is not None:
            for f in fields(Saturations):
                self.saturations[f.name] += getattr(p.saturations, f.name)
        for name, count in (p.quantized or {}).items():
            self.saturations[f"quantized {name}"] += count
        if p.forward is not None:
            for name, count in asdict(p.forward.saturations).items():
                self.saturations[f"forward {name}"] += count
            for name, count in p.forward.quantized.items():
                self.saturations[f"quantized forward {name}"] += count

    def take(self) -> tuple[float, float, tuple[LayerRecord, ...]]:
        """Rows and elements kept over all layers, and each layer's record, since the last call."""
        records = tuple(self._record(name, layer) for name, layer in self._layers.items() if layer.passes)
        layers = self._layers.values()
        rows = sum(v.kept_rows for v in layers) / max(1, sum(v.all_rows for v in layers))
        elements = sum(v.elements for v in layers) / max(1, sum(v.all_elements for v in layers))
        self._layers = {name: _Layer() for name in self._layers}
        return rows, elements, records

    def _record(self, name: str, layer: _Layer) -> LayerRecord:
        i, f, g, o = (layer.gate_rows / layer.passes).tolist()
        return LayerRecord(
            layer=name,
            tau=None if layer.tau is None else layer.tau * self.tokens,
            scale=layer.scale,
            rows_by_gate=(i, f, g, o),
            rows_by_time=tuple((layer.time_rows / layer.passes).tolist()),
            elements=layer.elements / layer.all_elements,
            blocks=layer.blocks / layer.passes,
            columns=layer.columns / layer.passes,
        )

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "work": self.work.model_dump(),
            "saturations": dict(self.saturations),
            "layers": {name: vars(layer).copy() for name, layer in self._layers.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.work = Work(**state["work"])
        self.saturations = Counter(state["saturations"])
        self._layers = {name: _Layer(**layer) for name, layer in state["layers"].items()}


def _share(mask: Tensor | None) -> float:
    return 1.0 if mask is None else float(mask.double().mean())
