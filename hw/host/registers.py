"""The register map: the one source of decoder, documentation, C header and host driver.

Registers are 32 bits wide, on an AXI4-Lite port; a 64-bit counter is two of them, low half first.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from gradsieve.hw.config import RANDOM_SEED, SieveMode
from gradsieve.hw.lib.arithmetic import bits_for


class Access(Enum):
    """What software may do with a field."""

    READ_ONLY = "r"
    READ_WRITE = "rw"
    PULSE = "w"
    """Writing 1 acts once; reads as 0."""


class ErrorCode(IntEnum):
    """Values of STATUS.error."""

    NONE = 0
    BAD_SIZE = 1
    """H, I, B or T is zero or above what the engine was built for."""
    PACKET_KIND = 2
    """A packet of an unknown kind, or of one that may not come now."""
    PACKET_LENGTH = 3
    """TLAST came before or after the beat that ends the packet for the sizes in force, or a beat had null bytes."""
    TOO_MANY_TERMS = 4
    """The run would add more terms to dW than it has room for: read (or clear) the weight gradients first."""
    BUSY = 5
    """A command came while another was under way; that one goes on unharmed."""
    BAD_MODE = 6
    """RANDOM is zero in the stochastic mode, or READ_MODE.fraction is above the exact fraction of dW or db."""


FATAL_ERRORS = (ErrorCode.PACKET_KIND, ErrorCode.PACKET_LENGTH)
"""Faults of a packet: only a soft reset leads out.  The others refuse a command, and `acknowledge` clears them."""


@dataclass(frozen=True)
class Field:
    """Bits lsb + width - 1 : lsb of a register."""

    name: str
    lsb: int
    width: int
    doc: str
    values: type[IntEnum] | None = None


@dataclass(frozen=True)
class Register:
    """One 32-bit register at a byte offset; `fields` is empty where the whole word is one number."""

    name: str
    offset: int
    access: Access
    doc: str
    fields: tuple[Field, ...] = ()
    reset: int = 0
    live: bool = False
    """Reads come from the hardware, which goes on changing what was written."""

    def field(self, name: str) -> Field:
        """The field of that name (KeyError if there is none)."""
        for f in self.fields:
            if f.name == name:
                return f
        raise KeyError(f"register {self.name} has no field {name!r}")


IDENTITY = 0x47535631
"""What ID reads: "GSV1"."""

COUNTERS_64: dict[str, str] = {
    "CYCLES": "Cycles from the start of the run to the last statistics or dx beat taken and the last dW stored.",
    "BUSY_CYCLES": "Cycles in which the array took an operand.",
    "INDICES": "Row indices streamed into the array, of both dataflows.",
    "MACS": "Useful multiply-accumulates: each index counts the columns of its tile by the samples of its batch tile.",
    "LOAD_CYCLES": "Cycles with a weight, mask or seed packet open, since the last reset.",
    "READOUT_CYCLES": "Cycles of read commands and of state sections, since the last reset.",
}
COUNTERS_32: dict[str, str] = {
    "ROWS_KEPT": "Gate rows that the sieve let through.",
    "ELEMENTS_KEPT": "Elements of the sieved gate gradients that are not zero.",
    "SATURATED_GATE": "Saturations of gradient-format results of the gate gradient unit.",
    "SATURATED_FACTOR": "Saturations of activation-format derivative factors.",
    "SATURATED_SIEVE": "Elements that the stochastic shift saturated.",
    "SATURATED_ERROR": "Saturations of dx and dh_rec.",
    "SATURATED_READ": "Saturations of requantized weight gradients of the last read command.",
    "STALL_GATES": "Cycles in which the array sequencer waited for gate gradients.",
    "STALL_TAPE": "Cycles in which the gate gradient unit waited for the tape.",
    "STALL_INPUT": "Cycles in which an operand waited for the stationary inputs of its tile.",
    "STALL_DRAIN": "Cycles in which the end of a tile waited for room to drain into.",
    "STALL_OUTPUT": "Cycles in which an output beat waited for the host.",
}


def _registers() -> tuple[Register, ...]:
    ro, rw, pulse = Access.READ_ONLY, Access.READ_WRITE, Access.PULSE
    head = [
        ("ID", ro, 'Reads 0x47535631, "GSV1".', (), IDENTITY),
        ("DIGEST_LOW", ro, "Digest of the config, bits 31:0.", (), 0),
        ("DIGEST_HIGH", ro, "Digest of the config, bits 63:32.", (), 0),
        (
            "ARRAY",
            ro,
            "Shape of the engine.",
            (
                Field("columns", 0, 8, "R"),
                Field("lanes", 8, 8, "C"),
                Field("rate", 16, 4, "Gate rows a cycle of the gate gradient unit"),
                Field("stream_bytes", 24, 8, "Bytes of a stream beat"),
            ),
            0,
        ),
        ("MAX_HI", ro, "Largest sizes.", (Field("H", 0, 16, "largest H"), Field("I", 16, 16, "largest I")), 0),
        ("MAX_BT", ro, "Largest sizes.", (Field("B", 0, 16, "largest B"), Field("T", 16, 16, "largest T")), 0),
        (
            "CONTROL",
            pulse,
            "Commands; one bit a write.",
            (
                Field("start", 0, 1, "Start a backward run"),
                Field("clear", 1, 1, "Zero the weight gradients and the term count"),
                Field("read", 2, 1, "Return the weight gradients as one packet"),
                Field("acknowledge", 3, 1, "Clear an error that refused a command"),
                Field("soft_reset", 4, 1, "Abandon everything and return to a clean engine, weight gradients zero"),
                Field("resync", 5, 1, "With soft_reset: take the next input beat as a header even in an open packet"),
            ),
            0,
        ),
        (
            "STATUS",
            ro,
            "State of the engine.",
            (
                Field("busy", 0, 1, "A command is under way, or the weight gradients are being zeroed after a reset"),
                Field("input_open", 1, 1, "An input packet has begun and not ended"),
                Field("output_open", 2, 1, "An output packet has begun and not ended"),
                Field("fatal", 3, 1, "The error needs a soft reset"),
                Field("error", 4, 4, "What went wrong first", ErrorCode),
            ),
            0,
        ),
        (
            "MODE",
            rw,
            "How a run is done; taken at start.",
            (
                Field("sieve", 0, bits_for(max(SieveMode)).width, "Mode of the sieve", SieveMode),
                Field("seed", 4, 1, "Begin with the dh, dc of the last SEED packet instead of zeros"),
                Field("block_mask", 5, 1, "Apply the block bitmaps"),
                Field("column_mask", 6, 1, "Apply the column bitmaps"),
                Field("state_out", 7, 1, "Append dh0, dc0 to the result"),
            ),
            0,
        ),
        (
            "READ_MODE",
            rw,
            "How weight gradients are read; taken at the read command.",
            (
                Field("exact", 0, 1, "64-bit exact elements instead of 32-bit requantized ones"),
                Field("keep", 1, 1, "Do not clear what is read"),
                Field("fraction", 8, 6, "Fraction bits of requantized elements"),
            ),
            0,
        ),
        ("H", rw, "Hidden units of a run.", (), 1),
        ("I", rw, "Inputs of a run.", (), 1),
        ("B", rw, "Batch of a run.", (), 1),
        ("T", rw, "Time steps of a run.", (), 1),
        ("TAU", rw, "Threshold of the sieve, unsigned, in gradient LSBs.", (), 0),
        ("RANDOM", rw, "State of the xorshift32 source, not zero; goes on from run to run.", (), RANDOM_SEED),
        ("TERMS", ro, "Products added into each element of dW since it was last cleared.", (), 0),
    ]
    out = [Register(n, 4 * i, a, d, f, r, live=n == "RANDOM") for i, (n, a, d, f, r) in enumerate(head)]
    offset = 0x80
    for name, doc in COUNTERS_64.items():
        out.append(Register(f"{name}_LOW", offset, ro, f"{doc} Bits 31:0."))
        out.append(Register(f"{name}_HIGH", offset + 4, ro, f"{doc} Bits 63:32."))
        offset += 8
    for name, doc in COUNTERS_32.items():
        out.append(Register(name, offset, ro, doc))
        offset += 4
    return tuple(out)


REGISTERS: tuple[Register, ...] = _registers()
BY_NAME: dict[str, Register] = {r.name: r for r in REGISTERS}
ADDRESS_WIDTH = 8
"""Bits of a byte address of the register port."""
