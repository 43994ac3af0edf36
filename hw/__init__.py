"""The engine in Amaranth: one hardware module a file, named after its block."""
