"""The arithmetic contract in PyTorch, bit-exact, and the float reference: the oracle of every testbench."""

if __name__ != "gradsieve.golden":
    raise ImportError(f"{__name__} is gradsieve.golden: import it by that name", name=__name__)
