"""What the slow tools are doing, read from the lines that they write."""

from __future__ import annotations

import re
from collections.abc import Callable

Progress = Callable[[str, str], None]
"""Called with the name of a stage and with what it is doing; the latter is empty at its start."""

_PASS = re.compile(r"\d+(?:\.\d+)*\. (?:Executing|Re-running|Continuing) (.+?)(?: \(.*\))?\.?$")
_PLACING = re.compile(r"at iteration #(\d+), type \S+: .*legal = (\d+)")
_SPREADING = re.compile(r"iter=(\d+) steplen=")
_REFINING = re.compile(r"at iteration #(\d+): temp = .*wirelen = (\d+)")
_ARCS = re.compile(r"Routing (\d+) arcs")
_ROUTING = re.compile(r"Info:\s+\d+ \|[\s\d]+\|[\s\d]+\|\s*(\d+)\|")


class Follower:
    """Calls `progress` with what a line of Yosys or nextpnr tells, and nothing for other lines."""

    def __init__(self, stage: str, progress: Progress) -> None:
        self._stage, self._progress = stage, progress
        self._arcs = 0
        progress(stage, "")

    def __call__(self, line: str) -> None:
        detail = self._detail(line)
        if detail is not None:
            self._progress(self._stage, detail)

    def _detail(self, line: str) -> str | None:
        if found := _PASS.search(line):
            return found[1].lower()
        if found := _PLACING.search(line):
            return f"placing, iteration {found[1]}, {int(found[2]):,} of wire"
        if found := _SPREADING.search(line):
            return f"placing, iteration {found[1]}"
        if found := _REFINING.search(line):
            return f"refining the placement, iteration {found[1]}, {int(found[2]):,} of wire"
        if found := _ARCS.search(line):
            self._arcs = int(found[1])
            return f"routing, {self._arcs:,} arcs left"
        if found := _ROUTING.search(line):
            left = int(found[1])
            return f"routing, {left:,} arcs left of {self._arcs:,}"
        return None
