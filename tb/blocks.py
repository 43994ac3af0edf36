"""The blocks that have a bench, by the names of their files in hw/ and fpga/link/."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from typing import Any

from gradsieve.hw.config import EngineConfig


@dataclass(frozen=True)
class Block:
    """`component(config)` is the design under test, `benches` the modules of its tests."""

    component: Callable[[EngineConfig], Any]
    benches: tuple[str, ...]


def _block(name: str, module: str, component: str, *more_benches: str) -> tuple[str, Block]:
    def make(config: EngineConfig) -> Any:
        factory = getattr(import_module(module), component)
        return factory(config) if signature(factory).parameters else factory()

    return name, Block(make, tuple(f"gradsieve.tb.bench_{n}" for n in (name, *more_benches)))


BLOCKS: dict[str, Block] = dict(
    (
        _block("register_file", "gradsieve.hw.register_file", "RegisterFile"),
        _block("controller", "gradsieve.hw.controller", "Controller"),
        _block("input_packets", "gradsieve.hw.input_packets", "InputPackets"),
        _block("processing_element", "gradsieve.hw.processing_element", "ProcessingElement"),
        _block("systolic_array", "gradsieve.tb.harness", "SkewedArray"),
        _block("gate_sequencer", "gradsieve.hw.gate_sequencer", "GateSequencer"),
        _block("gate_gradient", "gradsieve.hw.gate_gradient", "GateGradientUnit"),
        _block("sieve", "gradsieve.hw.sieve", "Sieve"),
        _block("row_bitmap", "gradsieve.hw.row_bitmap", "RowBitmapBuilder"),
        _block("bias_gradient", "gradsieve.hw.bias_gradient", "BiasGradientAccumulator"),
        _block("array_sequencer", "gradsieve.hw.array_sequencer", "ArraySequencer"),
        _block("compactor", "gradsieve.hw.compactor", "Compactor"),
        _block("operand_fetch", "gradsieve.hw.operand_fetch", "OperandFetch"),
        _block("requantizer", "gradsieve.hw.requantizer", "Requantizer"),
        _block("drain", "gradsieve.hw.drain", "Drain"),
        _block("input_store", "gradsieve.hw.input_store", "InputStore"),
        _block("state_store", "gradsieve.hw.state_store", "StateStore"),
        _block("weight_store", "gradsieve.hw.weight_store", "WeightStore"),
        _block("weight_gradient_store", "gradsieve.hw.weight_gradient_store", "WeightGradientStore"),
        _block("readout", "gradsieve.hw.readout", "WeightGradientReadout"),
        _block("output_packets", "gradsieve.hw.output_packets", "OutputPackets"),
        _block("packet_closer", "gradsieve.tb.harness", "Closer"),
        _block("register_slice", "gradsieve.tb.harness", "BeatSlice"),
        _block("reserved_queue", "gradsieve.tb.harness", "QueuedPipeline"),
        _block("delay_line", "gradsieve.tb.harness", "DelayLines"),
        _block("packing", "gradsieve.tb.harness", "Packing"),
        _block("memory", "gradsieve.tb.harness", "WeightMemory"),
        _block("counters", "gradsieve.hw.counters", "Counters"),
        _block("serial_link", "gradsieve.tb.harness", "Link"),
        _block("engine", "gradsieve.hw.engine", "Engine", "engine_faults"),
    )
)
"""In the order in which data flow."""
