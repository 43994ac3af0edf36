"""Sparse-gradient LSTM engines: generated as Verilog, proven against a golden model, used from PyTorch.

The names below are loaded when they are first used: importing the package itself loads neither PyTorch nor Amaranth.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gradsieve.fpga.device import simulated
    from gradsieve.hw.config import EngineConfig, load, preset
    from gradsieve.rtl_gen.generate import generate
    from gradsieve.training.backends import DeviceBackend, FloatBackend, GoldenBackend
    from gradsieve.training.lstm import SievedLSTM
    from gradsieve.training.methods.sieves import DenseSieve, ElementSieve, GradientSieve, RowSieve, StochasticSieve
    from gradsieve.training.methods.structured_dropout import StructuredDropout

_HOMES = {
    "DenseSieve": "gradsieve.training.methods.sieves",
    "DeviceBackend": "gradsieve.training.backends",
    "ElementSieve": "gradsieve.training.methods.sieves",
    "EngineConfig": "gradsieve.hw.config",
    "FloatBackend": "gradsieve.training.backends",
    "GoldenBackend": "gradsieve.training.backends",
    "GradientSieve": "gradsieve.training.methods.sieves",
    "RowSieve": "gradsieve.training.methods.sieves",
    "SievedLSTM": "gradsieve.training.lstm",
    "StochasticSieve": "gradsieve.training.methods.sieves",
    "StructuredDropout": "gradsieve.training.methods.structured_dropout",
    "generate": "gradsieve.rtl_gen.generate",
    "load": "gradsieve.hw.config",
    "preset": "gradsieve.hw.config",
    "simulated": "gradsieve.fpga.device",
}

__all__ = [
    "DenseSieve",
    "DeviceBackend",
    "ElementSieve",
    "EngineConfig",
    "FloatBackend",
    "GoldenBackend",
    "GradientSieve",
    "RowSieve",
    "SievedLSTM",
    "StochasticSieve",
    "StructuredDropout",
    "__version__",
    "generate",
    "load",
    "preset",
    "simulated",
]


if not TYPE_CHECKING:  # a type checker would take any name for one of these

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
