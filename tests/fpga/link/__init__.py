"""Tests of the serial link, against its RTL."""
