"""A stream whose receiver always takes: payload and valid, no ready."""

from __future__ import annotations

from typing import Any

from amaranth.lib import wiring
from amaranth.lib.wiring import Out


class Flow(wiring.Signature):
    """`payload` counts in every cycle in which `valid` is high; there is no backpressure."""

    def __init__(self, payload_shape: Any) -> None:
        super().__init__({"payload": Out(payload_shape), "valid": Out(1)})
