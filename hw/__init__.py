"""The engine in Amaranth: one hardware module a file, named after its block."""

if __name__ != "gradsieve.hw":
    raise ImportError(f"{__name__} is gradsieve.hw: import it by that name", name=__name__)
