"""From a configuration to a directory that a hardware engineer can use: Verilog, register map, summary."""

if __name__ != "gradsieve.rtl_gen":
    raise ImportError(f"{__name__} is gradsieve.rtl_gen: import it by that name", name=__name__)
