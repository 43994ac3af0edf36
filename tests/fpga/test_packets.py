"""Packets byte for byte, against docs/streams.md spelled out in plain loops: nothing here reads the declaration."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from gradsieve.fpga.errors import PacketError
from gradsieve.fpga.packet_codec import encode
from gradsieve.fpga.packets import PacketFormat
from gradsieve.golden.random_case import random_case
from gradsieve.hw.config import EngineConfig, preset
from gradsieve.hw.formats import FixedPoint, Formats
from gradsieve.hw.packets import GRADIENTS, INPUT, RESULT, PacketKind, Run

ODD = EngineConfig(name="odd", R=3, C=3, max_H=19, max_I=7, max_B=5, max_T=3, stream_width=512)
BYTES = EngineConfig(
    name="bytes",
    R=5,
    C=1,
    max_H=40,
    max_I=7,
    max_B=3,
    max_T=3,
    stream_width=32,
    formats=Formats(
        weight=FixedPoint(width=8, fraction=7),
        activation=FixedPoint(width=8, fraction=7),
        cell=FixedPoint(width=8, fraction=4),
        input=FixedPoint(width=8, fraction=6),
        gradient=FixedPoint(width=8, fraction=5),
        weight_grad_width=27,
    ),
)
CASES = [
    (preset("tiny"), (7, 5, 5, 4)),
    (preset("tiny"), (1, 1, 1, 1)),
    (preset("default"), (17, 18, 6, 3)),
    (ODD, (19, 7, 5, 3)),
    (ODD, (3, 4, 2, 2)),
    (BYTES, (17, 6, 3, 2)),
]
cases = pytest.mark.parametrize(("config", "sizes"), CASES, ids=lambda v: getattr(v, "name", str(v)))


class Plain:
    """The page's words as loops; each method gives a section or a packet as bytes."""

    def __init__(self, config: EngineConfig, sizes: tuple[int, int, int, int]) -> None:
        self.c, (self.H, self.I, self.B, self.T) = config, sizes
        self.XT, self.HT = -(-self.I // config.R), -(-self.H // config.R)
        self.BT = -(-self.B // config.C)
        widest = max(getattr(config.formats, n).width for n in ("weight", "activation", "cell", "input", "gradient"))
        self.E = next(size for size in (1, 2, 4) if 8 * size >= widest)

    def section(self, data: bytes) -> bytes:
        return data + bytes(-len(data) % (self.c.stream_width // 8))

    def header(self, kind: int) -> bytes:
        return self.section(bytes([kind]))

    def vector(self, values: list[int], size: int | None = None) -> bytes:
        slots = 1
        while slots < len(values):
            slots *= 2
        values = values + [0] * (slots - len(values))
        return b"".join(int(v).to_bytes(size or self.E, "little", signed=True) for v in values)

    def columns(self, row: list[int], tile: int, size: int | None = None) -> bytes:
        values = row[tile * self.c.R : (tile + 1) * self.c.R]
        return self.vector(values + [0] * (self.c.R - len(values)), size)

    def lanes(self, tensor: Tensor, tile: int, n: int) -> bytes:
        values = tensor[tile * self.c.C : (tile + 1) * self.c.C, n].tolist()
        return self.vector(values + [0] * (self.c.C - len(values)))

    def bits(self, bits: list[bool]) -> bytes:
        value = sum(int(bit) << n for n, bit in enumerate(bits))
        return value.to_bytes(-(-len(bits) // 64) * 8, "little")

    def matrix(self, matrix: Tensor, tiles: int, size: int | None = None) -> bytes:
        rows = matrix.tolist()
        return self.section(b"".join(self.columns(row, tile, size) for row in rows for tile in range(tiles)))

    def by_unit(self, bits: list[bool]) -> bytes:
        return self.bits([bits[gate * self.H + unit] for unit in range(self.H) for gate in range(4)])

    def steps(self) -> Iterator[tuple[int, int]]:
        return ((t, b) for t in range(self.T - 1, -1, -1) for b in range(self.BT))

    def state(self, dh: Tensor, dc: Tensor) -> bytes:
        return self.section(
            b"".join(self.lanes(x, b, u) for b in range(self.BT) for u in range(self.H) for x in (dh, dc))
        )


@cases
def test_what_goes_in(config: EngineConfig, sizes: tuple[int, int, int, int]) -> None:
    form, plain = PacketFormat(config, *sizes), Plain(config, sizes)
    w, tape, _, _ = random_case(config, 5, sizes=sizes, masks="none", extreme=True)
    generator = torch.Generator().manual_seed(6)
    tiles = plain.XT + plain.HT
    block = torch.rand(4 * plain.H, tiles, generator=generator) < 0.5
    column = torch.rand(plain.T, tiles, generator=generator) < 0.5
    weight_x, weight_h = form.weights(w)
    assert weight_x.tobytes() == plain.header(1) + plain.matrix(w.w_ih, plain.XT)
    assert weight_h.tobytes() == plain.header(2) + plain.matrix(w.w_hh, plain.HT)
    words = b"".join(plain.by_unit(block[:, tile].tolist()) for tile in range(tiles))
    assert form.block_mask(block).tobytes() == plain.header(3) + plain.section(words)
    words = b"".join(plain.bits(row) for row in column.tolist())
    assert form.column_mask(column).tobytes() == plain.header(4) + plain.section(words)
    assert form.seed(tape.dh, tape.dc).tobytes() == plain.header(5) + plain.state(tape.dh, tape.dc)
    expected = plain.header(6)
    for t, b in plain.steps():
        fields = (tape.i, tape.f, tape.g, tape.o, tape.tanh_c, tape.c_prev, tape.h_prev, tape.dy)
        expected += plain.section(b"".join(plain.lanes(f[t], b, u) for u in range(plain.H) for f in fields))
        expected += plain.section(b"".join(plain.lanes(tape.x[t], b, n) for n in range(plain.I)))
    assert form.tape(tape).tobytes() == expected
    sent = (weight_x, weight_h, form.block_mask(block), form.column_mask(column), form.seed(tape.dh, tape.dc))
    for kind, packet in zip(PacketKind, (*sent, form.tape(tape)), strict=True):
        assert INPUT[kind].beats(Run(config, *sizes)) * config.stream_width == 8 * len(packet)


@cases
@pytest.mark.parametrize("state_out", [True, False])
def test_a_result(config: EngineConfig, sizes: tuple[int, int, int, int], state_out: bool) -> None:
    form, plain, rng = PacketFormat(config, *sizes), Plain(config, sizes), random.Random(7)
    H, I, B, T = sizes
    top = (1 << 8 * plain.E - 1) - 1
    generator = torch.Generator().manual_seed(8)
    dx = torch.randint(-top, top, (T, B, I), generator=generator)
    dh, dc = (torch.randint(-top, top, (B, H), generator=generator) for _ in range(2))
    kept = torch.rand(T, plain.BT, 4 * H, generator=generator) < 0.5
    elements = torch.tensor([[[rng.randrange(1 << 31) for _ in range(4)] for _ in range(plain.BT)] for _ in range(T)])
    data = b""
    for t, b in plain.steps():
        rows = kept[t, b].tolist()
        words = plain.by_unit(rows)
        for gate in range(4):
            count = sum(rows[gate * H : (gate + 1) * H])
            words += count.to_bytes(4, "little") + int(elements[t, b, gate]).to_bytes(4, "little")
        data += plain.section(words) + plain.section(b"".join(plain.lanes(dx[t], b, n) for n in range(I)))
    if state_out:
        data += plain.state(dh, dc)
    packet = np.frombuffer(data, np.uint8)
    assert form.result_bytes(state_out) == len(packet)
    assert RESULT.beats(Run(config, *sizes, state_out=state_out)) * config.stream_width == 8 * len(packet)
    result = form.result(packet, state_out)
    assert torch.equal(result.dx, dx) and torch.equal(result.rows_kept, kept)
    assert torch.equal(result.elements_kept, elements)
    if state_out:
        assert result.dh0 is not None and torch.equal(result.dh0, dh)
        assert result.dc0 is not None and torch.equal(result.dc0, dc)
    else:
        assert result.dh0 is None and result.dc0 is None
    with pytest.raises(PacketError, match=f"a packet of {len(packet) - 1} bytes came where {len(packet)} were due"):
        form.result(packet[:-1], state_out)


@cases
@pytest.mark.parametrize("exact", [True, False])
def test_weight_gradients(config: EngineConfig, sizes: tuple[int, int, int, int], exact: bool) -> None:
    form, plain, generator = PacketFormat(config, *sizes), Plain(config, sizes), torch.Generator().manual_seed(9)
    H, I, _, _ = sizes
    size = 8 if exact else 4
    top = (1 << 8 * size - 2) - 1
    db, w_ih, w_hh = (torch.randint(-top, top, s, generator=generator) for s in ((4 * H,), (4 * H, I), (4 * H, H)))
    data = plain.section(b"".join(int(v).to_bytes(size, "little", signed=True) for v in db))
    data += plain.matrix(w_ih, plain.XT, size) + plain.matrix(w_hh, plain.HT, size)
    assert form.gradients_bytes(exact) == len(data)
    assert GRADIENTS.beats(Run(config, *sizes, exact=exact)) * config.stream_width == 8 * len(data)
    found = form.gradients(np.frombuffer(data, np.uint8), exact)
    assert all(torch.equal(a, b) for a, b in zip(found, (w_ih, w_hh, db), strict=True))


def test_an_array_of_another_shape_is_refused() -> None:
    run = Run(preset("tiny"), 3, 2, 2, 1)
    with pytest.raises(ValueError, match=r"block_mask must have shape \(3, 3, 4\), got \(3, 4, 3\)"):
        encode(INPUT[PacketKind.BLOCK_MASK], run, {"block_mask": np.zeros((3, 4, 3), bool)})
    with pytest.raises(ValueError, match=r"W_ih must have shape \(4, 3, 1, 2\), got \(4, 3, 1, 1\)"):
        encode(INPUT[PacketKind.WEIGHT_X], run, {"W_ih": np.zeros((4, 3, 1, 1), int)})
