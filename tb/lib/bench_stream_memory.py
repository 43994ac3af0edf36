"""Bench of the stream memory: a plain list of words beside it."""

from __future__ import annotations

from gradsieve.hw.lib.stream_memory import StreamMemory, write_layout
from gradsieve.tb.coverage import cover
from gradsieve.tb.environment import Bench, config, test

_CONFIG = config()
SHAPE, DEPTH = _CONFIG.R * _CONFIG.formats.weight.width, _CONFIG.gate_rows
"""A word of the weight store."""

_sample = cover(
    "memory",
    {"same address": [False, True], "address": ["first", "last", "between"], "request": ["full speed", "gaps"]},
)


@test
async def random_accesses(bench: Bench) -> None:
    """Writes and requests at the same time, with gaps on both sides."""
    rng = bench.rng
    memory = [0] * DEPTH
    for idle, stall in (("none", "none"), ("none", "half"), ("half", "none"), ("bursts", "bursts")) * bench.rounds:
        bench.fresh()
        write = bench.source("write", write_layout(SHAPE, DEPTH))
        write.send([{"address": a, "word": w} for a, w in enumerate(memory)])
        await bench.sent(write)
        request, word = bench.source("request", range(DEPTH), idle), bench.sink("word", SHAPE, stall)
        near = [rng.randrange(DEPTH) for _ in range(4)]  # few addresses, so that both ports meet at one
        writes = [None if rng.random() < 0.4 else (rng.choice(near), rng.getrandbits(SHAPE)) for _ in range(300)]
        requests = [rng.choice((0, DEPTH - 1, *near, *near)) for _ in range(150)]
        write.send(None if w is None else {"address": w[0], "word": w[1]} for w in writes)
        already = len(write.sent)
        request.send(requests)
        await bench.came(word, 150)
        await bench.sent(write)
        written = list(zip(write.sent[already:], [w for w in writes if w is not None], strict=True))
        expected, state, n = [], list(memory), 0
        for cycle, address in zip(request.sent, requests, strict=True):
            while n < len(written) and written[n][0] < cycle:
                state[written[n][1][0]] = written[n][1][1]
                n += 1
            same = n < len(written) and written[n][0] == cycle and written[n][1][0] == address
            expected.append(None if same else state[address])
            place = "first" if address == 0 else "last" if address == DEPTH - 1 else "between"
            _sample({"same address": same, "address": place, "request": "full speed" if idle == "none" else "gaps"})
        for _, (address, value) in written[n:]:
            state[address] = value
        memory = state
        # a word written in the cycle of its request reads as anything
        seen = [None if e is None else w for w, e in zip(word.values, expected, strict=True)]
        bench.scoreboard.sequence("word", seen, expected)
        if stall == "none":
            latency = [b - a for a, b in zip(request.sent, word.cycles, strict=True)]
            bench.scoreboard.equal("latencies", set(latency), {StreamMemory.latency})
        if idle == stall == "none":
            bench.scoreboard.equal("a request a cycle", request.sent[-1] - request.sent[0], len(requests) - 1)
