"""Tests of hw/lib/."""
