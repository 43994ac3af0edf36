"""The stand-in for the engine."""

from __future__ import annotations

import sys
import types

import pytest

from tests.rtl_gen import stand_in


@pytest.fixture
def small_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """gradsieve.hw.engine.Engine is the stand-in."""
    module = types.ModuleType("gradsieve.hw.engine")
    module.Engine = stand_in.Engine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gradsieve.hw.engine", module)
