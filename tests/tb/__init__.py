"""Tests of the testbenches, and the testbenches themselves."""
