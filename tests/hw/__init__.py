"""Tests of the configuration and the register map."""
