"""Testbenches: cocotb under Verilator, one bench a block and one for the engine; golden is the oracle."""
