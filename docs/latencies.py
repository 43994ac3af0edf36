"""The table of latencies in docs/architecture.md, from the blocks of hw/ themselves."""

from __future__ import annotations

from collections.abc import Callable

from gradsieve.hw.array.compactor import Compactor
from gradsieve.hw.array.drain import Drain
from gradsieve.hw.array.operand_fetch import OperandFetch
from gradsieve.hw.array.systolic_array import drain_latency
from gradsieve.hw.config import EngineConfig, preset
from gradsieve.hw.gates.gate_schedule import GateSchedule
from gradsieve.hw.gates.sieve import sieve_latency
from gradsieve.hw.host.readout import WeightGradientReadout
from gradsieve.hw.timing import Timing

LATENCIES: dict[str, Callable[[EngineConfig], int]] = {
    "gate gradient unit: a hidden unit to its first gate row": lambda c: GateSchedule(c).latency,
    "sieve: a gate row to the same row out": sieve_latency,
    "compactor: a job to its first index": lambda c: Compactor.latency,
    "operand fetch: an index to its operand": lambda c: OperandFetch.latency,
    "systolic array: the last operand of an error tile to its first sums": drain_latency,
    "drain: sums to dh_rec or dx": lambda c: Drain.latency,
    "readout: a decision to its group of elements": lambda c: WeightGradientReadout.latency,
    "last gate row of a batch tile to its first index": lambda c: Timing(c).rows_to_index,
    "last dh_rec out of the drain to the next gate row out of the gate gradient unit": lambda c: (
        Timing(c).hidden_row_to_gate_row
    ),
    "last index of dh_rec to that gate row, with one batch tile": lambda c: Timing(c).hidden_to_gate_row,
    "last index of dh_rec to the first index of the step before, if H is 1": lambda c: Timing(c).recurrence,
    "first index of a dW tile to that of the next, at least": lambda c: Timing(c).inputs_reload,
    "last index of a run to its end": lambda c: Timing(c).index_to_end,
}
"""What takes how many cycles where nothing stalls."""


def engines() -> dict[str, EngineConfig]:
    """The columns of the table."""
    found = {f"`{name}`": preset(name) for name in ("tiny", "edge", "default", "ptb")}
    for rate in (2, 4):
        found[f"`default`, {rate} rows"] = preset("default").model_copy(update={"gate_rows_per_cycle": rate})
    return found


def rows() -> list[list[str]]:
    """The table's cells, headings first."""
    columns = engines()
    lines = [[what, *(str(cycles(config)) for config in columns.values())] for what, cycles in LATENCIES.items()]
    return [["cycles", *columns], *lines]
