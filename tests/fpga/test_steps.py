"""The driver's steps against a scripted engine: what is done in which order, and every wait that must end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gradsieve.fpga import steps
from gradsieve.fpga.errors import DeviceError, StalledError
from gradsieve.hw.config import preset
from gradsieve.hw.host.registers import BY_NAME, IDENTITY, ErrorCode
from gradsieve.rtl_gen.register_map import identity

CONFIG = preset("tiny")


def word(register: str, **values: int) -> int:
    """A register's value by its fields."""
    return sum(value << BY_NAME[register].field(name).lsb for name, value in values.items())


class Script:
    """An engine whose registers are given, `status` by a function; a second passes with every pause."""

    def __init__(self, status: Callable[[], int] = lambda: 0, waste: int = 0, **registers: int) -> None:
        self.registers = {"ID": IDENTITY} | identity(CONFIG) | registers
        self.status, self.waste = status, waste
        self.seconds = 0
        self.done: list[steps.Operation] = []

    def do(self, operation: steps.Operation) -> object:
        """Answer an operation."""
        self.done.append(operation)
        match operation:
            case steps.ReadRegisters(addresses):
                return [self._read(next(n for n, r in BY_NAME.items() if r.offset == a)) for a in addresses]
            case steps.Discard():
                self.waste -= 1
                return self.waste >= 0
            case steps.Pause():
                self.seconds += 1
                return self.seconds
            case steps.Send() | steps.Receive() | steps.Exchange():
                raise StalledError("nothing moves", ": do something")
        return None

    def _read(self, name: str) -> int:
        return self.status() if name == "STATUS" else self.registers.get(name, 0)

    def count(self, kind: type[steps.Operation]) -> int:
        """How many operations of a kind were done."""
        return sum(isinstance(o, kind) for o in self.done)


def test_a_clean_engine_is_one_without_a_rest() -> None:
    opened = iter([1, 1, 0, 0, 0])
    script = Script(lambda: word("STATUS", output_open=next(opened) if script.count(steps.Discard) else 0), waste=2)
    steps.perform(steps.clean(), script.do)
    assert script.done[0] == steps.WriteRegister(BY_NAME["CONTROL"].offset, word("CONTROL", soft_reset=1, resync=1))
    assert script.count(steps.Discard) == 4, "until nothing came and no packet was open"


@pytest.mark.parametrize("rest", ["packets", "open packet"])
def test_an_engine_that_is_never_quiet_is_an_error_in_time(rest: str) -> None:
    script = Script(lambda: word("STATUS", output_open=rest == "open packet"), waste=1000 if rest == "packets" else 0)
    with pytest.raises(DeviceError, match=r"^the engine is not quiet after a soft reset: reset the board$"):
        steps.perform(steps.clean(), script.do)
    assert steps.QUIET_SECONDS < script.seconds < steps.QUIET_SECONDS + 5


def test_an_engine_that_stays_busy_is_an_error_in_time() -> None:
    script = Script(lambda: word("STATUS", busy=1))
    with pytest.raises(DeviceError, match=r"^the engine stays busy for 60 s: soft_reset\(\) brings it back$"):
        steps.perform(steps.settle(), script.do)
    assert steps.BUSY_SECONDS < script.seconds < steps.BUSY_SECONDS + 5


def test_no_other_engine_is_touched() -> None:
    for registers, message in (
        ({"ID": 7}, f"there is no engine here: ID reads 0x00000007, not 0x{IDENTITY:08x}"),
        ({"DIGEST_HIGH": 0x12345678}, "the engine was built from another config: its digest is 12345678"),
    ):
        script = Script(**registers)
        with pytest.raises(DeviceError, match=message):
            steps.perform(steps.identify(CONFIG), script.do)
        assert script.count(steps.ReadRegisters) == len(script.done)


@pytest.mark.parametrize("work", [steps.send(np.zeros(4, np.uint8)), steps.receive(4)], ids=["send", "receive"])
def test_a_transfer_that_stalls_says_what_the_engine_reports(work: steps.Steps[object]) -> None:
    script = Script(lambda: word("STATUS", error=ErrorCode.BAD_SIZE))
    message = rf"^nothing moves; it reports BAD_SIZE \(code {ErrorCode.BAD_SIZE.value}\): do something$"
    with pytest.raises(DeviceError, match=message):
        steps.perform(work, script.do)


def test_a_transfer_that_stalls_without_a_reason_is_told_as_it_is() -> None:
    with pytest.raises(StalledError, match=r"^nothing moves: do something$"):
        steps.perform(steps.exchange(np.zeros(4, np.uint8), 4), Script().do)


def test_the_halves_of_a_counter_are_read_in_one_operation() -> None:
    script = Script(INDICES_HIGH=2, INDICES_LOW=5)
    assert steps.perform(steps.read("INDICES"), script.do) == 2 << 32 | 5
    assert steps.perform(steps.counters(), script.do)["INDICES"] == 2 << 32 | 5
    assert script.count(steps.ReadRegisters) == 2


def test_a_field_takes_only_what_fits() -> None:
    with pytest.raises(ValueError, match=r"^MODE\.sieve must be from 0 to 3, got 4$"):
        steps.perform(steps.write_fields("MODE", sieve=4), Script().do)
