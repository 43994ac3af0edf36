"""Builds the Verilated shared library of an engine and loads it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hw.config import EngineConfig
from rtl_gen.cache import cached_verilog
from rtl_gen.files import cached
from rtl_gen.verilator import ToolError, verilator_env
from rtl_gen.verilog import top_name

SOURCE = Path(__file__).with_name("simulator.cpp")
CLASS = "Vengine"
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


def _run(command: list[str], env: dict[str, str], folder: Path) -> None:
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise ToolError(f"{command[0]} failed with status {done.returncode}:\n{tail}")


def build(verilog: Path, top: str, stream_width: int) -> Path:
    """The shared library of the engine in `verilog`, built unless an earlier call built the same text.

    Raises ToolError, which says what to install or quotes the tool that failed.
    """
    env = verilator_env()
    key = hashlib.sha256()
    for part in (
        verilog.read_bytes(),
        SOURCE.read_bytes(),
        " ".join((*VERILATOR_FLAGS, *COMPILER_FLAGS, FAST, SLOW)).encode(),
    ):
        key.update(hashlib.sha256(part).digest())

    def make(folder: Path) -> None:
        objects = folder / "objects"
        _run(
            [
                "verilator",
                "--cc",
                *VERILATOR_FLAGS,
                "--top-module",
                top,
                "--prefix",
                CLASS,
                "--Mdir",
                "objects",
                str(verilog),
            ],
            env,
            folder,
        )
        root = Path(env["VERILATOR_ROOT"])
        sources = [*sorted(objects.glob("*.cpp")), *(root / "include" / n for n in RUNTIME), SOURCE]
        defines = [f"-DENGINE={CLASS}", f'-DENGINE_HEADER="{CLASS}.h"', f"-DSTREAM_BYTES={stream_width // 8}"]
        includes = [f"-I{root / 'include'}", f"-I{root / 'include' / 'vltstd'}", f"-I{objects}"]
        compiler = env.get("CXX", "").split() or ["c++"]

        def compile_one(source: Path) -> str:
            target = objects / f"{source.stem}.o"
            optimisation = SLOW if source.stem.endswith(("__Slow", "__Syms")) else FAST
            _run(
                [*compiler, *COMPILER_FLAGS, optimisation, *defines, *includes, "-c", str(source), "-o", str(target)],
                env,
                folder,
            )
            return str(target)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            compiled = list(pool.map(compile_one, sources))
        _run([*compiler, "-shared", "-o", "engine.so", *compiled, "-lpthread"], env, folder)
        for path in objects.iterdir():
            path.unlink()
        objects.rmdir()

    return cached("simulator", key.hexdigest()[:24], make) / "engine.so"


def load(config: EngineConfig, verilog: Path | None = None) -> ctypes.CDLL:
    """The library of the engine of `config`, built first if need be.

    `verilog` puts another text in the place of the generated one (a mutated design, say).
    """
    path = build(verilog or cached_verilog(config), top_name(config), config.stream_width)
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
