"""The blocks that have a bench, by the names of their files in the rooms of hw/ and in fpga/link/."""

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


def _block(name: str, room: str, component: str, *more_benches: str, module: str | None = None) -> tuple[str, Block]:
    """A block of `hw/<room>/<name>.py`, or a harness for it in `module`, with its bench in the room of that name."""
    place = f"{room}." if room else ""

    def make(config: EngineConfig) -> Any:
        factory = getattr(import_module(module or f"gradsieve.hw.{place}{name}"), component)
        return factory(config) if signature(factory).parameters else factory()

    return name, Block(make, tuple(f"gradsieve.tb.{place}bench_{n}" for n in (name, *more_benches)))


_HARNESS = "gradsieve.tb.harness"
BLOCKS: dict[str, Block] = dict(
    (
        _block("register_file", "host", "RegisterFile"),
        _block("controller", "host", "Controller"),
        _block("input_packets", "host", "InputPackets"),
        _block("processing_element", "array", "ProcessingElement"),
        _block("systolic_array", "array", "SkewedArray", module=_HARNESS),
        _block("gate_sequencer", "gates", "GateSequencer"),
        _block("gate_gradient", "gates", "GateGradientUnit"),
        _block("sieve", "gates", "Sieve"),
        _block("row_bitmap", "gates", "RowBitmapBuilder"),
        _block("bias_gradient", "gates", "BiasGradientAccumulator"),
        _block("array_sequencer", "array", "ArraySequencer"),
        _block("compactor", "array", "Compactor"),
        _block("operand_fetch", "array", "OperandFetch"),
        _block("requantizer", "array", "Requantizer"),
        _block("drain", "array", "Drain"),
        _block("input_store", "array", "InputStore"),
        _block("state_store", "gates", "StateStore"),
        _block("weight_store", "array", "WeightStore"),
        _block("weight_gradient_store", "array", "WeightGradientStore"),
        _block("readout", "host", "WeightGradientReadout"),
        _block("output_packets", "host", "OutputPackets"),
        _block("packet_closer", "host", "Closer", module=_HARNESS),
        _block("register_slice", "lib", "BeatSlice", module=_HARNESS),
        _block("credit_queue", "lib", "QueuedPipeline", module=_HARNESS),
        _block("credit_counter", "lib", "CreditCounters", module=_HARNESS),
        _block("delay_line", "lib", "DelayLines", module=_HARNESS),
        _block("packing", "host", "Packing", module=_HARNESS),
        _block("stream_memory", "lib", "WeightMemory", module=_HARNESS),
        _block("counters", "host", "Counters"),
        _block("serial_link", "link", "Link", "serial_link_refusals", module=_HARNESS),
        _block("engine", "", "Engine", "engine_faults"),
    )
)
"""In the order in which data flow."""
