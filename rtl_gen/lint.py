"""Lint of generated Verilog by Verilator; `python -m gradsieve.rtl_gen.lint` lints every preset."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from gradsieve.rtl_gen.verilator import WAIVERS, ToolError, verilator_env


class LintError(ToolError):
    """Verilator found something; the message names every finding."""


def lint(path: Path, top: str | None = None, waivers: Path | None = WAIVERS) -> None:
    """Raise LintError if `verilator --lint-only -Wall` reports anything about `path` that `waivers` does not waive.

    `top` is the top module, by default the stem of the file's name.
    """
    env = verilator_env(build=False)
    command = ["verilator", "--lint-only", "-Wall", "--top-module", top or path.stem]
    command += [str(p.resolve()) for p in (waivers, path) if p is not None]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    report = (done.stdout + done.stderr).strip()
    if done.returncode != 0 or "%Warning" in report or "%Error" in report:
        findings = " | ".join(line for line in report.splitlines() if line.startswith("%"))
        raise LintError(f"{path}: verilator --lint-only -Wall: {findings or f'exit status {done.returncode}'}")


def main() -> int:
    """Lint the Verilog of every preset; 1 if one does not pass."""
    from gradsieve.hw.config import PRESETS
    from gradsieve.rtl_gen.cache import cached_verilog

    status = 0
    for name, config in PRESETS.items():
        try:
            lint(cached_verilog(config))
            print(f"{name}: clean")
        except ToolError as error:
            print(f"{name}: {error}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
