"""FPGA boards: one file a board, the clock generators of their families, and the top that they all share."""
