"""Testbenches: cocotb under Verilator, one bench a block and one for the engine; golden is the oracle."""

if __name__ != "gradsieve.tb":
    raise ImportError(f"{__name__} is gradsieve.tb: import it by that name", name=__name__)
