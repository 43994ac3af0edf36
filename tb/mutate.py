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


def mutants(text: str, count: int, seed: int = 1) -> list[tuple[str, str]]:
    """`count` different texts with one operator exchanged in each, and for each the line that was changed.

    Fewer, if the text has not so many operations.
    """
    lines = text.splitlines()
    places: list[int] = []
    start = 0
    for end, line in enumerate(lines):
        if line == "endmodule":
            used = Counter(re.findall(r"\\\S+|\w+", "\n".join(lines[start : end + 1])))
            # declared, assigned and used in its module: what nothing uses cannot be noticed
            inside = [n for n in range(start, end) if _OPERATION.match(lines[n])]
            places += [n for n in inside if used[lines[n].split()[1]] > 2]
            start = end + 1
    chosen = random.Random(seed).sample(places, min(count, len(places)))
    out = []
    for n in chosen:
        changed = _OPERATION.sub(lambda m: m[1] + _SWAPS[m[2]] + m[3], lines[n])
        out.append(
            ("\n".join([*lines[:n], changed, *lines[n + 1 :]]) + "\n", f"{lines[n].strip()} -> {changed.strip()}")
        )
    return out
