"""Benches of the blocks in hw/host/."""
