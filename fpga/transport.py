"""What the host driver needs of a way to an engine: registers and packets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from gradsieve.fpga.packets import Bytes


class Transport(ABC):
    """Registers and packets of one engine; what they mean is the driver's business.

    Every method raises DeviceError when the engine does not answer, StalledError when a packet does not move.
    """

    @abstractmethod
    def write_register(self, address: int, value: int) -> None:
        """Write 32 bits to a byte address."""

    @abstractmethod
    def read_register(self, address: int) -> int:
        """Read 32 bits from a byte address."""

    def read_registers(self, addresses: Sequence[int]) -> list[int]:
        """Read several registers, in this order; one round trip where the way there is long."""
        return [self.read_register(address) for address in addresses]

    @abstractmethod
    def send(self, packet: Bytes) -> None:
        """Send one packet, to its end."""

    @abstractmethod
    def receive(self, size: int) -> Bytes:
        """Take one packet of at most `size` bytes."""

    @abstractmethod
    def exchange(self, packet: Bytes, size: int) -> Bytes:
        """Send one packet and take one of at most `size` bytes, both at once."""

    @abstractmethod
    def discard(self) -> bool:
        """Throw away what the engine gives by now; whether there was anything, be it the end of a packet alone."""

    @abstractmethod
    def reconnect(self) -> None:
        """Begin anew after a DeviceError.  The engine keeps its state."""

    @abstractmethod
    def close(self) -> None:
        """Give the way up; nothing may be called afterwards."""
