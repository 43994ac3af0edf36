"""Devices: one host driver over interchangeable transports."""

if __name__ != "gradsieve.fpga":
    raise ImportError(f"{__name__} is gradsieve.fpga: import it by that name", name=__name__)
