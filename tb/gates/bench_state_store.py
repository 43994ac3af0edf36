"""Bench of the state store: dh and dc written apart, read together."""

from __future__ import annotations

from gradsieve.hw.gates.state_store import StateStore
from gradsieve.hw.layouts import lanes_layout, state_layout
from gradsieve.hw.lib.stream_memory import write_layout
from gradsieve.tb.coverage import CORNERS, corner, cover
from gradsieve.tb.environment import Bench, test

_sample = cover("state_store", {"write": ["both", "dh", "dc"], "value": CORNERS, "stalled": [False, True]})


@test
async def writes_and_reads(bench: Bench) -> None:
    """Random writes to either half, then every address read."""
    c, rng, form = bench.config, bench.rng, bench.config.formats.gradient
    depth = c.batch_tiles * c.max_H
    contents = {"hidden_write": [[0] * c.C for _ in range(depth)], "cell_write": [[0] * c.C for _ in range(depth)]}
    first = True
    for stall in ("none", "half", "bursts") * bench.rounds:
        bench.fresh()
        sources = {}
        for name, words in contents.items():
            source = sources[name] = bench.source(name, write_layout(lanes_layout(c), depth), "half")
            addresses = range(depth) if first else rng.sample(range(depth), depth // 2)
            for address in addresses:
                words[address] = [
                    rng.choice((form.minimum, form.maximum, 0, rng.randint(form.minimum, form.maximum)))
                    for _ in range(c.C)
                ]
                source.send([{"address": address, "word": words[address]}])
                _sample({"write": "both" if first else "dh" if name == "hidden_write" else "dc"})
                _sample({"value": corner(words[address][0], form)})
        first = False
        await bench.sent(*sources.values())
        request = bench.source("request", range(depth))
        state = bench.sink("state", state_layout(c), stall)
        order = [rng.randrange(depth) for _ in range(depth)] + list(range(depth))
        request.send(order)
        await bench.came(state, len(order))
        expected = [{"dh": contents["hidden_write"][a], "dc": contents["cell_write"][a]} for a in order]
        bench.scoreboard.sequence("state", state.values, expected)
        _sample({"stalled": stall != "none"})
        if stall == "none":
            latencies = {b - a for a, b in zip(request.sent, state.cycles, strict=True)}
            bench.scoreboard.equal("latency", latencies, {StateStore.latency})
            bench.scoreboard.equal("a request a cycle", request.sent[-1] - request.sent[0], len(order) - 1)
