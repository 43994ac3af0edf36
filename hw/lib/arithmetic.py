"""Rounding and saturation as combinational expressions: the contract's one way from a wide value to a format."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value

POPCOUNT_TERMS = 5
"""Terms of one stage of a population count: two levels of lookup tables on most parts."""


def bits_for(maximum: int) -> Shape:
    """Unsigned shape that holds 0 to `maximum`."""
    return Shape.cast(range(maximum + 1))


def halves(value: Value, shift: int) -> tuple[Value, Value]:
    """`value` / 2**shift as two terms, whose sum is rounded half to even; `value` is signed, `shift` fixed."""
    if shift == 0:
        return value, Const(0)
    quotient = value >> shift
    below = value[: shift - 1].any() if shift > 1 else Const(0)
    return quotient, value[shift - 1] & (below | quotient[0])


def overflows(value: Value, width: int) -> Value:
    """Whether `value` does not fit signed `width` bits."""
    total = Shape.cast(value.shape()).width
    if total <= width:
        return Const(0)
    return Mux(value[total - 1], ~value[width - 1 : total].all(), value[width - 1 : total].any())


def clip(value: Value, overflow: Value, width: int) -> Value:
    """`value` as signed `width` bits: the nearest end of their range if it overflows."""
    total = Shape.cast(value.shape()).width
    if total <= width:
        return value
    sign = value[total - 1]
    return Mux(overflow, Cat((~sign).replicate(width - 1), sign), value[:width]).as_signed()


def saturate(value: Value, width: int) -> tuple[Value, Value]:
    """`value` clipped to signed `width` bits, and whether it had to be."""
    overflow = overflows(value, width)
    return clip(value, overflow, width), overflow


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
