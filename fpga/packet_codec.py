"""From arrays to the bytes of a packet and back, by its declaration in `gradsieve.hw.packets`."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradsieve.fpga.errors import PacketError
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.packets import Bitmap, Group, Loop, Packet, Run, Section, Vector

Bytes = NDArray[np.uint8]
Arrays = Mapping[str, NDArray[Any]]
"""By the name of a vector or bitmap: an axis for each loop around it, from outer to inner and each counted upwards;
then one for the numbers of a vector, or one for each loop that a bitmap is over."""


def encode(packet: Packet, run: Run, arrays: Arrays) -> Bytes:
    """A packet of a run.  Numbers that its formats cannot hold are cut off, as in `numpy.astype`.

    Raises ValueError for an array of another shape than the declaration's.
    """
    parts = []
    if packet.kind is not None:
        header = np.zeros(_beat_bytes(run.config), np.uint8)
        header[0] = packet.kind
        parts.append(header)
    for group in packet.groups:
        if group.there(run):
            outer = _shape(group.loops, run)
            sections = [_section_bytes(section, run, outer, arrays) for section in group.sections]
            parts.append(_in_order(np.concatenate(sections, axis=-1), group).reshape(-1))
    return np.concatenate(parts)


def decode(packet: Packet, run: Run, data: Bytes) -> dict[str, NDArray[Any]]:
    """The arrays of a packet without a header.  Raises PacketError if its length is wrong."""
    beat_bytes = _beat_bytes(run.config)
    if len(data) != (length := packet.beats(run) * beat_bytes):
        raise PacketError(f"a packet of {len(data)} bytes came where {length} were due")
    found: dict[str, NDArray[Any]] = {}
    for group in packet.groups:
        if group.there(run):
            lengths = [section.beats(run) * beat_bytes for section in group.sections]
            outer = _shape(group.loops, run)
            body, data = np.split(data, [prod(outer) * sum(lengths)])
            body = _in_order(body.reshape(*outer, sum(lengths)), group)
            for section, part in zip(group.sections, _split(body, lengths), strict=True):
                found |= _section_arrays(section, run, outer, part)
    return found


def _beat_bytes(config: EngineConfig) -> int:
    return config.stream_width // 8


def _shape(loops: tuple[Loop, ...], run: Run) -> tuple[int, ...]:
    return tuple(loop.turns(run) for loop in loops)


def _in_order(body: Bytes, group: Group) -> Bytes:
    """Turns that count upwards in the order in which they come, and the other way round."""
    return np.flip(body, tuple(axis for axis, loop in enumerate(group.loops) if loop.descending))


def _split(data: Bytes, lengths: list[int]) -> list[Bytes]:
    """Along the last axis; what is over is left out."""
    return np.split(data, np.cumsum(lengths), axis=-1)[: len(lengths)]


def _dtype(vector: Vector, run: Run) -> np.dtype[Any]:
    size = vector.number_bits(run.config, run.exact) // 8
    return np.dtype(f"<{'u' if vector.format == 'count' else 'i'}{size}")


def _section_bytes(section: Section, run: Run, outer: tuple[int, ...], arrays: Arrays) -> Bytes:
    """A section at each turn of the loops around it, filled up to whole beats: (*outer, bytes)."""
    parts = []
    for nest in section.nests:
        around = outer + _shape(nest.loops, run)
        contents = [_content_bytes(content, run, around, arrays[content.name]) for content in nest.contents]
        parts.append(np.concatenate(contents, axis=-1).reshape(*outer, -1))
    data = np.concatenate(parts, axis=-1)
    missing = section.beats(run) * _beat_bytes(run.config) - data.shape[-1]
    return np.concatenate([data, np.zeros((*outer, missing), np.uint8)], axis=-1)


def _section_arrays(section: Section, run: Run, outer: tuple[int, ...], data: Bytes) -> dict[str, NDArray[Any]]:
    found = {}
    for nest, part in zip(section.nests, _split(data, [nest.bits(run) // 8 for nest in section.nests]), strict=True):
        around = outer + _shape(nest.loops, run)
        raw = part.reshape(*around, -1)
        for content, each in zip(nest.contents, _split(raw, [c.bits(run) // 8 for c in nest.contents]), strict=True):
            found[content.name] = _content_array(content, run, around, np.ascontiguousarray(each))
    return found


def _content_bytes(content: Vector | Bitmap, run: Run, around: tuple[int, ...], array: NDArray[Any]) -> Bytes:
    """A vector or bitmap with its padding: (*around, bytes)."""
    size = content.bits(run) // 8
    own = _shape(content.over, run) if isinstance(content, Bitmap) else (content.slots.used(run.config),)
    if array.shape != around + own:
        raise ValueError(f"{content.name} must have shape {around + own}, got {array.shape}")
    if isinstance(content, Bitmap):
        data = np.packbits(array.reshape(*around, -1), axis=-1, bitorder="little")
    else:
        data = np.ascontiguousarray(array, _dtype(content, run)).view(np.uint8)
    return np.concatenate([data, np.zeros((*around, size - data.shape[-1]), np.uint8)], axis=-1)


def _content_array(content: Vector | Bitmap, run: Run, around: tuple[int, ...], raw: Bytes) -> NDArray[Any]:
    if isinstance(content, Bitmap):
        shape = _shape(content.over, run)
        bits = np.unpackbits(raw, axis=-1, count=prod(shape), bitorder="little")
        return bits.astype(bool).reshape(*around, *shape)
    return raw.view(_dtype(content, run))[..., : content.slots.used(run.config)]
