"""Drivers and monitors of Amaranth streams and flows: `name__payload`, `name__valid` and, for streams, `name__ready`.

They act once a clock cycle, called by the bench's one loop, on values sampled before the edge; whole lists of payloads
go in and come out, so that nothing else of a bench runs every cycle.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Any

from gradsieve.tb.layout import Format
from gradsieve.tb.scoreboard import Scoreboard

PATTERNS = ("none", "rare", "half", "often", "bursts")
"""Idle and backpressure patterns: how often a side does nothing although it could."""


def gaps(pattern: str, rng: random.Random) -> Iterator[bool]:
    """Endless decisions whether to do nothing in a cycle."""
    if pattern == "none":
        return repeat(False)
    if pattern == "bursts":
        return _bursts(rng)
    share = {"rare": 0.05, "half": 0.5, "often": 0.9}[pattern]
    return (rng.random() < share for _ in repeat(None))


def _bursts(rng: random.Random) -> Iterator[bool]:
    while True:
        yield from repeat(False, rng.randint(1, 40))
        yield from repeat(True, rng.randint(1, 40))


def _port(dut: Any, name: str) -> Any:
    """The handle of a port; None for one without bits, which the Verilog leaves out."""
    return getattr(dut, name, None)


class Source:
    """Drives a stream, or a flow if there is no `ready`.  A payload of None is a cycle without a word.

    `sent` holds the cycle in which each word was taken.
    """

    def __init__(self, dut: Any, name: str, shape: Any) -> None:
        self.name, self.format = name, Format(shape)
        self.payload, self.ready = _port(dut, f"{name}__payload"), _port(dut, f"{name}__ready")
        self.valid = getattr(dut, f"{name}__valid")
        self.on_sent: Callable[[int], None] | None = None
        self.clear()

    def clear(self) -> None:
        """Forget everything, as a reset does."""
        self.queue: deque[int | None] = deque()
        self.idle: Iterator[bool] = repeat(False)
        self.sent: list[int] = []
        self.offered = False
        self.valid.value = 0

    def send(self, values: Iterable[Any]) -> None:
        """Queue payloads."""
        pack = self.format.pack
        self.queue.extend(None if v is None else pack(v) for v in values)

    @property
    def done(self) -> bool:
        """Everything has been taken."""
        return not self.queue and not self.offered

    def step(self, cycle: int) -> None:
        """One clock edge."""
        if self.offered:
            if self.ready is not None and not self.ready.value:
                return
            self.sent.append(cycle)
            self.offered = False
            if self.on_sent is not None:
                self.on_sent(cycle)
            if self.queue and self.queue[0] is not None and not next(self.idle):
                self._offer(self.queue.popleft())
                return
            self.valid.value = 0
            if self.queue and self.queue[0] is None:
                self.queue.popleft()
        elif self.queue and not next(self.idle):
            word = self.queue.popleft()
            if word is not None:
                self.valid.value = 1
                self._offer(word)

    def _offer(self, word: int | None) -> None:
        self.offered = True
        if self.payload is not None:
            self.payload.value = word


class Sink:
    """Takes a stream, or watches a flow if there is no `ready`; `words` and `cycles` hold what came and when.

    A word that is offered and not taken must stay offered, unchanged: each such cycle is a comparison.  Where two
    streams move only together, `steady` is False, and this is not asked for.
    """

    def __init__(self, dut: Any, name: str, shape: Any, scoreboard: Scoreboard, steady: bool = True) -> None:
        self.name, self.format, self.scoreboard, self.steady = name, Format(shape), scoreboard, steady
        self.payload, self.ready = _port(dut, f"{name}__payload"), _port(dut, f"{name}__ready")
        self.valid = getattr(dut, f"{name}__valid")
        self.clear()

    def clear(self) -> None:
        """Forget everything, as a reset does."""
        self.stall: Iterator[bool] = repeat(False)
        self.words: list[int] = []
        self.cycles: list[int] = []
        self.taking = self.ready is None
        self.held: int | None = None
        if self.ready is not None:
            self.ready.value = 0

    @property
    def values(self) -> list[Any]:
        """Everything that came, unpacked."""
        unpack = self.format.unpack
        return [unpack(w) for w in self.words]

    def __len__(self) -> int:
        return len(self.words)

    def step(self, cycle: int) -> None:
        """One clock edge."""
        if self.valid.value:
            word = 0 if self.payload is None else int(self.payload.value)
            if self.held is not None:
                self.scoreboard.equal(f"{self.name} while it waits", word, self.held)
            self.held = None if self.taking or not self.steady else word
            if self.taking:
                self.words.append(word)
                self.cycles.append(cycle)
        elif self.held is not None:
            self.scoreboard.equal(f"{self.name} while it waits", None, self.held)
            self.held = None
        if self.ready is not None:
            taking = not next(self.stall)
            if taking != self.taking:
                self.taking = taking
                self.ready.value = int(taking)


class Responder:
    """A store behind a pair of streams: answers each request in order, 2 cycles later, or later if the bench is `slow`.

    `read` gives the word at an address when it is asked for.
    """

    def __init__(
        self, bench: Any, request: str, word: str, shapes: tuple[Any, Any], read: Callable[[int], Any]
    ) -> None:
        self.request = bench.sink(request, shapes[0], bench.pattern() if bench.slow else "none")
        self.word = bench.source(word, shapes[1], bench.pattern() if bench.slow else "none")
        self.read, self.answered = read, 0
        # after both: a word queued now is offered after the next edge
        bench.steps.append(self.step)

    def step(self, cycle: int) -> None:
        """One clock edge."""
        while self.answered < len(self.request):
            self.word.send([self.read(self.request.words[self.answered])])
            self.answered += 1


class Pulses:
    """Counts the cycles in which plain outputs are high: `cycles[name]` holds them."""

    def __init__(self, bench: Any, *names: str) -> None:
        self.handles = {name: getattr(bench.dut, name) for name in names}
        self.cycles: dict[str, list[int]] = {name: [] for name in names}
        bench.steps.append(self.step)

    def step(self, cycle: int) -> None:
        """One clock edge."""
        for name, handle in self.handles.items():
            if handle.value:
                self.cycles[name].append(cycle)
