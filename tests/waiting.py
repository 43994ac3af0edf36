"""Waiting for what another process does: until it is so, not for a time."""

from __future__ import annotations

import time
from collections.abc import Callable

LOOK_SECONDS = 0.02
"""Between two looks."""
PATIENCE_SECONDS = 240.0
"""Minutes, on a machine with other load: whoever waits for so long waits in vain."""


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until `condition` holds.  Fails, saying `what` did not come, after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s"
        time.sleep(LOOK_SECONDS)
