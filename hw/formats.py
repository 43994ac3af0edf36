"""Fixed-point number formats of the engine (docs/arithmetic.md)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

from gradsieve.hw.validation import quote

OPERAND_WIDTH = (4, 18)
"""Widths that a multiplier operand may have, in bits, from and to: 18 is the widest hard multiplier of the targets."""


class FixedPoint(BaseModel):
    """A signed two's complement fixed-point format, written `width.fraction` (for example `16.13`).

    The integer n stands for the real number n / 2**fraction.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(ge=2, le=64)
    fraction: int = Field(ge=0, le=63)

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if isinstance(value, str):
            match = re.fullmatch(r"\s*(\d+)\.(\d+)\s*", value)
            if match is None:
                raise ValueError(f"must be 'width.fraction', such as '16.13'; got {quote(value)}")
            return {"width": int(match[1]), "fraction": int(match[2])}
        if not isinstance(value, Mapping | FixedPoint):
            raise ValueError(f"must be a string 'width.fraction', such as '16.13'; got {quote(value)}")
        return value

    @model_validator(mode="after")
    def _check(self) -> FixedPoint:
        if self.fraction >= self.width:
            raise ValueError(f"must have a fraction less than its width, got '{self}'")
        return self

    @model_serializer
    def _text(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return f"{self.width}.{self.fraction}"

    @property
    def minimum(self) -> int:
        """The smallest integer that the format holds."""
        return -(1 << (self.width - 1))

    @property
    def maximum(self) -> int:
        """The largest integer that the format holds."""
        return (1 << (self.width - 1)) - 1

    @property
    def scale(self) -> int:
        """The integer that stands for 1.0."""
        return 1 << self.fraction


class Formats(BaseModel):
    """The number formats of one engine; docs/arithmetic.md has them as a table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: FixedPoint = FixedPoint(width=16, fraction=13)
    """W."""
    activation: FixedPoint = FixedPoint(width=16, fraction=15)
    """i, f, g, o, tanh c and every derivative factor."""
    cell: FixedPoint = FixedPoint(width=16, fraction=11)
    """c."""
    input: FixedPoint = FixedPoint(width=16, fraction=13)
    """x and h, the columns of xh."""
    gradient: FixedPoint = FixedPoint(width=16, fraction=12)
    """dy, dh, dc, dz, dx and every elementwise product."""
    weight_grad_width: int = Field(default=48, ge=16, le=64)
    """Width of the exact sums dW and db, in bits; their fractions follow from the other formats."""
    preactivation: FixedPoint = FixedPoint(width=16, fraction=11)
    """z, the sums of the forward pass: the argument of the gates' functions."""
    bias: FixedPoint = FixedPoint(width=16, fraction=13)
    """b, the sum of both biases of `torch.nn.LSTM`, for the forward pass."""

    @model_validator(mode="after")
    def _check(self) -> Formats:
        low, high = OPERAND_WIDTH
        for name in ("weight", "activation", "cell", "input", "gradient", "preactivation", "bias"):
            width = getattr(self, name).width
            if not low <= width <= high:
                raise ValueError(f"formats.{name} must have a width of {low} to {high} bits, got {width}")
        return self

    def check_forward(self) -> None:
        """Raise ValueError unless every rounding of the forward pass is a shift to the right, as its contract says."""
        product, twice = self.weight.fraction + self.input.fraction, 2 * self.activation.fraction
        limits = {
            "preactivation": (product, "that of weight plus that of input"),
            "bias": (product, "that of weight plus that of input"),
            "input": (twice, "twice that of activation"),
        }
        for name, (most, of) in limits.items():
            fraction = getattr(self, name).fraction
            if fraction > most:
                raise ValueError(
                    f"formats.{name} must have a fraction of at most {most} ({of}) for a forward pass, got {fraction}"
                )

    @property
    def weight_grad(self) -> FixedPoint:
        """Format of dW: the fraction of the exact product of an input and a gradient."""
        return FixedPoint(width=self.weight_grad_width, fraction=self.input.fraction + self.gradient.fraction)

    @property
    def bias_grad(self) -> FixedPoint:
        """Format of db: a sum of gradients."""
        return FixedPoint(width=self.weight_grad_width, fraction=self.gradient.fraction)

    @property
    def element_bits(self) -> int:
        """Bits in which a stream carries one operand: the power of two that holds the widest of them."""
        widest = max(getattr(self, n).width for n in ("weight", "activation", "cell", "input", "gradient"))
        return 8 if widest <= 8 else 16 if widest <= 16 else 32
