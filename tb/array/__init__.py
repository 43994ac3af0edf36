"""Benches of the blocks in hw/array/."""
