"""The stand-in for the engine, and the real one where its ports matter."""

from __future__ import annotations

import sys
import types

import pytest

from gradsieve.hw.config import preset
from gradsieve.rtl_gen.generate import Generated, generate
from tests.rtl_gen import stand_in


@pytest.fixture
def small_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """gradsieve.hw.engine.Engine is the stand-in."""
    module = types.ModuleType("gradsieve.hw.engine")
    module.Engine = stand_in.Engine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gradsieve.hw.engine", module)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Generated:
    """The directory of the real engine `tiny`, as `generate` writes it."""
    return generate(preset("tiny"), tmp_path_factory.mktemp("generated") / "tiny")
