"""Benches of the blocks in hw/gates/."""
