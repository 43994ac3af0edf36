"""What AMBA asks of a slave with AXI4-Lite (IHI 0022) and of the streams of AXI4-Stream (IHI 0051), as claims.

Sections are those of IHI 0022E and IHI 0051A.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Signal, Value

from tests.hw.proof import BEGINS_SILENT, Proof

EXOKAY = 1
"""The one response that AXI4-Lite does not have (B1.1.1)."""
MOST_WAITING = 3
"""Transfers that may be under way in one channel."""
LONGEST_ANSWER = 8
"""Cycles within which an answer comes while its channel is free; AMBA has no bound, but a slave that never answers
obeys all its other rules."""


def count(p: Proof, comes: Value, goes: Value, most: int) -> Signal:
    """How many have come and not gone."""
    waiting = Signal(range(most + 2))
    p.m.d.sync += waiting.eq(waiting + comes - goes)
    return waiting


def stalled(p: Proof, owes: Value, answers: Value) -> Signal:
    """For how many cycles an answer has been owed."""
    cycles = Signal(range(LONGEST_ANSWER + 2))
    with p.m.If(owes & ~answers & (cycles <= LONGEST_ANSWER)):
        p.m.d.sync += cycles.eq(cycles + 1)
    with p.m.If(~owes | answers):
        p.m.d.sync += cycles.eq(0)
    return cycles


def axi_lite_slave(p: Proof, bus: Any) -> dict[str, Signal]:
    """Assume what a master keeps to, claim what a slave has to; returns what is under way in the channels AW, W, AR."""
    address = {"aw": Cat(bus.awaddr, bus.awprot), "w": Cat(bus.wdata, bus.wstrb), "ar": Cat(bus.araddr, bus.arprot)}
    for name, payload in address.items():
        valid, ready = getattr(bus, f"{name}valid"), getattr(bus, f"{name}ready")
        p.assume(p.stays(valid, ready, payload))  # A3.2.1, A3.2.2
        p.assume(~p.after_reset | ~valid)  # A3.1.2
    answers = {"b": Value.cast(bus.bresp), "r": Cat(bus.rdata, bus.rresp)}
    for name, payload in answers.items():
        valid, ready = getattr(bus, f"{name}valid"), getattr(bus, f"{name}ready")
        p.claim(f"{name} stays", p.stays(valid, ready, payload))  # A3.2.1, A3.2.2
        p.claim(f"{name}{BEGINS_SILENT}", ~p.after_reset | ~valid)  # A3.1.2
        p.claim(f"{name} has a response of AXI4-Lite", ~valid | (getattr(bus, f"{name}resp") != EXOKAY))  # B1.1.1
    b, r = bus.bvalid & bus.bready, bus.rvalid & bus.rready
    waiting = {
        "aw": count(p, bus.awvalid & bus.awready, b, MOST_WAITING),
        "w": count(p, bus.wvalid & bus.wready, b, MOST_WAITING),
        "ar": count(p, bus.arvalid & bus.arready, r, MOST_WAITING),
    }
    # A3.3.1: an answer comes after its address, and its data; one each
    p.claim("b follows address and data", ~bus.bvalid | ((waiting["aw"] != 0) & (waiting["w"] != 0)))
    p.claim("r follows its address", ~bus.rvalid | (waiting["ar"] != 0))
    for name, number in waiting.items():
        p.claim(f"{name} waits for answers", number <= MOST_WAITING)
    writes, reads = (waiting["aw"] != 0) & (waiting["w"] != 0), waiting["ar"] != 0
    for name, owes, valid in (("b", writes, bus.bvalid), ("r", reads, bus.rvalid)):
        p.claim(f"{name} comes", stalled(p, owes, valid) <= LONGEST_ANSWER)
    return waiting


def axi_stream(p: Proof, name: str, port: Any, sends: bool) -> None:
    """The rules of a stream's transmitter: claimed where the block sends, else assumed."""
    payload = Cat(port.tdata, port.tkeep, port.tlast)
    stays = p.stays(port.tvalid, port.tready, payload)  # 2.2.1
    silent = ~p.after_reset | ~port.tvalid  # 2.7.2
    if sends:
        p.claim(f"{name} stays", stays)
        p.claim(f"{name}{BEGINS_SILENT}", silent)
    else:
        p.assume(stays, silent)
