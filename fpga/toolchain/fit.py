"""Whether an engine fits into a board's part: by how much of what it does not, and what to change."""

from __future__ import annotations

from collections.abc import Mapping

from gradsieve.fpga.boards.board import Board
from gradsieve.fpga.toolchain.flows import FLOWS
from gradsieve.hw.config import EngineConfig
from gradsieve.rtl_gen.verilator import ToolError

ADVICE = {
    "luts": "lower R or C, or gate_rows_per_cycle",
    "flip_flops": "lower R or C, or formats.weight_grad_width",
    "multipliers": "lower R or C, or gate_rows_per_cycle",
    "memory_blocks": "lower max_H or max_I",
}


class DoesNotFit(ToolError):
    """The part has less of something than the design needs; the message says of what, and what to change."""


def available(board: Board) -> dict[str, int]:
    """What the board's part has of each resource."""
    c = board.capacity
    return {
        "luts": c.luts,
        "flip_flops": c.flip_flops,
        "multipliers": c.multipliers,
        "memory_blocks": c.memory_blocks,
    }


def check_config(board: Board, config: EngineConfig) -> None:
    """Raise DoesNotFit if the config alone shows that the engine does not fit: this takes no time.

    Memories are taken without the waste of their shapes, so what passes here may not fit after all.
    """
    bits = sum(config.memory_bits.values())
    # what lookup tables and flip-flops could hold besides is too little to matter
    least = {
        "multipliers": config.multipliers,
        "memory_blocks": -(-bits // board.capacity.memory_block_bits),
    }
    _check(board, config, least, "at least ")


def check_counts(board: Board, config: EngineConfig, needed: Mapping[str, int]) -> None:
    """Raise DoesNotFit if the synthesised design needs more than the part has."""
    _check(board, config, needed, "")


def _check(board: Board, config: EngineConfig, needed: Mapping[str, int], bound: str) -> None:
    names, there = FLOWS[board.flow].names, available(board)
    lacking = []
    for resource, count in needed.items():
        if count > there[resource]:
            more = 100 * (count - there[resource]) / there[resource]
            advice = ADVICE[resource] + (f" ({_largest(config)})" if resource == "memory_blocks" else "")
            lacking.append(
                f"{names[resource]}: {bound}{count:,} needed, {there[resource]:,} available "
                f"({more:.0f} % too many): {advice}"
            )
    if lacking:
        raise DoesNotFit(f"{config.name} does not fit {board.name} ({board.part}): " + "; ".join(lacking))


def _largest(config: EngineConfig) -> str:
    sizes = sorted(config.memory_bits.items(), key=lambda item: -item[1])[:2]
    return "the largest are " + " and ".join(f"{name} with {bits:,} bits" for name, bits in sizes)
