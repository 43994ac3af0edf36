"""The host driver: runs on an engine what the golden model runs in PyTorch, over any transport."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from torch import Tensor

from gradsieve.fpga import steps
from gradsieve.fpga.packets import PacketFormat
from gradsieve.fpga.simulator import Simulator
from gradsieve.fpga.transport import Transport
from gradsieve.golden.types import Gradients, Masks, Sieve, Tape, Weights
from gradsieve.golden.validation import check_inputs
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.host.registers import ErrorCode

T = TypeVar("T")


@dataclass(frozen=True)
class WeightGradients:
    """dW and db as read: exact, or requantized to `fraction` bits."""

    w_ih: Tensor
    w_hh: Tensor
    b: Tensor


class Device:
    """One engine and the state that the host keeps of it.

    Raises DeviceError at once if the engine behind `transport` is not the one that `config` describes; else brings it
    to a clean state, whatever the host before left it in.
    """

    def __init__(self, config: EngineConfig, transport: Transport) -> None:
        self.config, self.transport = config, transport
        self.lock = threading.RLock()
        """Held by `backward`, and by whoever needs several calls to belong together: threads may share a device."""
        self._sizes: tuple[int, int, int, int] | None = None
        self._begin()

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the engine up."""
        self.transport.close()

    def reconnect(self) -> None:
        """Go on after a DeviceError: open the way to the engine again and bring that to a clean state.

        Weights, masks and accumulated gradients are gone.  Raises DeviceError as a new Device does.
        """
        self.transport.reconnect()
        self._begin()

    def perform(self, work: steps.Steps[T]) -> T:
        """Do steps over the transport and return what they end with."""
        return steps.perform(work, self._do)

    def _do(self, operation: steps.Operation) -> object:
        transport = self.transport
        match operation:
            case steps.WriteRegister(address, value):
                return transport.write_register(address, value)
            case steps.ReadRegisters(addresses):
                return transport.read_registers(addresses)
            case steps.Send(packet):
                return transport.send(packet)
            case steps.Receive(size):
                return transport.receive(size)
            case steps.Exchange(packet, size):
                return transport.exchange(packet, size)
            case steps.Discard():
                return transport.discard()
            case steps.Pause():
                return time.monotonic()

    def _begin(self) -> None:
        self._sizes = None
        self.perform(steps.identify(self.config))
        self.perform(steps.clean())

    # registers

    def read(self, register: str) -> int:
        """The value of a register of the map, or of a 64-bit counter by its name without _LOW and _HIGH."""
        return self.perform(steps.read(register))

    def write(self, register: str, value: int) -> None:
        """Set a read-write register."""
        self.perform(steps.write(register, value))

    def field(self, register: str, field: str) -> int:
        """The value of a field of a register."""
        return self.perform(steps.field(register, field))

    def write_fields(self, register: str, **values: int) -> None:
        """Set a register from its fields; those not named become 0.  Raises ValueError for one that does not fit."""
        self.perform(steps.write_fields(register, **values))

    def command(self, *names: str) -> None:
        """Give commands by setting their bits of CONTROL."""
        self.perform(steps.command(*names))

    def counters(self) -> dict[str, int]:
        """Every performance counter by its name in the register map."""
        return self.perform(steps.counters())

    def error(self) -> ErrorCode:
        """What went wrong first since the last acknowledge or soft reset."""
        return self.perform(steps.error())

    def check(self) -> None:
        """Raise DeviceError if the engine reports an error."""
        self.perform(steps.check())

    def wait_idle(self) -> None:
        """Wait until no command is under way.  Raises DeviceError if the engine reports an error, or never ends."""
        self.perform(steps.settle())

    def soft_reset(self, resync: bool = False) -> None:
        """Bring the engine back to a clean state; weights and masks must be loaded again."""
        self._sizes = None
        self.perform(steps.soft_reset(resync))

    def acknowledge(self) -> None:
        """Clear an error that refused a command."""
        self.command("acknowledge")

    # work

    def set_sizes(self, H: int, I: int, B: int, T: int) -> PacketFormat:
        """Tell the engine the sizes of what comes next."""
        packets = PacketFormat(self.config, H, I, B, T)
        if self._sizes != (H, I, B, T):
            self.perform(steps.set_sizes(packets))
            self._sizes = (H, I, B, T)
        return packets

    def load_weights(self, packets: PacketFormat, weights: Weights) -> None:
        """Send the weights; they stay until others come."""
        self.perform(steps.load_weights(packets, weights))

    def run(
        self, packets: PacketFormat, tape: Tape, sieve: Sieve | None = None, masks: Masks | None = None
    ) -> Gradients:
        """One backward run with the weights that are loaded; its dW and db add to what has been accumulated.

        In the returned value `dw_ih`, `dw_hh` and `db` are empty: `read_gradients` fetches them.
        """
        self.perform(steps.load_run(packets, tape, sieve or Sieve(), masks or Masks()))
        return self.perform(steps.execute(packets, tape))

    def read_gradients(
        self, packets: PacketFormat, exact: bool = True, keep: bool = False, fraction: int = 0
    ) -> WeightGradients:
        """The accumulated dW and db, which are cleared after the read unless `keep`."""
        return WeightGradients(*self.perform(steps.read_gradients(packets, exact, keep, fraction)))

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
    """A device whose engine is Verilated and runs in this process.  Raises ToolError if it cannot be built."""
    return Device(config, Simulator(config))
