"""One engine as a core of FuseSoC (CAPI2)."""

from __future__ import annotations

from gradsieve.hw.config import EngineConfig
from gradsieve.rtl_gen.register_map import LIBRARY, VENDOR, VERSION
from gradsieve.rtl_gen.verilator import WAIVERS
from gradsieve.rtl_gen.verilog import top_name


def core(config: EngineConfig) -> str:
    """The core file of the engine of `config`: targets `default`, for designs that depend on it, and `lint`.

    The lint waivers, which hold for the engine's own file, are in the target `lint`: a design decides for itself.
    """
    top = top_name(config)
    return f"""CAPI=2:
name: {VENDOR}:{LIBRARY}:{top}:{VERSION}
description: Sparse-gradient LSTM backward engine, config digest {config.digest}

filesets:
  rtl:
    files: [{top}.v]
    file_type: verilogSource-2005
  waivers:
    files: [{WAIVERS.name}]
    file_type: vlt

targets:
  default:
    filesets: [rtl]
    toplevel: {top}
  lint:
    description: Lint by Verilator
    filesets: [rtl, waivers]
    toplevel: {top}
    flow: lint
    flow_options:
      tool: verilator
      verilator_options: [-Wall]
"""
