"""Drivers of the serial link's bench: the host's end of the line, and registers that take their time."""

from __future__ import annotations

from collections import deque

from gradsieve.fpga.link.protocol import DIVISOR_MIN, NO_ANSWER, FrameReader
from gradsieve.hw.host.register_file import OKAY, SLAVE_ERROR
from gradsieve.tb.environment import Bench

BITS = 10
QUIET_CYCLES = 200
"""No request waits for longer before its answer begins, but those for registers that never answer."""
SILENT = range(0xF0, 0x100, 4)
MISSING = range(0xE0, 0xF0, 4)
"""Addresses that never answer, and such that refuse."""


class Uart:
    """The host's end of the line, a level a clock cycle."""

    def __init__(self, bench: Bench) -> None:
        self.rx, self.tx = bench.dut.rx, bench.dut.tx
        self.levels: deque[int] = deque()
        self.reader = FrameReader()
        self.frames: list[bytes] = []
        self.since, self.patience = 0, QUIET_CYCLES
        self.byte, self.position = 0, -1
        self.stop_bits_missing = 0
        bench.steps.append(self.step)

    def send(self, data: bytes, stop: int = 1) -> None:
        """Queue bytes."""
        for byte in data:
            for bit in (0, *(byte >> n & 1 for n in range(8)), stop):
                self.levels.extend([bit] * DIVISOR_MIN)
            if not stop:
                self.levels.extend([1] * DIVISOR_MIN)

    @property
    def quiet(self) -> bool:
        """All is sent, and the device has nothing more to say."""
        return not self.levels and self.since >= self.patience

    def step(self, cycle: int) -> None:
        """One clock edge."""
        self.rx.value = self.levels.popleft() if self.levels else 1
        level = int(self.tx.value)
        self.since = 0 if self.levels or self.position >= 0 or not level else self.since + 1
        if self.position < 0:
            if not level:
                self.position = 0
            return
        self.position += 1
        bit, phase = divmod(self.position, DIVISOR_MIN)
        if phase != DIVISOR_MIN // 2:
            return
        if 1 <= bit <= 8:
            self.byte = self.byte >> 1 | level << 7
        elif bit == BITS - 1:
            self.stop_bits_missing += not level
            self.frames += self.reader.feed(bytes((self.byte,)))
            self.position = -1


class Registers:
    """An AXI4-Lite subordinate that takes its time; some addresses are refused, some never answered."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.words = bench, dict[int, int]()
        self.writes: list[tuple[int, int]] = []
        self.address: int | None = None
        self.data: int | None = None
        self.valid = {c: getattr(bench.dut, f"bus__{c}valid") for c in ("aw", "w", "ar")}
        self.busy = True
        bench.steps.append(self.step)

    @staticmethod
    def result(address: int) -> int:
        """What a transfer to an address is answered."""
        return NO_ANSWER if address in SILENT else SLAVE_ERROR if address in MISSING else OKAY

    def step(self, cycle: int) -> None:
        """One clock edge."""
        valid = {c: bool(handle.value) for c, handle in self.valid.items()}
        if not self.busy and not any(valid.values()):
            return
        get = self.bench.get
        moved = {c: valid[c] and get(f"bus__{c}ready") for c in valid}
        drive = {f"bus__{c}ready": 0 for c in valid} | {"bus__bvalid": 0, "bus__rvalid": 0}
        if moved["aw"]:
            self.address = get("bus__awaddr")
        if moved["w"]:
            self.data = get("bus__wdata")
            self.bench.scoreboard.equal("wstrb", get("bus__wstrb"), 15)
        if self.address is not None and self.data is not None:
            self.writes.append((self.address, self.data))
            drive |= {"bus__bvalid": 1, "bus__bresp": self.result(self.address)}
            if self.result(self.address) == OKAY:
                self.words[self.address] = self.data
            self.address = self.data = None
        if moved["ar"]:
            address = get("bus__araddr")
            word = self.words.get(address, 0)
            drive |= {"bus__rvalid": 1, "bus__rresp": self.result(address), "bus__rdata": word}
        for channel in valid:
            port = "bus__araddr" if channel == "ar" else "bus__awaddr"
            if valid[channel] and not moved[channel] and get(port) not in SILENT:
                drive[f"bus__{channel}ready"] = int(self.bench.rng.random() < 0.5)
        self.busy = any(drive.values())
        self.bench.set(**drive)
