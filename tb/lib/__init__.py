"""Benches of the blocks in hw/lib/."""
