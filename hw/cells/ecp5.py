"""Lattice ECP5: MULT18X18D with its registers, DP16KD with its output register, CCU2C as addend mux and adder.

Yosys infers neither register for this family.  Sources: Lattice TN1264 (memory), TN1267 (sysDSP), and the models of
LUT4 and CCU2C that come with Yosys.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Signal, Value

from gradsieve.hw.cells.library import Cells

if TYPE_CHECKING:
    from gradsieve.hw.lib.block_memory import BlockMemory
    from gradsieve.hw.lib.multiplier import Multiplier
    from gradsieve.hw.lib.mux_adder import MuxAdder

MULTIPLIER_WIDTH = 18
MEMORY_ADDRESS_BITS = 14
MEMORY_WIDTHS = {1: 0, 2: 1, 4: 2, 9: 3, 18: 4}
"""Data bits of a DP16KD port, and the low address bits that such a word leaves unused."""
LEAST_MEMORY_BITS = 2048
"""Smaller memories stay in lookup tables: an eighth of a block."""


def _pins(direction: str, prefix: str, value: Value, width: int) -> dict[str, Any]:
    """Ports `<prefix>0` to `<prefix>(width - 1)` of an instance."""
    return {f"{direction}_{prefix}{n}": value[n] for n in range(width)}


def _mux_add_table() -> int:
    """INIT of a LUT4 that computes A ^ (D if B else C): the propagate of product + addend; its generate is A."""
    return sum((a ^ (d if b else c)) << (a | b << 1 | c << 2 | d << 3) for a in (0, 1) for b in (0, 1) for c in (0, 1)
               for d in (0, 1))  # fmt: skip


class Ecp5Cells(Cells):
    """Cells of the ECP5 family."""

    name = "ecp5"
    models: Path = Path(__file__).with_name("ecp5_models.v")

    def multiplier(self, block: Multiplier) -> Module | None:
        """One MULT18X18D, clocked input and output registers; None for operands of more than 18 bits."""
        if max(block.a_width, block.b_width) > MULTIPLIER_WIDTH:
            return None
        m = Module()
        a = Signal(MULTIPLIER_WIDTH)
        b = Signal(MULTIPLIER_WIDTH)
        p = Signal(2 * MULTIPLIER_WIDTH)
        m.d.comb += [a.eq(block.a), b.eq(block.b), block.p.eq(p)]
        registers = {f"p_REG_{r}_CLK": "CLK0" for r in ("INPUTA", "INPUTB", "OUTPUT")}
        m.submodules.cell = Instance(
            "MULT18X18D",
            **registers,
            i_CLK0=ClockSignal(),
            i_CE0=1,
            i_RST0=0,
            i_SIGNEDA=1,
            i_SIGNEDB=1,
            i_SOURCEA=0,
            i_SOURCEB=0,
            **_pins("i", "A", a, MULTIPLIER_WIDTH),
            **_pins("i", "B", b, MULTIPLIER_WIDTH),
            **_pins("i", "C", Const(0, MULTIPLIER_WIDTH), MULTIPLIER_WIDTH),
            **_pins("o", "P", p, 2 * MULTIPLIER_WIDTH),
        )
        return m

    def memory(self, block: BlockMemory) -> Module | None:
        """DP16KDs side by side, port A writing, port B reading; None if lookup tables do, or one block is too short."""
        widths = [w for w, unused in MEMORY_WIDTHS.items() if block.depth <= 1 << (MEMORY_ADDRESS_BITS - unused)]
        if not widths or block.width * block.depth < LEAST_MEMORY_BITS:
            return None
        m = Module()
        width = max(widths)
        unused = MEMORY_WIDTHS[width]
        blocks = -(-block.width // width)
        written = Signal(blocks * width)
        read = Signal(blocks * width)
        m.d.comb += [written.eq(block.write_data), block.read_data.eq(read)]
        # the two lowest address bits of an 18-bit port are its byte enables
        low = Const((1 << unused) - 1 if width == 18 else 0, unused)
        address_a = Signal(MEMORY_ADDRESS_BITS)
        address_b = Signal(MEMORY_ADDRESS_BITS)
        m.d.comb += [address_a.eq(Cat(low, block.write_address)), address_b.eq(Cat(low, block.read_address))]
        for n in range(blocks):
            outputs = Signal(18, name=f"outputs_{n}")
            m.d.comb += read[n * width : (n + 1) * width].eq(outputs[:width])
            m.submodules[f"cell_{n}"] = Instance(
                "DP16KD",
                p_DATA_WIDTH_A=width,
                p_DATA_WIDTH_B=width,
                p_REGMODE_A="NOREG",
                p_REGMODE_B="OUTREG",
                p_RESETMODE="SYNC",
                p_WRITEMODE_A="NORMAL",
                p_WRITEMODE_B="NORMAL",
                p_GSR="DISABLED",
                i_CLKA=ClockSignal(),
                i_CEA=1,
                i_OCEA=1,
                i_WEA=block.write_enable,
                i_RSTA=0,
                **_pins("i", "CSA", Const(0, 3), 3),
                **_pins("i", "ADA", address_a, MEMORY_ADDRESS_BITS),
                **_pins("i", "DIA", Cat(written[n * width : (n + 1) * width], Const(0, 18 - width)), 18),
                i_CLKB=ClockSignal(),
                i_CEB=block.read_enable,
                i_OCEB=block.output_enable,
                i_WEB=0,
                i_RSTB=0,
                **_pins("i", "CSB", Const(0, 3), 3),
                **_pins("i", "ADB", address_b, MEMORY_ADDRESS_BITS),
                **_pins("i", "DIB", Const(0, 18), 18),
                **_pins("o", "DOB", outputs, 18),
            )
        return m

    def mux_adder(self, block: MuxAdder) -> Module:
        """A chain of CCU2C, two bits each: one carry cell computes A ^ (D if B else C) and adds."""
        m = Module()
        width = block.width + block.width % 2
        product, a, b, total = (Signal(width, name=n) for n in ("product", "a", "b", "total"))
        m.d.comb += [product.eq(block.product), a.eq(block.a), b.eq(block.b), block.total.eq(total)]
        carry: Value = Const(0, 1)
        table = Const(_mux_add_table(), 16)
        for n in range(0, width, 2):
            carry_out = Signal(name=f"carry_{n}")
            m.submodules[f"cell_{n}"] = Instance(
                "CCU2C",
                p_INIT0=table,
                p_INIT1=table,
                p_INJECT1_0="NO",
                p_INJECT1_1="NO",
                i_CIN=carry,
                i_A0=product[n],
                i_B0=block.select_b,
                i_C0=a[n],
                i_D0=b[n],
                i_A1=product[n + 1],
                i_B1=block.select_b,
                i_C1=a[n + 1],
                i_D1=b[n + 1],
                o_S0=total[n],
                o_S1=total[n + 1],
                o_COUT=carry_out,
            )
            carry = carry_out
        return m


ECP5 = Ecp5Cells()
"""The cells of ECP5 boards."""
