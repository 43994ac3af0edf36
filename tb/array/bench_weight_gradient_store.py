"""Bench of the weight gradient store: a plain list of sums for each row of the array, each row at its own cycles."""

from __future__ import annotations

from typing import Any

from gradsieve.hw.array.weight_gradient_store import WeightGradientStore
from gradsieve.hw.layouts import gradient_word_layout, group_elements
from gradsieve.tb.coverage import cover
from gradsieve.tb.environment import Bench, test
from gradsieve.tb.layout import Format

_sample = cover(
    "weight_gradient_store",
    {"reading": [False, True], "change": ["none", "write", "clear"], "read": ["the cycle before", "same", "after"]},
    [("reading", "read")],
)


class Model:
    """Sums of every row and address; None where anything may be."""

    def __init__(self, bench: Bench) -> None:
        self.config = bench.config
        self.sums: list[list[Any]] = [[None] * bench.config.weight_words for _ in range(bench.config.R)]

    def play(self, reading: bool, addresses: list[int], changes: list[Any], sums: list[list[int]]) -> list[list[Any]]:
        """Words of the addresses; `changes` holds, by cycle, None or whether it is a clear, and an address."""
        c = self.config
        words: list[list[Any]] = [[None] * c.R for _ in addresses]
        for j in range(c.R):
            late = j // group_elements(c) if reading else j
            for cycle in range(len(addresses)):
                asked, change = cycle - 1 - late, changes[cycle - 1 - j] if cycle > j else None
                address = addresses[asked] if asked >= 0 else None
                if address is not None:
                    same = change is not None and change[1] == address
                    words[asked][j] = None if same else self.sums[j][address]
                    if j == 0:
                        before = cycle > 1 and changes[cycle - 2] is not None and changes[cycle - 2][1] == address
                        _sample(
                            {"reading": reading, "read": "same" if same else "after" if before else "the cycle before"}
                        )
                if change is not None:
                    self.sums[j][change[1]] = 0 if change[0] else sums[cycle][j]
        return words


@test
async def words(bench: Bench) -> None:
    """Reads and changes of few addresses at the same time: row by row as in a run, group by group as in a readout."""
    c, rng = bench.config, bench.rng
    depth, latency = c.weight_words, WeightGradientStore.latency
    word = Format(gradient_word_layout(c))
    model = Model(bench)
    quiet = latency + 2 * c.R
    for count in (depth, 400, 400, 400) * bench.rounds:
        reading = rng.random() < 0.5
        near = [0, depth - 1, *[rng.randrange(depth) for _ in range(3)]]
        changes: list[Any] = [(True, n) for n in range(depth)] if count == depth else []
        while len(changes) < count:
            kind = rng.choice(("none", "write", "clear"))
            _sample({"change": kind})
            changes.append(None if kind == "none" else (kind == "clear", rng.choice(near)))
        changes += [None] * quiet  # until the last row is done
        length = len(changes)
        addresses = [rng.choice(near) for _ in range(length)]
        sums = [word.unpack(rng.getrandbits(word.width)) for _ in range(length)]
        idle = [rng.randrange(depth) for _ in range(length)]
        writes = [n is not None and not n[0] for n in changes]
        clears = [n is not None and n[0] for n in changes]
        ports = {
            "reading": [int(reading)] * length,
            "read_address": addresses if reading else idle,
            "address": idle if reading else addresses,
            "write__valid": [int(n) for n in writes],
            "write__payload": [n[1] if w else i for n, w, i in zip(changes, writes, idle, strict=True)],
            "clear__valid": [int(n) for n in clears],
            "clear__payload": [n[1] if w else i for n, w, i in zip(changes, clears, idle, strict=True)],
            "sums": [word.pack(n) for n in sums],
        }
        came = [word.unpack(v) for v in (await bench.play(ports, "words"))["words"]]
        expected = model.play(reading, addresses, changes, sums)
        actual, known = [], []
        for n in range(length - latency - c.R):
            for j in range(c.R):
                if expected[n][j] is not None:
                    late = j // group_elements(c) if reading else j
                    known.append(expected[n][j])
                    actual.append(came[n + latency + late][j])
        bench.scoreboard.sequence("sum", actual, known)
