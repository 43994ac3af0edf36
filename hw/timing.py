"""How long what the blocks do one after the other takes: sums of the blocks' own latencies along the engine's paths."""

from __future__ import annotations

from gradsieve.hw.array.array_sequencer import ArraySequencer
from gradsieve.hw.array.compactor import Compactor
from gradsieve.hw.array.drain import Drain
from gradsieve.hw.array.input_store import reload_cycles
from gradsieve.hw.array.operand_fetch import STORE_LATENCY, OperandFetch
from gradsieve.hw.array.systolic_array import drain_latency, gradient_latency
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.gates.gate_schedule import GateSchedule
from gradsieve.hw.gates.gate_sequencer import GateSequencer
from gradsieve.hw.gates.row_bitmap import RowBitmapBuilder
from gradsieve.hw.gates.sieve import sieve_latency
from gradsieve.hw.gates.state_store import StateStore
from gradsieve.hw.host.controller import START_LATENCY
from gradsieve.hw.host.input_packets import InputPackets
from gradsieve.hw.host.output_packets import OutputPackets
from gradsieve.hw.host.register_file import RegisterFile
from gradsieve.hw.lib.credit_queue import QUEUE_LATENCY
from gradsieve.hw.lib.register_slice import RegisterSlice

SLICE = RegisterSlice.latency
SETTLED = 2
"""Cycles after the last row's sum until the operand fetch says that it is idle, and the run is over."""
JOB_QUEUE_LATENCY = QUEUE_LATENCY + SLICE
"""Cycles of a job between the array sequencer and its readers."""


class Timing:
    """Cycles along the paths of an engine, where nothing stalls.

    An index is counted from the cycle in which the operand fetch asks for its words, a record and a row from that in
    which they are taken.
    """

    def __init__(self, config: EngineConfig) -> None:
        c, schedule = config, GateSchedule(config)
        self.period = schedule.period
        """Cycles a hidden unit in the gate gradient unit."""
        self.start_to_tape = 1 + RegisterFile.read_latency + 1 - START_LATENCY
        """From `start` to the tape's first beat, of a host that reads the status between the two."""
        self.tape_to_record = SLICE + InputPackets.header_latency - 1 + InputPackets.latency
        """From the tape's first beat, the header, to its first record, and a cycle more for each beat of that."""
        self.start_to_record = 1 + SLICE + StateStore.latency + SLICE + int(schedule.period > 1)
        """From a batch tile's start to its first record: the state, the unit's dh and dc, and the choice to take it."""
        self.record_to_rows = SLICE + schedule.latency + schedule.period - 1 + sieve_latency(c)
        """From a record to its last gate row out of the sieve, if the gate gradient unit takes it at once."""
        self.rows_to_index = (
            RowBitmapBuilder.latency
            + SLICE
            + ArraySequencer.latency
            + JOB_QUEUE_LATENCY
            + Compactor.latency
            + OperandFetch.asking
        )
        """From a batch tile's last gate row to its first index, if its bitmap's first two words have a bit."""
        self.inputs_reload = STORE_LATENCY + reload_cycles(c)
        """Between the first indices of two tiles of dW, at least: the stationary inputs."""
        self.index_to_row = OperandFetch.answer + drain_latency(c) + Drain.latency
        """From the last index of an error tile to its first row out of the drain; the others follow, a cycle each."""
        self.hidden_to_start = GateSequencer.start_delay
        """From dh_rec's last row to the start of the batch tile that waits for it."""
        self.index_to_start = STORE_LATENCY + GateSequencer.start_delay
        """From a batch tile's last index to the start of the one that waits for its slot."""
        self.inputs_to_start = GateSequencer.tile_gap
        """From a batch tile's last x to the start of the next one."""
        self.hidden_row_to_gate_row = self.hidden_to_start + self.start_to_record + SLICE + schedule.latency
        """From dh_rec's last row to the first gate row of the step before, out of the gate gradient unit."""
        self.hidden_to_gate_row = self.index_to_row + c.R - 1 + self.hidden_row_to_gate_row
        """From the last index of dh_rec to the first gate row of the step before, out of the gate gradient unit."""
        self.recurrence = self.hidden_to_gate_row + schedule.period - 1 + sieve_latency(c) + self.rows_to_index
        """From the last index of dh_rec to the first index of the step before, for one hidden unit."""
        self.index_to_end = STORE_LATENCY + gradient_latency(c) + c.R + SETTLED
        """From a run's last index to its end: every row's sum is stored."""
        self.rows_to_statistics = RowBitmapBuilder.latency + SLICE + QUEUE_LATENCY
        """From a batch tile's last gate row to its last word of statistics on its way into the packet."""
        self.row_to_result = SLICE
        """From a row of dx out of the drain to its way into the packet."""
        self.section_gap = OutputPackets.section_gap
        """From the last word of a section to the first of the next one, if a word is a beat or less."""
