"""What an engine is made of, counted in its Verilog: ports, memories, multipliers, peak rate."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from gradsieve.hw.config import EngineConfig
from gradsieve.rtl_gen.netlist import Port, hierarchy, parse
from gradsieve.rtl_gen.verilog import digest, top_name


@dataclass(frozen=True)
class MemoryInstance:
    """One memory of the engine: where it is in the hierarchy, and `words` words of `bits` bits."""

    path: str
    words: int
    bits: int


@dataclass(frozen=True)
class Summary:
    """The facts about one generated engine."""

    name: str
    config_digest: str
    verilog_sha256: str
    config: dict[str, Any]
    ports: tuple[Port, ...]
    memories: tuple[MemoryInstance, ...]
    multipliers: int
    """Multipliers of the design: one a processing element, and those of the gate gradient unit."""
    peak_macs: int
    """Multiply-accumulates a cycle while the array is busy."""

    @property
    def memory_bits(self) -> int:
        """Bits of all memories."""
        return sum(m.words * m.bits for m in self.memories)

    def to_json(self) -> str:
        """The summary as a JSON text."""
        return json.dumps(asdict(self) | {"memory_bits": self.memory_bits}, indent=2) + "\n"

    def to_markdown(self) -> str:
        """The summary as Markdown tables."""
        lines = [
            "| what | how much |",
            "|---|---|",
            f"| multipliers | {self.multipliers} |",
            f"| peak multiply-accumulates a cycle | {self.peak_macs} |",
            f"| memory | {self.memory_bits} bits ({self.memory_bits / 8192:.1f} KiB) |",
            "",
            "| port | direction | bits |",
            "|---|---|---|",
            *(f"| `{p.name}` | {p.direction} | {p.width} |" for p in self.ports),
            "",
            "| memory | words | bits a word |",
            "|---|---|---|",
            *(f"| `{m.path}` | {m.words} | {m.bits} |" for m in self.memories),
        ]
        return "\n".join(lines) + "\n"


def summarize(config: EngineConfig, verilog: str) -> Summary:
    """The summary of the engine of `config`, whose Verilog is `verilog`."""
    modules = parse(verilog)
    top = top_name(config)
    memories = [
        MemoryInstance(".".join((*path, memory.name)), memory.words, memory.bits)
        for path, module in hierarchy(modules, top)
        for memory in module.memories
    ]
    return Summary(
        name=top,
        config_digest=config.digest,
        verilog_sha256=digest(verilog),
        config=config.model_dump(mode="json"),
        ports=modules[top].ports,
        memories=tuple(memories),
        multipliers=config.multipliers,
        peak_macs=config.peak_macs,
    )
