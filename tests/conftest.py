"""What the tests share."""

from __future__ import annotations

import os
import random
import shutil

import pytest

os.environ.setdefault("COLUMNS", "120")  # of the tables and messages that tests read

SEED_VARIABLE = "GRADSIEVE_SEED"
GATING_SEED = 1
"""That of a session without heavy tests: what passed once passes again."""

NO_ICARUS = "iverilog is not installed: the engine was not simulated in Icarus Verilog"


def pytest_configure(config: pytest.Config) -> None:
    """Choose the session's seed before any worker starts: they inherit it."""
    gating = "not heavy" in config.option.markexpr
    os.environ.setdefault(SEED_VARIABLE, str(GATING_SEED if gating else random.SystemRandom().getrandbits(32)))


def session_seed() -> int:
    """The seed of this session's random engines and runs."""
    return int(os.environ[SEED_VARIABLE])


def pytest_report_header() -> str:
    """Print the seed, so that a failure can be run again."""
    return f"seed: {session_seed()} (run the same again with {SEED_VARIABLE}={session_seed()})"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the seed with -q too, and what was not tested."""
    terminalreporter.write_line(f"seed: {SEED_VARIABLE}={session_seed()}")
    if shutil.which("iverilog") is None:
        terminalreporter.write_line(NO_ICARUS)
