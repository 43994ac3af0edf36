"""The gate gradient unit's schedule: which product uses a multiplier when, and how long all of it takes."""

from __future__ import annotations

from dataclasses import dataclass

from gradsieve.hw.config import EngineConfig
from gradsieve.hw.formats import FixedPoint
from gradsieve.hw.lib.credit_queue import CreditQueue
from gradsieve.hw.lib.multiplier import Multiplier

PRODUCT_STAGES = (
    *(f"multiplied_{n}" for n in range(Multiplier.latency)),
    *("signed", "exact", "split", "rounded", "judged"),
)
"""From a product's operands to its rounded value: the multiplier, sign, minuend, rounding in two, overflow."""

LANDING = 1
"""Cycles of a rounded value in the register where it waits for the end of its interval."""

MACRO_STAGE = 1
"""Cycles from the last one of an interval to the value in the register of the next."""


@dataclass(frozen=True)
class Product:
    """[a*b], or [minuend - a*b], rounded to a format."""

    name: str
    a: str
    b: str
    target: str
    minus_from: str | None = None  # None: the product itself; "one" or an operand: that minus the product


OPERANDS = ("i", "f", "g", "o", "tanh_c", "c_prev", "dy", "dh", "dc")
"""What comes with each hidden unit."""

# Each class is one group of multipliers; the order is the order of issue within an interval.
SQUARES = (
    Product("q_o", "o", "o", "activation", "o"),
    Product("q_i", "i", "i", "activation", "i"),
    Product("q_f", "f", "f", "activation", "f"),
    Product("q_g", "g", "g", "activation", "one"),
)
HIDDEN = (
    Product("s", "tanh_c", "tanh_c", "activation", "one"),
    Product("e", "dh_sum", "o", "gradient"),
    Product("ho", "dh_sum", "tanh_c", "gradient"),
    Product("es", "e", "s", "gradient"),
)
CELL = (
    Product("ig", "dct", "g", "gradient"),
    Product("fc", "dct", "c_prev", "gradient"),
    Product("gi", "dct", "i", "gradient"),
    Product("dc_out", "dct", "f", "gradient"),
)
GATES = (
    Product("dz_i", "ig", "q_i", "gradient"),
    Product("dz_f", "fc", "q_f", "gradient"),
    Product("dz_g", "gi", "q_g", "gradient"),
    Product("dz_o", "ho", "q_o", "gradient"),
)
CLASSES = {"squares": SQUARES, "hidden": HIDDEN, "cell": CELL, "gates": GATES}

# Saturating sums of two values of one format.
SUMS = {"dh_sum": ("dy", "dh"), "dct": ("dc", "es")}
FACTORS = tuple(p.name for products in CLASSES.values() for p in products if p.target == "activation")
"""Results in the activation format; all other results are in that of gradients."""
ACTIVATIONS = ("i", "f", "g", "o", "tanh_c", *FACTORS)


def format_of(config: EngineConfig, name: str) -> FixedPoint:
    """The number format of a value."""
    f = config.formats
    return f.activation if name in ACTIVATIONS else f.cell if name == "c_prev" else f.gradient


def gate_period(config: EngineConfig) -> int:
    """Cycles a hidden unit: it has 4 gate rows."""
    return 4 // config.gate_rows_per_cycle


def most_saturated(config: EngineConfig) -> dict[str, int]:
    """Most results of a hidden unit that can saturate: those in the gradient format, and in the activation one."""
    results = len(SUMS) + sum(len(products) for products in CLASSES.values())
    return {"gate": (results - len(FACTORS)) * config.C, "factor": len(FACTORS) * config.C}


class GateSchedule:
    """`ready`: the earliest interval of every value; `issue`: that of every product's operands.

    `period` is the length of an interval in cycles, `end` the one in which all results are there.  `pipeline`:
    cycles from an accepted input to the queue, and to its dc; `latency`: to its first gate rows, without backpressure.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.period = gate_period(config)
        ready = dict.fromkeys((*OPERANDS, "lane_valid"), 0)
        issue: dict[str, int] = {}
        pending = {p.name: (p, n % self.period) for ops in CLASSES.values() for n, p in enumerate(ops)}
        sums = dict(SUMS)
        while pending or sums:
            for name, (left, right) in list(sums.items()):
                if left in ready and right in ready:
                    ready[name] = max(ready[left], ready[right]) + 1
                    del sums[name]
            for name, (p, slot) in list(pending.items()):
                if p.a in ready and p.b in ready:
                    issue[name] = max(ready[p.a], ready[p.b])
                    # the landing register must be full when an interval ends
                    ready[name] = issue[name] + -(-(slot + len(PRODUCT_STAGES) + LANDING + MACRO_STAGE) // self.period)
                    del pending[name]
        # squares wait with their operands, which are kept for other products anyway, until just before they are needed
        for square in SQUARES:
            (use,) = [p.name for p in GATES if p.b == square.name]
            slack = issue[use] - ready[square.name]
            issue[square.name], ready[square.name] = issue[square.name] + slack, ready[square.name] + slack
        self.issue, self.ready = issue, ready
        self.end = max(ready[n] for n in (*(p.name for p in GATES), "dc_out"))
        self.pipeline = MACRO_STAGE + self.end * self.period + 1  # the rows' register
        self.latency = self.pipeline + CreditQueue.latency
