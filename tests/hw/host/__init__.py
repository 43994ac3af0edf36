"""Tests of hw/host/."""
