"""Bench of the serial link: requests of all kinds against a model, with gaps, repetitions, noise and full queues."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from gradsieve.fpga.link.protocol import (
    DIVISOR_MIN,
    FIFO_BYTES,
    HELLO_ANSWER,
    NO_ANSWER,
    PAYLOAD_MAX,
    VERSION,
    WINDOW,
    WRITE,
    Kind,
    Response,
    Status,
    parse_response,
    request,
)
from gradsieve.fpga.link.register_master import BUS_CYCLES
from gradsieve.hw.host.packet_closer import closed_beat_layout
from gradsieve.hw.host.packing import beat_layout
from gradsieve.hw.host.register_file import OKAY, SLAVE_ERROR
from gradsieve.tb.coverage import cover
from gradsieve.tb.environment import Bench, config, test
from gradsieve.tb.serial_line import BITS, MISSING, SILENT, Registers, Uart
from gradsieve.tb.stream import Pulses

_BEAT = config().stream_width // 8

_sample = cover(
    "serial_link",
    {
        "kind": [k.name for k in Kind],
        "fate": ["executed", "kept", "gap", "silence", "no session"],
        "register": ["read", "write"],
        "result": [OKAY, SLAVE_ERROR, NO_ANSWER],
        "packet": ["whole beats", "filled up", "not ended"],
        "received": ["nothing", "part", "whole", "end alone"],
        "noise": ["flip", "short", "stop bit", "glitch", "garbage", "escape at the end", "flags", "endless"],
    },
    [("register", "result")],
)


@dataclass
class Model:
    """What the device must answer.  `arrived` are the bytes and ends (None) that the engine has given."""

    session: int | None = None
    expected: int = 0
    rejected: bool = False
    dead: bool = False
    dropped: int = 0
    kept: dict[int, Response] = field(default_factory=dict)
    words: dict[int, int] = field(default_factory=dict)
    writes: list[tuple[int, int]] = field(default_factory=list)
    sent: list[tuple[int, bool]] = field(default_factory=list)
    arrived: deque[int | None] = field(default_factory=deque)

    def take(self, session: int, sequence: int, kind: int, payload: bytes, last: bool) -> Response | None:
        """The answer to a request, and its effects; `free` and `drained` are those of an engine that takes."""
        if kind == Kind.HELLO:
            self.session, self.expected, self.rejected, self.dead = session, sequence, False, False
            self.kept.clear()
            self.arrived.clear()
        elif session != self.session:
            return self._refusal(session, sequence, Status.NO_SESSION)
        elif sequence in self.kept:
            _sample({"kind": kind, "fate": "kept"})
            return self.kept[sequence]
        elif sequence != self.expected:
            _sample({"kind": kind, "fate": "silence" if self.rejected else "gap"})
            again, self.rejected = self.rejected, True
            return None if again else self._refusal(session, self.expected, Status.OUT_OF_SEQUENCE)
        _sample({"kind": Kind(kind).name, "fate": "executed"})
        execute: dict[int, Callable[[bytes, bool], tuple[bytes, bool]]] = {
            Kind.HELLO: self._hello,
            Kind.REGISTERS: self._registers,
            Kind.SEND: self._send,
            Kind.RECEIVE: self._receive,
        }
        out, ended = execute[kind](payload, last)
        answer = self._answer(session, sequence, Status.OK, out, ended)
        self.kept[sequence] = answer
        self.kept.pop((sequence - WINDOW) & 0xFF, None)
        self.expected, self.rejected = (sequence + 1) & 0xFF, False
        return answer

    def _answer(self, session: int, sequence: int, status: int, payload: bytes, last: bool) -> Response:
        drained, available = len(self.sent) % _BEAT == 0, len(self.arrived)
        return Response(session, sequence, status, last, drained, self.dropped & 0xFF, FIFO_BYTES, available, payload)

    def _refusal(self, session: int, sequence: int, status: Status) -> Response:
        if status is Status.NO_SESSION:
            _sample({"fate": "no session"})
        return self._answer(session, sequence, status, b"", False)

    def _hello(self, payload: bytes, last: bool) -> tuple[bytes, bool]:
        sizes = (VERSION, WINDOW, PAYLOAD_MAX, FIFO_BYTES, FIFO_BYTES, _BEAT)
        return HELLO_ANSWER.pack(*sizes, int.from_bytes(payload, "little")), False

    def _registers(self, payload: bytes, last: bool) -> tuple[bytes, bool]:
        out, rest = bytearray(), payload
        while rest:
            address, write = rest[0] & ~3, rest[0] & WRITE
            result = NO_ANSWER if self.dead else Registers.result(address)
            self.dead = self.dead or result == NO_ANSWER
            _sample({"register": "write" if write else "read", "result": result})
            out.append(result)
            if write:
                value, rest = int.from_bytes(rest[1:5], "little"), rest[5:]
                if result != NO_ANSWER:
                    self.writes.append((address, value))
                if result == OKAY:
                    self.words[address] = value
            else:
                out += self.words.get(address, 0).to_bytes(4, "little")
                rest = rest[1:]
        return bytes(out), False

    def _send(self, payload: bytes, last: bool) -> tuple[bytes, bool]:
        self.sent += [(byte, last and n == len(payload) - 1) for n, byte in enumerate(payload)]
        size = len(self.sent) % _BEAT
        _sample({"packet": "not ended" if not last else "filled up" if size else "whole beats"})
        while last and len(self.sent) % _BEAT:
            byte, _ = self.sent.pop()
            self.sent += [(byte, False), (0, True)]
        return b"", False

    def _receive(self, payload: bytes, last: bool) -> tuple[bytes, bool]:
        out, limit = bytearray(), min(int.from_bytes(payload, "little"), PAYLOAD_MAX)
        while self.arrived and len(out) < limit and self.arrived[0] is not None:
            byte = self.arrived.popleft()
            assert byte is not None
            out.append(byte)
        ended = bool(self.arrived) and self.arrived[0] is None
        if ended:
            self.arrived.popleft()
        _sample({"received": ("nothing", "end alone", "part", "whole")[2 * bool(out) + ended]})
        return bytes(out), ended


class Link:
    """The link with a model beside it."""

    def __init__(self, bench: Bench, stall: str = "none") -> None:
        bench.fresh()
        self.bench, self.uart, self.registers = bench, Uart(bench), Registers(bench)
        self.to_engine = bench.sink("to_engine", beat_layout(bench.config.stream_width), stall)
        self.from_engine = bench.source("from_engine", closed_beat_layout(bench.config.stream_width), bench.pattern())
        self.model = Model()
        self.errors = Pulses(bench, "error")

    @classmethod
    async def start(cls, bench: Bench, stall: str = "none") -> Link:
        """A link after a reset, with its line idle."""
        bench.set(rx=1)
        await bench.cycles(3)
        await bench.reset()
        return cls(bench, stall)

    async def settle(self) -> None:
        """Run until nothing moves."""
        self.uart.since = 0
        await self.bench.run(lambda: self.uart.quiet and self.from_engine.done)

    async def ask(self, *requests: tuple[int, int, int, bytes, bool]) -> list[Response]:
        """Send requests, at once after each other; the answers must be the model's."""
        due = []
        for session, sequence, kind, payload, last in requests:
            self.uart.send(request(session, sequence, kind, payload, last))  # type: ignore[arg-type]
            answer = self.model.take(session, sequence, kind, payload, last)
            due += [answer] if answer is not None else []
        self.uart.frames.clear()
        await self.settle()
        answers = [parse_response(f) for f in self.uart.frames]
        self.bench.scoreboard.equal("number of answers", len(answers), len(due))
        for n, (answer, expected) in enumerate(zip(answers, due, strict=False)):
            kind = requests[min(n, len(requests) - 1)][2]
            # while bytes are on their way to the engine, the levels depend on the cycle
            if kind == Kind.SEND:
                expected = expected._replace(free=answer.free, drained=answer.drained)
            self.bench.scoreboard.equal(f"answer to {requests}", answer, expected)
        return answers

    def give(self, packet: bytes, keep: bool = True) -> None:
        """Let the engine give a packet; without `keep` it ends in a beat of no bytes."""
        beats = [packet[n : n + _BEAT] for n in range(0, len(packet), _BEAT)]
        mask = (1 << _BEAT) - 1
        words = [{"data": int.from_bytes(b, "little"), "keep": (1 << len(b)) - 1, "last": 0} for b in beats]
        if keep and words:
            words[-1]["last"] = 1
        else:
            words.append({"data": self.bench.rng.getrandbits(8 * _BEAT) & mask, "keep": 0, "last": 1})
        self.from_engine.send(words)
        self.model.arrived.extend([*packet, None])

    def check_effects(self) -> None:
        """Everything that reached registers and engine, and the line itself."""
        scoreboard, model = self.bench.scoreboard, self.model
        scoreboard.sequence("register write", self.registers.writes, model.writes)
        whole = len(model.sent) // _BEAT
        beats = [model.sent[n * _BEAT : (n + 1) * _BEAT] for n in range(whole)]
        due = [{"data": int.from_bytes(bytes(b for b, _ in beat), "little"), "last": beat[-1][1]} for beat in beats]
        scoreboard.sequence("beat to the engine", self.to_engine.values, due)
        scoreboard.equal("bytes without a stop bit", self.uart.stop_bits_missing, 0)
        scoreboard.equal("frames from the device with a wrong CRC", self.uart.reader.bad, 0)
        scoreboard.equal("error pulses", len(self.errors.cycles["error"]), model.dropped)


def draw(bench: Bench, link: Link) -> tuple[int, bytes, bool]:
    """Kind, payload and LAST of a random request that can be executed."""
    rng = bench.rng
    kind = rng.choice((Kind.REGISTERS, Kind.REGISTERS, Kind.SEND, Kind.SEND, Kind.RECEIVE))
    if kind is Kind.REGISTERS:
        out = bytearray()
        for _ in range(rng.randint(0, 4)):
            address = rng.choice((rng.randrange(0, 0xE0, 4), rng.choice(MISSING)))
            write = rng.getrandbits(1)
            out.append(address | write)
            out += rng.randbytes(4 * write)
        return kind, bytes(out), False
    if kind is Kind.SEND:
        payload = bytes(rng.choice((0x7E, 0x7D, rng.getrandbits(8))) for _ in range(rng.randint(0, 2 * _BEAT + 1)))
        return kind, payload, bool(payload) and rng.random() < 0.6
    if rng.random() < 0.7:
        link.give(rng.randbytes(rng.choice((0, rng.randint(1, 2 * _BEAT)))), keep=rng.random() < 0.7)
    return kind, rng.choice((0, 1, _BEAT - 1, _BEAT, 2 * _BEAT, 600, 65535)).to_bytes(2, "little"), False


@test
async def requests(bench: Bench) -> None:
    """Sessions of random requests: new ones, repeated ones, ones after a gap, ones of other sessions."""
    rng = bench.rng
    for stall in ("none", "half") * bench.rounds:
        link = await Link.start(bench, stall)
        session, sequence = rng.getrandbits(8), rng.getrandbits(8)
        await link.ask((session ^ 1, 0, Kind.RECEIVE, b"\0\0", False))
        await link.ask((session, sequence, Kind.HELLO, rng.randbytes(4), False))
        history: list[tuple[int, int, int, bytes, bool]] = []
        for _ in range(18):
            kind, payload, last = draw(bench, link)
            await link.settle()
            new = (session, link.model.expected, kind, payload, last)
            fate = rng.random()
            if fate < 0.15 and history:
                await link.ask(rng.choice(history[-WINDOW:]))
            elif fate < 0.3:
                ahead = [(session, new[1] + n & 0xFF, Kind.SEND, b"lost", True) for n in (1, 2)]
                await link.ask(*ahead)
            elif fate < 0.35:
                await link.ask((session ^ 0x80, *new[1:]))
            await link.ask(new)
            history.append(new)
        link.check_effects()


@test
async def silent_registers(bench: Bench) -> None:
    """A register that never answers takes bounded time; all others read so until the next session."""
    link = await Link.start(bench)
    link.uart.patience += BUS_CYCLES
    for first in (SILENT[0], SILENT[1] | WRITE):
        await link.ask((5, 0, Kind.HELLO, b"abcd", False))
        for address in (0x10 | WRITE, first, 0x10 | WRITE, MISSING[0]):
            operation = bytes((address,)) + (b"word" if address & WRITE else b"")
            link.uart.send(request(5, link.model.expected, Kind.REGISTERS, operation))
            due = link.model.take(5, link.model.expected, Kind.REGISTERS, operation, False)
            link.uart.frames.clear()
            await link.settle()
            assert due is not None
            (answer,) = (parse_response(f) for f in link.uart.frames)
            # a register that did not answer has no word
            bench.scoreboard.equal("result", answer.payload[:1], due.payload[:1])
            bench.scoreboard.equal("size", len(answer.payload), len(due.payload))
    link.check_effects()


@test
async def noise(bench: Bench) -> None:
    """Between noise of every kind, whole frames are answered; each bad frame is counted once, and does nothing."""
    link, rng = await Link.start(bench), bench.rng
    await link.ask((7, 1, Kind.HELLO, b"\x7e\x7d\x7e\x7d", False))
    kinds = ["flip", "short", "stop bit", "glitch", "garbage", "escape at the end", "flags", "endless"] * bench.rounds
    rng.shuffle(kinds)
    for kind in kinds:
        good = request(7, link.model.expected, Kind.REGISTERS, bytes((0x40 | WRITE,)) + rng.randbytes(4))
        at = rng.randrange(1, len(good) - 1)
        dropped = 1
        if kind == "flip":
            link.uart.send(good[:5] + bytes((good[5] ^ 1 << rng.choice((2, 3)),)) + good[6:])
        elif kind == "short":
            link.uart.send(b"\x7e" + rng.randbytes(2).replace(b"\x7e", b"a").replace(b"\x7d", b"b") + b"\x7e")
        elif kind == "stop bit":
            link.uart.send(good[:at])
            link.uart.send(good[at : at + 1], stop=0)
            link.uart.send(good[at + 1 :])
        elif kind == "garbage":
            link.uart.send(bytes(rng.randrange(0x70) for _ in range(20)) + b"\x7e")
        elif kind == "endless":  # more than the queue of requests holds
            link.uart.send(request(7, link.model.expected, Kind.SEND, bytes(FIFO_BYTES)))
        elif kind == "escape at the end":
            link.uart.send(good[:-1] + b"\x7d\x7e")
        elif kind == "flags":
            link.uart.send(b"\x7e" * 5)
            dropped = 0
        else:
            link.uart.levels.extend([0] + [1] * (DIVISOR_MIN * BITS))
            dropped = 0
        link.model.dropped += dropped
        _sample({"noise": kind})
        await link.ask((7, link.model.expected, Kind.REGISTERS, bytes((0x40,)), False))
    link.check_effects()


@test
async def full_queues(bench: Bench) -> None:
    """With an engine that takes nothing, `free` counts exactly, and a new session withdraws what was sent."""
    link, rng = await Link.start(bench), bench.rng
    link.to_engine.stall = iter(lambda: True, None)
    await link.ask((3, 0, Kind.HELLO, b"full", False))
    sent = 0
    for size in (_BEAT, 1, 3, _BEAT, 11):
        link.uart.send(request(3, link.model.expected, Kind.SEND, rng.randbytes(size)))
        link.model.expected += 1
        sent += size
        await link.settle()
        link.uart.frames.clear()
        link.uart.send(request(3, link.model.expected, Kind.RECEIVE, b"\0\0"))
        link.model.expected += 1
        await link.settle()
        (answer,) = (parse_response(f) for f in link.uart.frames)
        bench.scoreboard.equal("free", answer.free, FIFO_BYTES - (sent - _BEAT))
        bench.scoreboard.equal("drained", answer.drained, False)
    link.give(rng.randbytes(3 * _BEAT))
    await link.settle()
    bench.scoreboard.equal("a beat waits", bench.get("to_engine__valid"), 1)
    link.to_engine.steady = False
    await link.ask((4, 0, Kind.HELLO, b"anew", False))
    bench.scoreboard.equal("a beat waits after HELLO", bench.get("to_engine__valid"), 0)
    link.to_engine.stall = iter(lambda: False, None)
    await link.ask((4, 1, Kind.SEND, bytes(range(_BEAT)), True), (4, 2, Kind.RECEIVE, b"\xff\0", False))
    link.check_effects()
