"""Bench of the credit counter: a plain count of what is outstanding."""

from __future__ import annotations

from gradsieve.tb.coverage import cover
from gradsieve.tb.environment import Bench, test
from gradsieve.tb.harness import CreditCounters

_MOVES = ("neither", "acquire", "release", "both")
_sample = cover(
    "credit_counter",
    {"kind": list(range(len(CreditCounters.kinds))), "move": _MOVES, "count": ["none", "some", "full"]},
    [("kind", "move"), ("kind", "count")],
    impossible=[(0, "some")],
)


@test
async def counts(bench: Bench) -> None:
    """Random moves that the counter allows, filling and emptying; the limit changes while nothing is outstanding."""
    rng = bench.rng
    for number, (most, each, at_once) in enumerate(CreditCounters.kinds):
        port = f"counter_{number}"
        count, limit = 0, most
        bench.set(**{f"{port}_limit": limit, f"{port}_acquire": 0, f"{port}_release": 0})
        await bench.cycles(2)
        for n in range(400 * bench.rounds):
            if count == 0 and rng.random() < 0.1:
                limit = rng.randint(at_once, most)
                bench.set(**{f"{port}_limit": limit, f"{port}_acquire": 0, f"{port}_release": 0})
                await bench.cycles(2)  # the new limit counts from the next cycle on
            eager = 0.9 if n // 40 % 2 else 0.3
            acquire = count + at_once <= limit and rng.random() < eager
            release = count > 0 and rng.random() < 1.1 - eager
            bench.set(**{f"{port}_acquire": acquire, f"{port}_release": release})
            await bench.cycles(1)
            bench.set(**{f"{port}_acquire": 0, f"{port}_release": 0})
            count += each * acquire - release
            await bench.cycles(1)
            bench.scoreboard.equal(f"{port} available", bench.get(f"{port}_available"), count + at_once <= limit)
            bench.scoreboard.equal(f"{port} idle", bench.get(f"{port}_idle"), count == 0)
            full = "full" if count + at_once > limit else "some" if count else "none"
            _sample({"kind": number, "move": _MOVES[acquire + 2 * release], "count": full})


@test
async def follows_every_cycle(bench: Bench) -> None:
    """Moves in consecutive cycles: the outputs are those of the cycle before."""
    for number, (most, each, at_once) in enumerate(CreditCounters.kinds):
        moves, counts = [], [0]
        for _ in range(200):
            acquire = counts[-1] + at_once <= most and bench.rng.random() < 0.7
            release = counts[-1] > 0 and bench.rng.random() < 0.5
            moves.append((int(acquire), int(release)))
            counts.append(counts[-1] + each * acquire - release)
        port = f"counter_{number}"
        bench.set(**{f"{port}_limit": most})
        await bench.reset()
        inputs = {f"{port}_acquire": [a for a, _ in moves], f"{port}_release": [r for _, r in moves]}
        came = await bench.play(inputs, f"{port}_available", f"{port}_idle")
        available = [int(n + at_once <= most) for n in counts[:-1]]
        bench.scoreboard.sequence(f"{port} available", came[f"{port}_available"], available)
        bench.scoreboard.sequence(f"{port} idle", came[f"{port}_idle"], [int(n == 0) for n in counts[:-1]])
        bench.set(**{f"{port}_acquire": 0, f"{port}_release": 0})
