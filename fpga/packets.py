"""Packets of docs/streams.md: from golden's tensors to bytes and back, vectorised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradsieve.fpga.errors import PacketError
from gradsieve.golden.types import Tape, Weights
from gradsieve.hw.config import BITMAP_WORD, GATES, EngineConfig
from gradsieve.hw.packets import STATISTICS_WORDS, PacketKind

GATES_PER_UNIT = len(GATES)

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Result:
    """The contents of a RESULT packet, as in `gradsieve.golden.types.Gradients`; the state is None if not asked for."""

    dx: Tensor
    rows_kept: Tensor
    elements_kept: Tensor
    dh0: Tensor | None
    dc0: Tensor | None


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


class PacketFormat:
    """Builds and reads the packets of one engine for runs of one size (H, I, B, T)."""

    def __init__(self, config: EngineConfig, H: int, I: int, B: int, T: int) -> None:
        config.check_run(H, I, B, T)
        self.config, self.H, self.I, self.B, self.T = config, H, I, B, T
        self.beat_bytes = config.stream_width // 8
        self.element = np.dtype(f"<i{config.formats.element_bits // 8}")
        self.x_tiles, self.h_tiles = _ceil_div(I, config.R), _ceil_div(H, config.R)
        self.batch_tiles = _ceil_div(B, config.C)
        self.bitmap_words = _ceil_div(GATES_PER_UNIT * H, BITMAP_WORD)

    # host to engine

    def weights(self, weights: Weights) -> list[Bytes]:
        """WEIGHT_X and WEIGHT_H."""
        parts = (("WEIGHT_X", weights.w_ih, self.x_tiles), ("WEIGHT_H", weights.w_hh, self.h_tiles))
        return [self._packet(kind, self._columns(w, tiles)) for kind, w, tiles in parts]

    def block_mask(self, block: Tensor) -> Bytes:
        """BLOCK_MASK from (4H, tiles) bool."""
        by_row = block.numpy().reshape(GATES_PER_UNIT, self.H, -1).transpose(2, 1, 0).reshape(block.shape[1], -1)
        return self._packet("BLOCK_MASK", _bitmap_words(by_row))

    def column_mask(self, column: Tensor) -> Bytes:
        """COLUMN_MASK from (T, tiles) bool, t ascending."""
        return self._packet("COLUMN_MASK", _bitmap_words(column.numpy()))

    def seed(self, dh: Tensor, dc: Tensor) -> Bytes:
        """SEED from (B, H) each."""
        both = np.stack([self._lanes(dh[None])[0], self._lanes(dc[None])[0]], axis=2)  # bt, H, 2, lanes
        return self._packet("SEED", both)

    def tape(self, tape: Tape) -> Bytes:
        """TAPE: all steps and batch tiles of the run, t descending."""
        fields = (tape.i, tape.f, tape.g, tape.o, tape.tanh_c, tape.c_prev, tape.h_prev, tape.dy)
        records = np.stack([self._lanes(f) for f in fields], axis=3)  # T, bt, H, 8, lanes
        gates = self._sections(records, self.T * self.batch_tiles)
        x = self._sections(self._lanes(tape.x), self.T * self.batch_tiles)
        steps = np.concatenate([gates, x], axis=1).reshape(self.T, self.batch_tiles, -1)[::-1]
        return self._packet("TAPE", np.ascontiguousarray(steps))

    # engine to host

    def result_bytes(self, state_out: bool = True) -> int:
        """Length of a RESULT packet."""
        statistics, dx, state = self._result_sections()
        return self.T * self.batch_tiles * (statistics + dx) + (state if state_out else 0)

    def result(self, packet: Bytes, state_out: bool = True) -> Result:
        """Read a RESULT packet.  Raises PacketError if its length is wrong."""
        self._check(packet, self.result_bytes(state_out))
        statistics, dx, state = self._result_sections()
        body = packet[: len(packet) - state] if state_out else packet
        steps = body.reshape(self.T, self.batch_tiles, statistics + dx)[::-1]
        words = np.ascontiguousarray(steps[..., : 8 * (self.bitmap_words + STATISTICS_WORDS)])
        bitmap = np.unpackbits(words[..., : 8 * self.bitmap_words], axis=-1, bitorder="little")[
            ..., : GATES_PER_UNIT * self.H
        ]
        rows = bitmap.reshape(self.T, self.batch_tiles, self.H, GATES_PER_UNIT).swapaxes(2, 3)
        counts = np.ascontiguousarray(words[..., 8 * self.bitmap_words :]).view("<u4")
        rows_by_gate = rows.sum(axis=3)
        if not np.array_equal(counts[..., 0::2], rows_by_gate):
            raise PacketError("the result's row counts do not fit its row bitmaps")
        dh0 = dc0 = None
        if state_out:
            both = self._from_lanes(packet[len(packet) - state :], (1, self.batch_tiles, self.H, 2))
            dh0, dc0 = both[0, :, :, 0], both[0, :, :, 1]
        return Result(
            dx=self._from_lanes(steps[..., statistics:], (self.T, self.batch_tiles, self.I)),
            rows_kept=torch.from_numpy(rows.reshape(self.T, self.batch_tiles, GATES_PER_UNIT * self.H).astype(bool)),
            elements_kept=torch.from_numpy(counts[..., 1::2].astype(np.int64)),
            dh0=dh0,
            dc0=dc0,
        )

    def gradients_bytes(self, exact: bool = True) -> int:
        """Length of the packet of a read command."""
        return sum(self._gradient_sections(exact))

    def gradients(self, packet: Bytes, exact: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """dW_ih (4H, I), dW_hh (4H, H) and db (4H) from the packet of a read command, int64.

        Raises PacketError if its length is wrong.
        """
        self._check(packet, self.gradients_bytes(exact))
        bias_length, input_length, _ = self._gradient_sections(exact)
        dtype = np.dtype("<i8" if exact else "<i4")
        rows = GATES_PER_UNIT * self.H
        bias = packet[: rows * dtype.itemsize].view(dtype)
        matrices = []
        start = bias_length
        for tiles, size in ((self.x_tiles, self.I), (self.h_tiles, self.H)):
            count = rows * tiles * self.config.column_slots
            columns = packet[start : start + count * dtype.itemsize].view(dtype)
            columns = columns.reshape(rows, tiles, self.config.column_slots)[..., : self.config.R]
            matrices.append(torch.from_numpy(columns.reshape(rows, -1)[:, :size].astype(np.int64)))
            start += input_length
        return matrices[0], matrices[1], torch.from_numpy(bias.astype(np.int64))

    # sections

    def _beats(self, size: int) -> int:
        return _ceil_div(size, self.beat_bytes) * self.beat_bytes

    def _result_sections(self) -> tuple[int, int, int]:
        lane_bytes = self.config.lane_slots * self.element.itemsize
        return (
            self._beats(8 * (self.bitmap_words + STATISTICS_WORDS)),
            self._beats(self.I * lane_bytes),
            self._beats(self.batch_tiles * self.H * 2 * lane_bytes),
        )

    def _gradient_sections(self, exact: bool) -> tuple[int, int, int]:
        size, rows = 8 if exact else 4, GATES_PER_UNIT * self.H
        slots = self.config.column_slots
        return (
            self._beats(rows * size),
            self._beats(rows * self.x_tiles * slots * size),
            self._beats(rows * self.h_tiles * slots * size),
        )

    def _sections(self, array: NDArray[np.generic], count: int) -> Bytes:
        """`count` sections, each filled up to whole beats: (count, bytes)."""
        data = np.ascontiguousarray(array).reshape(count, -1).view(np.uint8)
        return np.pad(data, ((0, 0), (0, self._beats(data.shape[1]) - data.shape[1])))

    def _packet(self, kind: str, contents: NDArray[np.generic]) -> Bytes:
        header = np.zeros(self.beat_bytes, np.uint8)
        header[0] = PacketKind[kind]
        return np.concatenate([header, self._sections(contents, 1)[0]])

    def _columns(self, matrix: Tensor, tiles: int) -> NDArray[np.generic]:
        c = self.config
        padded = np.pad(matrix.numpy(), ((0, 0), (0, tiles * c.R - matrix.shape[1])))
        vectors = padded.reshape(-1, tiles, c.R)
        return np.pad(vectors, ((0, 0), (0, 0), (0, c.column_slots - c.R))).astype(self.element)

    def _lanes(self, tensor: Tensor) -> NDArray[np.generic]:
        """(T, B, N) to lane vectors (T, batch_tiles, N, lane_slots)."""
        c = self.config
        steps, batch, size = tensor.shape
        padded = np.pad(tensor.numpy(), ((0, 0), (0, self.batch_tiles * c.C - batch), (0, 0)))
        vectors = padded.reshape(steps, self.batch_tiles, c.C, size).swapaxes(2, 3)
        return np.pad(vectors, ((0, 0), (0, 0), (0, 0), (0, c.lane_slots - c.C))).astype(self.element)

    def _from_lanes(self, data: Bytes, shape: tuple[int, ...]) -> Tensor:
        """Lane vectors (T, batch_tiles, N, ...) back to (T, B, N, ...), int64."""
        steps, tiles, size, *rest = shape
        length = int(np.prod(shape[2:])) * self.config.lane_slots
        if rest:  # the state section pads once, behind all batch tiles
            flat = data[: tiles * length * self.element.itemsize]
        else:
            flat = np.ascontiguousarray(data[..., : length * self.element.itemsize])
        values = np.ascontiguousarray(flat).view(self.element).reshape(*shape, self.config.lane_slots)
        values = np.moveaxis(values[..., : self.config.C], -1, 2)  # T, bt, C, N, ...
        merged = values.reshape(steps, tiles * self.config.C, size, *rest)[:, : self.B]
        return torch.from_numpy(merged.astype(np.int64))

    def _check(self, packet: Bytes, length: int) -> None:
        if len(packet) != length:
            raise PacketError(f"a packet of {len(packet)} bytes came where {length} were due")


def _bitmap_words(bits: NDArray[np.bool_]) -> Bytes:
    """Rows of bits to rows of 64-bit words, bit 0 first."""
    packed = np.packbits(bits, axis=-1, bitorder="little")
    return np.pad(packed, ((0, 0), (0, -packed.shape[1] % (BITMAP_WORD // 8))))
