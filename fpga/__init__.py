"""Devices: one host driver over interchangeable transports."""
