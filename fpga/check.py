"""The check of a board: a random training step in every mode of the sieve, compared with the golden model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

from torch import Tensor

from gradsieve.fpga.device import Device
from gradsieve.fpga.link.session import Statistics
from gradsieve.golden.backward import backward
from gradsieve.golden.random_case import MASK_KINDS, random_case
from gradsieve.golden.types import Gradients, SieveMode

SIZES_MAX = (24, 24, 8, 4)
"""H, I, B, T at most: so much goes over a serial line in a second."""


@dataclass(frozen=True)
class ModeCheck:
    """One backward run on the board and how it compares with golden.

    `sizes` are H, I, B, T; `values` so many integers were compared, and `differences` of them, by field, were wrong.
    `seconds` is the whole round trip: weights, masks and tape there, results and weight gradients back.
    Between the tape's first beat and the result's last one, the engine's counters tell the cycles of `run_cycles` in
    which it did not wait for the tape: their share of that time are `compute_seconds`.  `transfer_seconds` is
    the rest of the time in which packets moved, and what remains went to registers and to the host.  `array_cycles`
    are the clock cycles in which the array worked.
    """

    mode: SieveMode
    sizes: tuple[int, int, int, int]
    values: int
    differences: dict[str, int]
    seconds: float
    transfer_seconds: float
    compute_seconds: float
    bytes_sent: int
    bytes_received: int
    retransmitted: int
    run_cycles: int
    array_cycles: int

    @property
    def mismatches(self) -> int:
        """How many integers were wrong: 0 for a board that works."""
        return sum(self.differences.values())

    @property
    def other_seconds(self) -> float:
        """What is left of the round trip."""
        return self.seconds - self.transfer_seconds - self.compute_seconds


def check(
    device: Device,
    statistics: Statistics,
    seed: int = 1,
    sizes: tuple[int, int, int, int] | None = None,
    report: Callable[[SieveMode], None] = lambda mode: None,
) -> Iterator[ModeCheck]:
    """Run a random training step in each mode, each with masks of another kind; `report` is called before each.

    `statistics` are those of the device's transport; `sizes` are as many as the engine allows up to SIZES_MAX by
    default.  Raises DeviceError when the board fails, ValueError for sizes over the engine's.
    """
    c = device.config
    if sizes is None:
        H, I, B, T = (min(pair) for pair in zip(SIZES_MAX, (c.max_H, c.max_I, c.max_B, c.max_T), strict=True))
        sizes = H, I, B, T
    for n, mode in enumerate(SieveMode):
        report(mode)
        case = random_case(c, seed + n, sizes=sizes, mode=mode, masks=MASK_KINDS[n % len(MASK_KINDS)])
        before, begin = Statistics(**vars(statistics)), time.perf_counter()
        result = device.backward(*case)
        seconds, after = time.perf_counter() - begin, Statistics(**vars(statistics))
        counters = device.counters()
        run_cycles, array_cycles = counters["CYCLES"], counters["BUSY_CYCLES"]
        # the array works on while the tape is waited for
        computing = max(array_cycles, run_cycles - counters["STALL_TAPE"])
        compute = (after.exchange_seconds - before.exchange_seconds) * computing / run_cycles
        yield ModeCheck(
            mode=mode,
            sizes=sizes,
            values=_values(result),
            differences={name: wrong for name, wrong in result.differences(backward(c, *case)).items() if wrong},
            seconds=seconds,
            transfer_seconds=after.seconds - before.seconds - compute,
            compute_seconds=compute,
            bytes_sent=after.bytes_sent - before.bytes_sent,
            bytes_received=after.bytes_received - before.bytes_received,
            retransmitted=after.retransmitted - before.retransmitted,
            run_cycles=run_cycles,
            array_cycles=array_cycles,
        )


def _values(gradients: Gradients) -> int:
    """How many integers a result has."""
    values = (getattr(gradients, f.name) for f in fields(gradients))
    return sum(v.numel() if isinstance(v, Tensor) else 1 for v in values)
