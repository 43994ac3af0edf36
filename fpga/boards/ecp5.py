"""What the boards with a Lattice ECP5-85 share."""

from __future__ import annotations

from gradsieve.fpga.boards.board import Capacity

ECP5_85 = Capacity(
    luts=83_640,
    flip_flops=83_640,
    multipliers=156,
    memory_blocks=208,
    memory_block_bits=18_432,
    source="Lattice FPGA-DS-02012, table 1.1; nextpnr-ecp5 counts the same",
)
"""LFE5U-85F, LFE5UM-85F and LFE5UM5G-85F."""
