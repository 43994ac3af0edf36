"""The register map: no two registers, and no two fields, share a place."""

from __future__ import annotations

from gradsieve.hw.host.registers import ADDRESS_WIDTH, REGISTERS


def test_registers_do_not_overlap() -> None:
    offsets = [r.offset for r in REGISTERS]
    assert len(set(offsets)) == len(offsets) == len({r.name for r in REGISTERS})
    assert all(o % 4 == 0 and 0 <= o < 1 << ADDRESS_WIDTH for o in offsets)


def test_fields_do_not_overlap() -> None:
    for register in REGISTERS:
        bits = [bit for f in register.fields for bit in range(f.lsb, f.lsb + f.width)]
        assert len(set(bits)) == len(bits), register.name
        assert all(bit < 32 for bit in bits), register.name
