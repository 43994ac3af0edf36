"""Rounding and saturation as combinational expressions: the contract's one way from a wide value to a format."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, signed

from hw.formats import FixedPoint


def round_half_even(value: Value, shift: int) -> Value:
    """`value` / 2**shift, rounded to the nearest integer, ties to the even one; `value` is signed, `shift` fixed."""
    if shift == 0:
        return value
    quotient = value >> shift
    below = value[: shift - 1].any() if shift > 1 else Const(0)
    return quotient + (value[shift - 1] & (below | quotient[0]))


def saturate(value: Value, width: int) -> tuple[Value, Value]:
    """`value` clipped to signed `width` bits, and whether it had to be."""
    total = Shape.cast(value.shape()).width
    if total <= width:
        return value, Const(0)
    sign = value[total - 1]
    overflow = Mux(sign, ~value[width - 1 : total].all(), value[width - 1 : total].any())
    clipped = Cat((~sign).replicate(width - 1), sign)
    return Mux(overflow, clipped, value[:width]).as_signed(), overflow


def requantize(m: Module, value: Value, fraction: int, target: FixedPoint, name: str) -> tuple[Signal, Signal]:
    """The contract's `[value]`: round half to even from `fraction` to the target's fraction, then saturate.

    Adds combinational logic to `m`; returns the result (signed, the target's width) and the saturation flag.
    Raises ValueError if the target has the longer fraction: the contract never widens one.
    """
    if fraction < target.fraction:
        raise ValueError(f"cannot requantize from {fraction} to {target.fraction} fraction bits")
    rounded_value = round_half_even(value, fraction - target.fraction)
    rounded = Signal(Shape.cast(rounded_value.shape()), name=f"{name}_rounded")
    result = Signal(signed(target.width), name=name)
    saturated = Signal(name=f"{name}_saturated")
    clipped, overflow = saturate(rounded, target.width)
    m.d.comb += [rounded.eq(rounded_value), result.eq(clipped), saturated.eq(overflow)]
    return result, saturated
