"""The seed of a session: fixed where a change is judged, fresh where faults are looked for, and the user's if given."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import GATING_SEED, SEED_VARIABLE

ROOT = Path(__file__).parents[1]


def said(*options: str, **env: str) -> set[str]:
    """The seeds that a session prints, at its start and at its end."""
    command = [sys.executable, "-m", "pytest", "--collect-only", *options, "tests/test_messages.py"]
    environment = {k: v for k, v in os.environ.items() if k != SEED_VARIABLE} | env
    out = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False).stdout
    seeds = re.findall(rf"seed: (?:{SEED_VARIABLE}=)?(\d+)", out)
    assert len(seeds) == 2, out
    return set(seeds)


def test_the_gating_suite_has_a_fixed_seed() -> None:
    assert said() == {str(GATING_SEED)}


def test_the_heavy_suite_has_a_fresh_seed() -> None:
    first, second = said("-m", "heavy"), said("-m", "heavy")
    assert len(first) == len(second) == 1
    assert first != second and str(GATING_SEED) not in first | second


def test_a_given_seed_is_taken() -> None:
    for suite in ((), ("-m", "heavy")):
        assert said(*suite, **{SEED_VARIABLE: "77"}) == {"77"}
