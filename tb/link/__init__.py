"""Benches of the blocks in fpga/link/."""
