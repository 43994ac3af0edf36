"""Payloads of Amaranth streams as Python values: one flat integer and back, by the layout of the payload."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from amaranth.hdl import Shape
from amaranth.lib import data


class Format:
    """Packs values into the flat bits of a shape: dictionaries for structures, lists for arrays, else integers.

    What a dictionary does not name is zero; an integer is taken modulo its width.
    """

    def __init__(self, shape: Any) -> None:
        self.shape = shape
        self.width: int = Shape.cast(shape).width
        self.pack: Callable[[Any], int] = _packer(shape)
        self.unpack: Callable[[int], Any] = _unpacker(shape)


def _fields(layout: data.Layout) -> list[tuple[Any, int, Any]]:
    return [(key, field.offset, field.shape) for key, field in layout]


def _packer(shape: Any) -> Callable[[Any], int]:
    if isinstance(shape, data.Layout):
        parts = [(key, offset, _packer(inner)) for key, offset, inner in _fields(shape)]
        if isinstance(shape, data.StructLayout):
            names = {key for key, _, _ in parts}

            def pack_struct(value: Any) -> int:
                unknown = value.keys() - names
                if unknown:
                    raise KeyError(f"fields must be among {sorted(names)}, got {sorted(unknown)}")
                return sum(pack(value[key]) << offset for key, offset, pack in parts if key in value)

            return pack_struct

        def pack_array(value: Any) -> int:
            return sum(pack(item) << offset for item, (_, offset, pack) in zip(value, parts, strict=True))

        return pack_array
    mask = (1 << Shape.cast(shape).width) - 1
    return lambda value: int(value) & mask


def _unpacker(shape: Any) -> Callable[[int], Any]:
    if isinstance(shape, data.Layout):
        parts = [(key, offset, _unpacker(inner)) for key, offset, inner in _fields(shape)]
        if isinstance(shape, data.StructLayout):
            return lambda bits: {key: unpack(bits >> offset) for key, offset, unpack in parts}
        return lambda bits: [unpack(bits >> offset) for _, offset, unpack in parts]
    cast = Shape.cast(shape)
    mask = (1 << cast.width) - 1
    if not cast.signed:
        return lambda bits: bits & mask
    sign = 1 << cast.width >> 1
    return lambda bits: ((bits & mask) ^ sign) - sign
