"""The host driver: runs on an engine what the golden model runs in PyTorch, over any transport."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor

from gradsieve.fpga.errors import DeviceError
from gradsieve.fpga.packets import PacketFormat
from gradsieve.fpga.simulator import Simulator
from gradsieve.fpga.transport import Transport
from gradsieve.golden.types import Gradients, Masks, Saturations, Sieve, Tape, Weights
from gradsieve.golden.validation import check_inputs
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.host.registers import BY_NAME, COUNTERS_32, COUNTERS_64, IDENTITY, ErrorCode

BUSY_SECONDS = 60.0
"""An engine that is busy for so long, with nothing to send or to receive, never ends."""


@dataclass(frozen=True)
class WeightGradients:
    """dW and db as read: exact, or requantized to `fraction` bits."""

    w_ih: Tensor
    w_hh: Tensor
    b: Tensor


class Device:
    """One engine and the state that the host keeps of it.

    Raises DeviceError at once if the engine behind `transport` is not the one that `config` describes.
    """

    def __init__(self, config: EngineConfig, transport: Transport) -> None:
        self.config, self.transport = config, transport
        self.lock = threading.RLock()
        """Held by `backward`, and by whoever needs several calls to belong together: threads may share a device."""
        self._sizes: tuple[int, int, int, int] | None = None
        identity = self.read("ID")
        if identity != IDENTITY:
            raise DeviceError(f"there is no engine here: ID reads 0x{identity:08x}, not 0x{IDENTITY:08x}")
        digest = f"{self.read('DIGEST_HIGH') << 32 | self.read('DIGEST_LOW'):016x}"
        if digest != config.digest:
            raise DeviceError(
                f"the engine was built from another config: its digest is {digest}, that of {config.name!r} is "
                f"{config.digest}"
            )
        self.wait_idle()

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the engine up."""
        self.transport.close()

    # registers

    def read(self, register: str) -> int:
        """The value of a register of the map."""
        return self.transport.read_register(BY_NAME[register].offset)

    def write(self, register: str, value: int) -> None:
        """Set a read-write register."""
        self.transport.write_register(BY_NAME[register].offset, value)

    def field(self, register: str, field: str) -> int:
        """The value of a field of a register."""
        f = BY_NAME[register].field(field)
        return self.read(register) >> f.lsb & ((1 << f.width) - 1)

    def write_fields(self, register: str, **values: int) -> None:
        """Set a register from its fields; those not named become 0."""
        word = 0
        for name, value in values.items():
            f = BY_NAME[register].field(name)
            if not 0 <= value < 1 << f.width:
                raise ValueError(f"{register}.{name} must be from 0 to {(1 << f.width) - 1}, got {value}")
            word |= value << f.lsb
        self.write(register, word)

    def command(self, name: str, **more: int) -> None:
        """Write one bit of CONTROL."""
        self.write_fields("CONTROL", **{name: 1}, **more)

    def counters(self) -> dict[str, int]:
        """Every performance counter by its name in the register map."""
        names = [f"{n}_{half}" for n in COUNTERS_64 for half in ("HIGH", "LOW")] + list(COUNTERS_32)
        words = dict(zip(names, self.transport.read_registers([BY_NAME[n].offset for n in names]), strict=True))
        values = {n: words[f"{n}_HIGH"] << 32 | words[f"{n}_LOW"] for n in COUNTERS_64}
        return values | {n: words[n] for n in COUNTERS_32}

    def error(self) -> ErrorCode:
        """What went wrong first since the last acknowledge or soft reset."""
        return ErrorCode(self.field("STATUS", "error"))

    def check(self) -> None:
        """Raise DeviceError if the engine reports an error."""
        error = self.error()
        if error:
            raise DeviceError(f"the engine reports {error.name} (code {error.value})")

    def wait_idle(self) -> None:
        """Wait until no command is under way.  Raises DeviceError if the engine reports an error, or never ends."""
        start = time.monotonic()
        while self.field("STATUS", "busy"):
            if time.monotonic() - start > BUSY_SECONDS:
                raise DeviceError(f"the engine stays busy for {BUSY_SECONDS:.0f} s: soft_reset() brings it back")
        self.check()

    def soft_reset(self, resync: bool = False) -> None:
        """Bring the engine back to a clean state; weights and masks must be loaded again."""
        self.command("soft_reset", resync=int(resync))
        self._sizes = None
        self.wait_idle()

    def acknowledge(self) -> None:
        """Clear an error that refused a command."""
        self.command("acknowledge")

    # work

    def set_sizes(self, H: int, I: int, B: int, T: int) -> PacketFormat:
        """Tell the engine the sizes of what comes next."""
        packets = PacketFormat(self.config, H, I, B, T)
        if self._sizes != (H, I, B, T):
            for name, value in (("H", H), ("I", I), ("B", B), ("T", T)):
                self.write(name, value)
            self._sizes = (H, I, B, T)
        return packets

    def load_weights(self, packets: PacketFormat, weights: Weights) -> None:
        """Send the weights; they stay until others come."""
        for packet in packets.weights(weights):
            self.transport.send(packet)

    def run(
        self, packets: PacketFormat, tape: Tape, sieve: Sieve | None = None, masks: Masks | None = None
    ) -> Gradients:
        """One backward run with the weights that are loaded; its dW and db add to what has been accumulated.

        In the returned value `dw_ih`, `dw_hh` and `db` are empty: `read_gradients` fetches them.
        """
        sieve, masks = sieve or Sieve(), masks or Masks()
        send = self.transport.send
        if masks.block is not None:
            send(packets.block_mask(masks.block))
        if masks.column is not None:
            send(packets.column_mask(masks.column))
        send(packets.seed(tape.dh, tape.dc))
        self.write_fields(
            "MODE",
            sieve=int(sieve.mode),
            seed=1,
            block_mask=int(masks.block is not None),
            column_mask=int(masks.column is not None),
            state_out=1,
        )
        self.write("TAU", sieve.tau)
        self.write("RANDOM", sieve.random)
        self.command("start")
        self.check()
        result = packets.result(self.transport.exchange(packets.tape(tape), packets.result_bytes()))
        self.wait_idle()
        counters = self.counters()
        assert result.dh0 is not None and result.dc0 is not None
        none = torch.empty(0, dtype=torch.int64)
        return Gradients(
            dx=result.dx,
            dh0=result.dh0,
            dc0=result.dc0,
            dw_ih=none,
            dw_hh=none,
            db=none,
            rows_kept=result.rows_kept,
            elements_kept=result.elements_kept,
            indices=counters["INDICES"],
            macs=counters["MACS"],
            random=self.read("RANDOM"),
            saturations=Saturations(
                **{n: counters[f"SATURATED_{n.upper()}"] for n in ("gate", "factor", "sieve", "error")}
            ),
        )

    def read_gradients(
        self, packets: PacketFormat, exact: bool = True, keep: bool = False, fraction: int = 0
    ) -> WeightGradients:
        """The accumulated dW and db; cleared behind the read unless `keep`."""
        self.write_fields("READ_MODE", exact=int(exact), keep=int(keep), fraction=fraction)
        self.command("read")
        self.check()
        w_ih, w_hh, b = packets.gradients(self.transport.receive(packets.gradients_bytes(exact)), exact)
        self.wait_idle()
        return WeightGradients(w_ih, w_hh, b)

    def backward(
        self, weights: Weights, tape: Tape, sieve: Sieve | None = None, masks: Masks | None = None
    ) -> Gradients:
        """`golden.backward` on the engine: the same arguments, the same checks, the same result to the last bit."""
        sieve, masks = sieve or Sieve(), masks or Masks()
        check_inputs(self.config, weights, tape, sieve, masks)
        with self.lock:
            packets = self.set_sizes(*tape.sizes)
            self.load_weights(packets, weights)
            run = self.run(packets, tape, sieve, masks)
            gradients = self.read_gradients(packets)
        fields = {**vars(run), "dw_ih": gradients.w_ih, "dw_hh": gradients.w_hh, "db": gradients.b}
        return Gradients(**fields)


def simulated(config: EngineConfig) -> Device:
    """A device behind which the Verilated engine runs.  Raises ToolError if it cannot be built."""
    return Device(config, Simulator(config))
