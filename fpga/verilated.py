"""Builds shared libraries of Verilated designs, and loads that of an engine."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gradsieve.hw.config import EngineConfig
from gradsieve.rtl_gen.cache import cached_verilog
from gradsieve.rtl_gen.files import cached
from gradsieve.rtl_gen.tools import run_compiler
from gradsieve.rtl_gen.verilator import compiler, verilator_env
from gradsieve.rtl_gen.verilog import top_name

VERILATOR_FLAGS = (
    "-O3",
    "--x-assign",
    "fast",
    "--x-initial",
    "fast",
    "--no-timing",
    "-Wno-fatal",
    "--output-split",
    "6000",
)
RUNTIME = ("verilated.cpp", "verilated_threads.cpp")
COMPILER_FLAGS = ("-std=c++20", "-fPIC", "-w")
FAST, SLOW = "-O2", "-O0"
"""Optimisation of code that runs every cycle, and of Verilator's `__Slow` and symbol files, which run once."""


@dataclass(frozen=True)
class Wrapper:
    """The C++ file that gives a Verilated design its C interface.

    `name` is that of the cache and of the library; in upper case also of the macro that is the Verilated class (with
    `_HEADER` after it: its header).  `headers` are the files beside `source` that it includes.
    """

    name: str
    source: Path
    headers: tuple[Path, ...] = ()
    defines: tuple[str, ...] = ()


def build(verilog: Path, top: str, wrapper: Wrapper) -> Path:
    """The shared library of the module `top` in `verilog`, built unless an earlier call built the same text.

    Raises ToolError, which says what to install or quotes the tool that failed.
    """
    env = verilator_env()
    key = hashlib.sha256()
    for part in (
        verilog.read_bytes(),
        *(path.read_bytes() for path in (wrapper.source, *wrapper.headers)),
        " ".join((*VERILATOR_FLAGS, *COMPILER_FLAGS, FAST, SLOW, *wrapper.defines)).encode(),
    ):
        key.update(hashlib.sha256(part).digest())
    macro, verilated = wrapper.name.upper(), f"V{wrapper.name}"

    def make(folder: Path) -> None:
        objects, design = folder / "objects", folder / "design.v"
        shutil.copyfile(verilog, design)  # Verilator would look for variables in the path of the other
        verilate = ["verilator", "--cc", *VERILATOR_FLAGS, "--top-module", top, "--prefix", verilated]
        run_compiler([*verilate, "--Mdir", "objects", design.name], folder, env)
        root = Path(env["VERILATOR_ROOT"]) / "include"
        sources = [*sorted(objects.glob("*.cpp")), *(root / n for n in RUNTIME), wrapper.source]
        defines = [f"-D{macro}={verilated}", f'-D{macro}_HEADER="{verilated}.h"', *(f"-D{d}" for d in wrapper.defines)]
        includes = [f"-I{path}" for path in (root, root / "vltstd", objects, wrapper.source.parent)]
        command = compiler(env)

        def compile_one(source: Path) -> str:
            target = objects / f"{source.stem}.o"
            optimisation = SLOW if source.stem.endswith(("__Slow", "__Syms")) else FAST
            run_compiler(
                [*command, *COMPILER_FLAGS, optimisation, *defines, *includes, "-c", str(source), "-o", str(target)],
                folder,
                env,
            )
            return str(target)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            compiled = list(pool.map(compile_one, sources))
        run_compiler([*command, "-shared", "-o", f"{wrapper.name}.so", *compiled, "-lpthread"], folder, env)
        for path in objects.iterdir():
            path.unlink()
        objects.rmdir()
        design.unlink()

    return cached(f"verilated/{wrapper.name}", key.hexdigest()[:24], make) / f"{wrapper.name}.so"


def load(config: EngineConfig, verilog: Path | None = None) -> ctypes.CDLL:
    """The library of the engine of `config`, built first if need be.

    `verilog` puts another text in the place of the generated one (a mutated design, say).
    """
    wrapper = Wrapper(
        "engine", Path(__file__).with_name("simulator.cpp"), defines=(f"STREAM_BYTES={config.stream_width // 8}",)
    )
    path = build(verilog or cached_verilog(config), top_name(config), wrapper)
    library = ctypes.CDLL(str(path))
    size, pointer = ctypes.c_size_t, ctypes.c_void_p
    library.simulator_new.restype = pointer
    library.simulator_delete.argtypes = [pointer]
    library.simulator_cycles.argtypes = [pointer]
    library.simulator_cycles.restype = ctypes.c_uint64
    library.simulator_reset.argtypes = [pointer]
    library.simulator_wait.argtypes = [pointer, ctypes.c_uint64]
    library.simulator_disturb.argtypes = [pointer, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32]
    library.simulator_write.argtypes = [pointer, ctypes.c_uint32, ctypes.c_uint32]
    library.simulator_read.argtypes = [pointer, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint32)]
    library.simulator_stream.argtypes = [
        pointer,
        ctypes.c_char_p,
        size,
        ctypes.c_int,
        pointer,
        size,
        ctypes.c_int,
        ctypes.c_uint64,
        ctypes.POINTER(size),
        ctypes.POINTER(size),
        ctypes.POINTER(ctypes.c_int),
    ]
    return library
