"""The blocks that have a bench, by the names of their files in hw/ and fpga/link/."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from typing import Any

from hw.config import EngineConfig


@dataclass(frozen=True)
class Block:
    """`component(config)` is the design under test, `benches` the modules of its tests."""

    component: Callable[[EngineConfig], Any]
    benches: tuple[str, ...]


def _block(name: str, module: str, component: str, *more_benches: str) -> tuple[str, Block]:
    def make(config: EngineConfig) -> Any:
        factory = getattr(import_module(module), component)
        return factory(config) if signature(factory).parameters else factory()

    return name, Block(make, tuple(f"tb.bench_{n}" for n in (name, *more_benches)))


BLOCKS: dict[str, Block] = dict(
    (
        _block("register_file", "hw.register_file", "RegisterFile"),
        _block("controller", "hw.controller", "Controller"),
        _block("input_packets", "hw.input_packets", "InputPackets"),
        _block("processing_element", "hw.processing_element", "ProcessingElement"),
        _block("systolic_array", "tb.harness", "SkewedArray"),
        _block("gate_sequencer", "hw.gate_sequencer", "GateSequencer"),
        _block("gate_gradient", "hw.gate_gradient", "GateGradientUnit"),
        _block("sieve", "hw.sieve", "Sieve"),
        _block("row_bitmap", "hw.row_bitmap", "RowBitmapBuilder"),
        _block("bias_gradient", "hw.bias_gradient", "BiasGradientAccumulator"),
        _block("array_sequencer", "hw.array_sequencer", "ArraySequencer"),
        _block("compactor", "hw.compactor", "Compactor"),
        _block("operand_fetch", "hw.operand_fetch", "OperandFetch"),
        _block("requantizer", "hw.requantizer", "Requantizer"),
        _block("drain", "hw.drain", "Drain"),
        _block("input_store", "hw.input_store", "InputStore"),
        _block("state_store", "hw.state_store", "StateStore"),
        _block("weight_store", "hw.weight_store", "WeightStore"),
        _block("weight_gradient_store", "hw.weight_gradient_store", "WeightGradientStore"),
        _block("readout", "hw.readout", "WeightGradientReadout"),
        _block("output_packets", "hw.output_packets", "OutputPackets"),
        _block("packet_closer", "tb.harness", "Closer"),
        _block("register_slice", "tb.harness", "BeatSlice"),
        _block("reserved_queue", "tb.harness", "QueuedPipeline"),
        _block("delay_line", "tb.harness", "DelayLines"),
        _block("packing", "tb.harness", "Packing"),
        _block("memory", "tb.harness", "WeightMemory"),
        _block("counters", "hw.counters", "Counters"),
        _block("serial_link", "tb.harness", "Link"),
        _block("engine", "hw.engine", "Engine", "engine_faults"),
    )
)
"""In the order in which data flow."""
