"""The comparison has teeth: one wrong bit in golden, in a weight, or one lost row in the engine is reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

import gradsieve.hw.array.array_path
import gradsieve.hw.engine
from gradsieve.fpga.device import Device
from gradsieve.fpga.packets import Bytes
from gradsieve.fpga.simulator import Simulator
from gradsieve.golden.backward import backward
from gradsieve.golden.random_case import random_case
from gradsieve.golden.types import SieveMode
from gradsieve.hw.array.compactor import Compactor
from gradsieve.hw.config import EngineConfig, preset
from gradsieve.rtl_gen.verilog import component_verilog, top_name
from tests.fpga.conftest import simulator

CONFIG = preset("tiny")
CASE = random_case(CONFIG, 11, sizes=(8, 8, 6, 6), mode=SieveMode.DENSE, masks="none", extreme=False)
LOST_ROW = 5


def test_nothing_is_reported_when_nothing_is_wrong(devices: Callable[[EngineConfig], Device]) -> None:
    device = devices(CONFIG)
    simulator(device).disturb(0, 0, 0)
    assert device.backward(*CASE).mismatches(backward(CONFIG, *CASE)) == 0


@pytest.mark.parametrize("name", ["dx", "dh0", "dc0", "dw_ih", "dw_hh", "db", "rows_kept", "elements_kept"])
def test_flipped_bit_of_a_golden_output(name: str, devices: Callable[[EngineConfig], Device]) -> None:
    golden = backward(CONFIG, *CASE)
    flipped = getattr(golden, name).clone()
    flat = flipped.view(-1)
    flat[len(flat) // 2] = flat[len(flat) // 2] ^ 1
    assert devices(CONFIG).backward(*CASE).mismatches(replace(golden, **{name: flipped})) == 1


def test_flipped_bit_of_a_weight_on_the_way_into_the_device(
    devices: Callable[[EngineConfig], Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = devices(CONFIG)
    send = device.transport.send
    header = CONFIG.stream_width // 8

    def corrupted(packet: Bytes) -> None:
        if packet[0] == 2:  # WEIGHT_H
            packet = packet.copy()
            packet[header + 9] ^= 1 << 5
        send(packet)

    monkeypatch.setattr(device.transport, "send", corrupted)
    differences = device.backward(*CASE).differences(backward(CONFIG, *CASE))
    assert differences["dh0"] > 0


class LosingCompactor(wiring.Component):
    """A compactor that never sees row LOST_ROW of a bitmap's first word."""

    def __init__(self, config: EngineConfig) -> None:
        self.inner = Compactor(config)
        super().__init__(dict(self.inner.signature.members.items()))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.inner = self.inner
        for name, member in self.signature.members.items():
            outer, inner = getattr(self, name), getattr(self.inner, name)
            if member.is_port:
                m.d.comb += outer.eq(inner) if member.flow is Out else inner.eq(outer)
            elif name == "row_bitmap_write":
                m.d.comb += [
                    inner.valid.eq(outer.valid),
                    inner.payload.address.eq(outer.payload.address),
                    inner.payload.word.eq(outer.payload.word & ~(1 << LOST_ROW)),
                ]
            else:
                wiring.connect(m, wiring.flipped(outer), inner)
        return m


def test_row_lost_in_the_compactor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradsieve.hw.array.array_path, "Compactor", LosingCompactor)
    verilog = tmp_path / "mutated.v"
    verilog.write_text(component_verilog(gradsieve.hw.engine.Engine(CONFIG), top_name(CONFIG)))
    with Device(CONFIG, Simulator(CONFIG, verilog)) as device:
        golden = backward(CONFIG, *CASE)
        differences = device.backward(*CASE).differences(golden)
    assert differences["indices"] == 1
    assert differences["dx"] > 0 and differences["dw_ih"] > 0 and differences["dw_hh"] > 0
