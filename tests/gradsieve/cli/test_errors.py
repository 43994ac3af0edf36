"""Which errors the command line tells in one line: every public one of the project, or there is a reason."""

from __future__ import annotations

import importlib
import pkgutil
import re

import pytest

import gradsieve
from gradsieve.cli.application import main
from gradsieve.cli.options import error_status
from gradsieve.fpga.errors import PacketError

INTERNAL = {
    "SieveError": "for callers from Python: the trainer makes it a SettingsError, and other verbs check before",
}


def public_errors() -> dict[str, type[Exception]]:
    """Every public class of exceptions that is defined in the package, by its name."""
    found: dict[str, type[Exception]] = {}
    for module in pkgutil.walk_packages(gradsieve.__path__, "gradsieve."):
        if module.name == "gradsieve.__main__" or re.match(r"gradsieve\.tb\.(\w+\.)?bench_", module.name):
            continue  # the command line itself, and tests that only a simulator can import
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == module.name:
                found[name] = value
    return {name: value for name, value in found.items() if not name.startswith("_")}


def test_every_public_error_is_known_or_internal_for_a_reason() -> None:
    errors = public_errors()
    assert {"ConfigError", "PacketError", "CacheError", "SettingsError", "BuildError"} <= errors.keys()
    unknown = {name for name, error in errors.items() if error_status(error.__new__(error)) is None}
    assert unknown == INTERNAL.keys()


@pytest.mark.parametrize("error", [PacketError("a packet of 3 bytes came where 8 were due")])
def test_a_wrong_packet_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("gradsieve.cli.deploy._check", fail)
    assert main(["deploy", "--preset", "tiny", "--port", "/dev/none", "--check"]) == 1
    assert capsys.readouterr().err == f"error: {error}\n"
