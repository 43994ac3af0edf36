"""Small faults put into generated Verilog, to see that a bench notices them."""

from __future__ import annotations

import random
import re
from collections import Counter

_SWAPS = {
    "+": "-",
    "-": "+",
    "&": "|",
    "|": "&",
    "^": "&",
    "==": "!=",
    "!=": "==",
    ">": "<=",
    "<": ">=",
    ">=": "<",
    "<=": ">",
    "<<": ">>",
    ">>": "<<",
    ">>>": "<<",
    "*": "+",
}
_OPERATION = re.compile(r"^(\s*assign .* = \S.* )(\+|-|&|\||\^|==|!=|>=|<=|>>>|<<|>>|>|<|\*)( .*;)$")
_WITH_ZERO = re.compile(r" [-+] \d+'h0+;$")
_SLICE = re.compile(r"^(\s*(?:\.\S+ ?\(|(?!assign )\S.* <= )\S+ ?\[)(\d+):(\d+)(\]\)?[,;]?)$")
"""In the connection of a port, or in what a register or memory gets."""


def _beside(match: re.Match[str]) -> str:
    """A slice one bit lower, or higher if it is the lowest one: something lies above, or it would be no slice."""
    high, low = int(match[2]), int(match[3])
    step = -1 if low else 1
    return f"{match[1]}{high + step}:{low + step}{match[4]}"


def mutants(text: str, count: int, seed: int = 1) -> list[tuple[str, str]]:
    """`count` different texts with one operator exchanged in each, and for each the line that was changed.

    If the text has not so many operators, there are texts with one slice a bit off besides; fewer, if there are not so
    many of them either.
    """
    lines = text.splitlines()
    operators: list[int] = []
    slices: list[int] = []
    start = 0
    for end, line in enumerate(lines):
        if line == "endmodule":
            used = Counter(re.findall(r"\\\S+|\w+", "\n".join(lines[start : end + 1])))
            # declared, assigned and used in its module: what nothing uses cannot be noticed, nor the sign of zero
            inside = [n for n in range(start, end) if _OPERATION.match(lines[n]) and not _WITH_ZERO.search(lines[n])]
            operators += [n for n in inside if used[lines[n].split()[1]] > 2]
            slices += [n for n in range(start, end) if _SLICE.match(lines[n])]
            start = end + 1
    draw = random.Random(seed)
    chosen = draw.sample(operators, min(count, len(operators)))
    chosen += draw.sample(slices, min(count - len(chosen), len(slices)))
    out = []
    for n in chosen:
        changed = _OPERATION.sub(lambda m: m[1] + _SWAPS[m[2]] + m[3], lines[n])
        changed = _SLICE.sub(_beside, changed)
        out.append(
            ("\n".join([*lines[:n], changed, *lines[n + 1 :]]) + "\n", f"{lines[n].strip()} -> {changed.strip()}")
        )
    return out
