"""What a host does with an engine, step by step, without I/O.

Each function is a generator: it yields operations, is sent their answers, and returns its result.  `Device` performs
them over a transport, `gradsieve.tb.engine_host` over the buses of a simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from gradsieve.fpga.errors import DeviceError, StalledError
from gradsieve.fpga.packets import Bytes, PacketFormat
from gradsieve.golden.types import Gradients, Masks, Saturations, Sieve, Tape, Weights
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.host.registers import BY_NAME, COUNTERS_32, COUNTERS_64, IDENTITY, ErrorCode

BUSY_SECONDS = 60.0
"""An engine that is busy for so long, with nothing to send or to receive, never ends."""
QUIET_SECONDS = 30.0
"""An engine that still has something to say so long after a soft reset never ends."""

# operations


@dataclass(frozen=True)
class WriteRegister:
    """Write 32 bits to a byte address."""

    address: int
    value: int


@dataclass(frozen=True)
class ReadRegisters:
    """Read the registers at these byte addresses; the answer is the list of their values."""

    addresses: tuple[int, ...]


@dataclass(frozen=True)
class Send:
    """Send one packet, to its end."""

    packet: Bytes


@dataclass(frozen=True)
class Receive:
    """Take one packet of at most `size` bytes; it is the answer."""

    size: int


@dataclass(frozen=True)
class Exchange:
    """Send one packet and take one of at most `size` bytes, both at once; the latter is the answer."""

    packet: Bytes
    size: int


@dataclass(frozen=True)
class Discard:
    """Throw away what the engine has to give; the answer is whether there was anything."""


@dataclass(frozen=True)
class Pause:
    """Let a moment of a wait pass; the answer is the time in seconds, from any beginning."""


T = TypeVar("T")
Operation: TypeAlias = WriteRegister | ReadRegisters | Send | Receive | Exchange | Discard | Pause
Steps: TypeAlias = Generator[Operation, Any, T]
"""Steps that end with a T.  A driver throws the DeviceError of an operation into them."""


def perform(steps: Steps[T], do: Callable[[Operation], object]) -> T:
    """Do all operations of `steps`, one after the other, and return what they end with."""
    try:
        operation = next(steps)
        while True:
            try:
                answer = do(operation)
            except DeviceError as error:
                operation = steps.throw(error)
            else:
                operation = steps.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


# registers


def read(register: str) -> Steps[int]:
    """The value of a register of the map, or of a 64-bit counter by its name without _LOW and _HIGH."""
    names = (f"{register}_HIGH", f"{register}_LOW") if register in COUNTERS_64 else (register,)
    value = 0
    for word in (yield ReadRegisters(tuple(BY_NAME[n].offset for n in names))):
        value = value << 32 | word
    return value


def write(register: str, value: int) -> Steps[None]:
    """Set a read-write register."""
    yield WriteRegister(BY_NAME[register].offset, value)


def field(register: str, name: str) -> Steps[int]:
    """The value of a field of a register."""
    f = BY_NAME[register].field(name)
    return (yield from read(register)) >> f.lsb & ((1 << f.width) - 1)


def write_fields(register: str, **values: int) -> Steps[None]:
    """Set a register from its fields; those not named become 0.  Raises ValueError for one that does not fit."""
    word = 0
    for name, value in values.items():
        f = BY_NAME[register].field(name)
        if not 0 <= value < 1 << f.width:
            raise ValueError(f"{register}.{name} must be from 0 to {(1 << f.width) - 1}, got {value}")
        word |= int(value) << f.lsb
    yield from write(register, word)


def command(*names: str) -> Steps[None]:
    """Give commands by setting their bits of CONTROL."""
    yield from write_fields("CONTROL", **dict.fromkeys(names, 1))


def counters() -> Steps[dict[str, int]]:
    """Every performance counter by its name in the register map, in one operation."""
    names = [f"{n}_{half}" for n in COUNTERS_64 for half in ("HIGH", "LOW")] + list(COUNTERS_32)
    words = dict(zip(names, (yield ReadRegisters(tuple(BY_NAME[n].offset for n in names))), strict=True))
    values = {n: words[f"{n}_HIGH"] << 32 | words[f"{n}_LOW"] for n in COUNTERS_64}
    return values | {n: words[n] for n in COUNTERS_32}


# the engine's state


def identify(config: EngineConfig) -> Steps[None]:
    """Raise DeviceError unless the engine is the one that `config` describes."""
    identity = yield from read("ID")
    if identity != IDENTITY:
        raise DeviceError(f"there is no engine here: ID reads 0x{identity:08x}, not 0x{IDENTITY:08x}")
    high, low = yield ReadRegisters(tuple(BY_NAME[n].offset for n in ("DIGEST_HIGH", "DIGEST_LOW")))
    digest = f"{high << 32 | low:016x}"
    if digest != config.digest:
        raise DeviceError(
            f"the engine was built from another config: its digest is {digest}, that of {config.name!r} is "
            f"{config.digest}"
        )


def error() -> Steps[ErrorCode]:
    """What went wrong first since the last acknowledge or soft reset."""
    return ErrorCode((yield from field("STATUS", "error")))


def check() -> Steps[None]:
    """Raise DeviceError if the engine reports an error."""
    code = yield from error()
    if code:
        raise DeviceError(f"the engine reports {code.name} (code {code.value})")


def wait_idle() -> Steps[None]:
    """Wait until no command is under way.  Raises DeviceError if that never comes."""
    start = yield Pause()
    while (yield from field("STATUS", "busy")):
        if (yield Pause()) - start > BUSY_SECONDS:
            raise DeviceError(f"the engine stays busy for {BUSY_SECONDS:.0f} s: soft_reset() brings it back")


def settle() -> Steps[None]:
    """Wait until no command is under way.  Raises DeviceError if that never comes, or the engine reports an error."""
    yield from wait_idle()
    yield from check()


def soft_reset(resync: bool = False) -> Steps[None]:
    """Stop whatever is under way; weights and masks must be loaded again.  A packet on its way out is cut off.

    With `resync` the next beat that the engine gets begins a packet, else the rest of one on its way in is awaited.
    """
    yield from command("soft_reset", *(["resync"] if resync else []))
    yield from settle()


def empty() -> Steps[None]:
    """Throw away all that the engine has to give, to the end of a packet.  Raises DeviceError if there is no end."""
    start = yield Pause()
    while True:
        is_open = yield from field("STATUS", "output_open")
        if not ((yield Discard()) or is_open):
            return
        if (yield Pause()) - start > QUIET_SECONDS:
            raise DeviceError("the engine is not quiet after a soft reset: reset the board")


def clean() -> Steps[None]:
    """Bring the engine to a clean state whatever came before: nothing of an open packet is left, in or out."""
    yield from soft_reset(resync=True)
    yield from empty()


def _explained(transfer: Receive | Exchange | Send) -> Steps[Any]:
    """A transfer; if it stalls, the error says what the engine reports."""
    try:
        return (yield transfer)
    except StalledError as stall:
        code = yield from error()
        if not code:
            raise
        raise DeviceError(f"{stall.what}; it reports {code.name} (code {code.value}){stall.remedy}") from None


def send(packet: Bytes) -> Steps[None]:
    """Send one packet, to its end.  Raises DeviceError if the engine does not take it."""
    yield from _explained(Send(packet))


def receive(size: int) -> Steps[Bytes]:
    """Take one packet of at most `size` bytes.  Raises DeviceError if it does not come."""
    packet: Bytes = yield from _explained(Receive(size))
    return packet


def exchange(packet: Bytes, size: int) -> Steps[Bytes]:
    """Send one packet and take one of at most `size` bytes.  Raises DeviceError if they do not move."""
    received: Bytes = yield from _explained(Exchange(packet, size))
    return received


# work


def set_sizes(packets: PacketFormat) -> Steps[None]:
    """Write the sizes of what comes next."""
    for name in "HIBT":
        yield from write(name, getattr(packets, name))


def load_weights(packets: PacketFormat, weights: Weights) -> Steps[None]:
    """Send the weights; they stay until others come."""
    for packet in packets.weights(weights):
        yield from send(packet)


def load_run(
    packets: PacketFormat, tape: Tape, sieve: Sieve, masks: Masks, seed: bool = True, state_out: bool = True
) -> Steps[None]:
    """Masks, seed and modes of a run; without `seed` the state after its last step has no gradients."""
    if masks.block is not None:
        yield from send(packets.block_mask(masks.block))
    if masks.column is not None:
        yield from send(packets.column_mask(masks.column))
    if seed:
        yield from send(packets.seed(tape.dh, tape.dc))
    yield from write_fields(
        "MODE",
        sieve=int(sieve.mode),
        seed=int(seed),
        block_mask=int(masks.block is not None),
        column_mask=int(masks.column is not None),
        state_out=int(state_out),
    )
    yield from write("TAU", sieve.tau)
    yield from write("RANDOM", sieve.random)


def start() -> Steps[None]:
    """Start the run that is loaded.  Raises DeviceError if the engine refuses it."""
    yield from command("start")
    yield from check()


def outcome(packets: PacketFormat, packet: Bytes, state_out: bool = True) -> Steps[Gradients]:
    """The result of a run from its RESULT packet and the engine's counters.

    `dw_ih`, `dw_hh` and `db` are empty: `read_gradients` fetches them.  So are `dh0` and `dc0` without `state_out`.
    """
    result = packets.result(packet, state_out)
    yield from settle()
    values = yield from counters()
    none = torch.empty(0, dtype=torch.int64)
    return Gradients(
        dx=result.dx,
        dh0=none if result.dh0 is None else result.dh0,
        dc0=none if result.dc0 is None else result.dc0,
        dw_ih=none,
        dw_hh=none,
        db=none,
        rows_kept=result.rows_kept,
        elements_kept=result.elements_kept,
        indices=values["INDICES"],
        macs=values["MACS"],
        random=(yield from read("RANDOM")),
        saturations=Saturations(**{n: values[f"SATURATED_{n.upper()}"] for n in ("gate", "factor", "sieve", "error")}),
    )


def execute(packets: PacketFormat, tape: Tape, state_out: bool = True) -> Steps[Gradients]:
    """Start the run that is loaded, send its tape and take its result, as `outcome` gives it."""
    yield from start()
    packet = yield from exchange(packets.tape(tape), packets.result_bytes(state_out))
    return (yield from outcome(packets, packet, state_out))


def read_gradients(
    packets: PacketFormat, exact: bool = True, keep: bool = False, fraction: int = 0
) -> Steps[tuple[Tensor, Tensor, Tensor]]:
    """The accumulated dW_ih, dW_hh and db, which are cleared after the read unless `keep`."""
    yield from write_fields("READ_MODE", exact=int(exact), keep=int(keep), fraction=fraction)
    yield from command("read")
    yield from check()
    packet = yield from receive(packets.gradients_bytes(exact))
    gradients = packets.gradients(packet, exact)
    yield from settle()
    return gradients
