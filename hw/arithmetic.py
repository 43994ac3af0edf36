"""Rounding and saturation as combinational expressions: the contract's one way from a wide value to a format."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value

POPCOUNT_TERMS = 5
"""Terms of one stage of a population count: two levels of lookup tables on most parts."""


def bits_for(maximum: int) -> Shape:
    """Unsigned shape that holds 0 to `maximum`."""
    return Shape.cast(range(maximum + 1))


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


def popcount(m: Module, bits: list[Value], name: str) -> tuple[Value, int]:
    """How many of `bits` are set, as a tree of registers of up to POPCOUNT_TERMS terms a stage, and its latency."""
    terms, latency = list(bits), 0
    while latency == 0 or len(terms) > 1:
        groups = [terms[n : n + POPCOUNT_TERMS] for n in range(0, len(terms), POPCOUNT_TERMS)]
        terms = []
        for n, group in enumerate(groups):
            total = sum(group[1:], start=group[0])
            register = Signal(bits_for(POPCOUNT_TERMS ** (latency + 1)), name=f"{name}_{latency}_{n}", reset_less=True)
            m.d.sync += register.eq(total)
            terms.append(register)
        latency += 1
    return terms[0], latency
