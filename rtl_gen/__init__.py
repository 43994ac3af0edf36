"""From a configuration to a directory that a hardware engineer can use: Verilog, register map, summary."""
