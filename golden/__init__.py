"""The arithmetic contract in PyTorch, bit-exact, and the float reference: the oracle of every testbench."""
