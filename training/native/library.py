"""Builds the compiled passes for this PyTorch and this CPU on first use, and loads them."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import torch
from torch import Tensor

from gradsieve.hw.config import MAX_SHIFT

FOLDER = Path(__file__).parent
SOURCES = ("library.cpp", "backward.h", "forward.h", "sieve.h", "tiles.h", "workspace.h")
CAPABILITIES = {
    "AVX512": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mf16c"),
    "AVX2": ("-mavx2", "-mfma", "-mf16c"),
}
"""What a compiler is told for a capability of PyTorch's; others are the least of their kind of machine."""
DTYPES = (torch.float32, torch.float64)

_lock = threading.Lock()
_loaded: bool | None = None


def serves(*tensors: Tensor) -> bool:
    """Whether the compiled passes compute with these tensors; the first call with some that they could builds them.

    They serve float32 and float64 on a CPU.  Where they cannot be built one warning says why.
    """
    return all(t.device.type == "cpu" and t.dtype == tensors[0].dtype in DTYPES for t in tensors) and load()


def load() -> bool:
    """Build the passes unless an earlier call, of this process or another, has done so, and load them.

    Returns whether they are there.  If not, one warning quotes why.
    """
    global _loaded
    if _loaded is None:
        with _lock:
            if _loaded is None:
                _loaded = _load()
    return _loaded


def _load() -> bool:
    from gradsieve.rtl_gen.verilator import ToolError

    try:
        torch.ops.load_library(str(build()))
    except (ToolError, OSError) as error:
        warnings.warn(
            f"SievedLSTM's passes run in PyTorch's operations, which give the same numbers and take about twice the "
            f"time: the compiled ones cannot be used: {error}",
            stacklevel=2,
        )
        return False
    return True


def build() -> Path:
    """The library, built in the cache (docs/environment.md) if it is not there; a line on stderr says so.

    One process builds it at a time.  Raises ToolError without a C++ compiler, or quoting one that failed.
    """
    from gradsieve.rtl_gen.files import cached
    from gradsieve.rtl_gen.verilator import compiler

    words = [*compiler(os.environ, "the compiled passes need it"), *_flags()]
    key = hashlib.sha256(f"{torch.__version__} {torch.version.git_version} {_version(words[0])} {words}".encode())
    for name in SOURCES:
        key.update(hashlib.sha256((FOLDER / name).read_bytes()).digest())
    return cached("native", key.hexdigest()[:24], lambda folder: _compile(words, folder)) / "passes.so"


def _flags() -> tuple[str, ...]:
    capability = torch.backends.cpu.get_cpu_capability()
    if capability not in CAPABILITIES:
        capability = "DEFAULT"
    home = Path(torch.__file__).parent
    mac = platform.system() == "Darwin"
    return (
        "-O3", "-std=c++20", "-fPIC", "-shared", "-w", f"-DMAX_SHIFT={MAX_SHIFT}",
        *CAPABILITIES.get(capability, ()),
        f"-DCPU_CAPABILITY={capability}", f"-DCPU_CAPABILITY_{capability}",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        *(() if mac else ("-fopenmp",)),  # what PyTorch's threads are; Apple's compiler knows none of them
        f"-I{home / 'include'}", f"-L{home / 'lib'}", "-ltorch_cpu", "-lc10",
    )  # fmt: skip


def _version(program: str) -> str:
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout


def _compile(words: list[str], folder: Path) -> None:
    from gradsieve.rtl_gen.tools import run_compiler

    print("gradsieve: building SievedLSTM's passes for this machine (once, about ten seconds)", file=sys.stderr)
    run_compiler([words[0], str(FOLDER / "library.cpp"), "-o", "passes.so", *words[1:]], folder)
