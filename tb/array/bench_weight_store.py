"""Bench of the weight store: a plain list of words beside it, and each row's weight at its own cycle."""

from __future__ import annotations

from gradsieve.hw.array.weight_store import WeightStore
from gradsieve.hw.layouts import weight_word_layout
from gradsieve.hw.lib.stream_memory import write_layout
from gradsieve.tb.coverage import cover
from gradsieve.tb.environment import Bench, test
from gradsieve.tb.layout import Format

_sample = cover("weight_store", {"address": ["first", "last", "between"], "again": [False, True]})


@test
async def words(bench: Bench) -> None:
    """Words written in any order, then read one a cycle."""
    c, rng = bench.config, bench.rng
    depth, latency = c.weight_words, WeightStore.latency
    word, written = Format(weight_word_layout(c)), Format(write_layout(weight_word_layout(c), c.weight_words))
    memory = [[0] * c.R for _ in range(depth)]
    for count in (depth, 100, 100) * bench.rounds:
        order = rng.sample(range(depth), depth) if count == depth else [rng.randrange(depth) for _ in range(count)]
        writes = [{"address": a, "word": word.unpack(rng.getrandbits(word.width))} for a in order]
        port = bench.source("write", written.shape, bench.pattern())
        port.send(writes)
        await bench.sent(port)
        bench.fresh()
        for write in writes:
            memory[write["address"]] = write["word"]
        edges = [0, depth - 1]
        addresses = [rng.choice(edges) if rng.random() < 0.2 else rng.randrange(depth) for _ in range(200)]
        padding = [rng.randrange(depth) for _ in range(latency + c.R)]
        came = (await bench.play({"address": addresses + padding}, "words"))["words"]
        values = [word.unpack(v) for v in came]
        actual = [[values[n + latency + j][j] for j in range(c.R)] for n in range(len(addresses))]
        bench.scoreboard.sequence("word", actual, [memory[a] for a in addresses])
        for before, address in zip([-1, *addresses], addresses, strict=False):
            place = "first" if address == 0 else "last" if address == depth - 1 else "between"
            _sample({"address": place, "again": before == address})
