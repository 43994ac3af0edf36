"""Runs the tools: found beside the running Python, followed line by line, their failures in one line."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gradsieve.rtl_gen.extras import how_to_install, missing
from gradsieve.rtl_gen.files import tool_caches
from gradsieve.rtl_gen.verilator import ToolError

QUOTED_LINES = 3
"""Most lines of a failed tool's output that its error quotes."""
_MARK = re.compile(r"ERROR:|%Error|\berror:")
"""Of errors, as Yosys and nextpnr, Verilator, and compilers write it."""


class ToolFailed(ToolError):
    """A tool ended with an error; `reason` is what it said, `status` its exit status, or minus a signal's number."""

    def __init__(self, tool: str, status: int, reason: str) -> None:
        how = f"was ended by signal {-status}" if status < 0 else f"failed with status {status}"
        super().__init__(f"{tool} {how}: {reason}")
        self.status, self.reason = status, reason


def version(package: str) -> str:
    """The version of an installed package.  Raises ToolError if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise ToolError(
            missing(package.replace("-", "_")) or f"the Python package {package} is not installed"
        ) from None


def find(tool: str) -> str:
    """The path of an installed tool.  Raises ToolError if it is not installed."""
    path = shutil.which(tool, path=sysconfig.get_path("scripts")) or shutil.which(tool)
    if path is None:
        raise ToolError(f"{tool} is not installed: {how_to_install('fpga')}")
    return path


def run(command: Sequence[str], folder: Path, log: str, follow: Callable[[str], None] = lambda line: None) -> None:
    """Run a tool in `folder`, its output in the file `log` there; `follow` gets each line as it is written.

    Raises ToolError if the tool is not installed or has no folder for its cache, ToolFailed if it ends
    with an error.  The tool does not outlive this call.
    """
    tool, *arguments = command
    lines: list[str] = []
    with open(folder / log, "w", encoding="utf-8", buffering=1) as file:
        process = subprocess.Popen(
            [find(tool), *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **tool_caches("YoWASP"), "PYTHONUNBUFFERED": "1"},
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                file.write(line)
                lines.append(line.strip())
                follow(line.rstrip())
            status = process.wait()
        finally:
            process.kill()
            process.wait()
    if status != 0:
        raise ToolFailed(tool, status, reason_of(lines))


def run_compiler(command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None) -> None:
    """Run a compiler, or what writes its input, in `folder`.  Raises ToolFailed if it ends with an error."""
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolFailed(command[0], done.returncode, reason_of((done.stdout + done.stderr).splitlines()))


def reason_of(lines: Sequence[str]) -> str:
    """What a failed tool said, on one line: its first lines that are marked as errors, or else its last ones."""
    said = [line.strip() for line in lines if line.strip()]
    marked = [line.split("ERROR:", 1)[-1].strip() for line in said if _MARK.search(line)]
    return " | ".join(marked[:QUOTED_LINES] or said[-QUOTED_LINES:]) or "it said nothing"
