"""Packets of docs/streams.md: from golden's tensors to bytes and back, vectorised."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradsieve.fpga.errors import PacketError
from gradsieve.fpga.packet_codec import Bytes, decode, encode
from gradsieve.golden.types import Tape, Weights
from gradsieve.hw.config import GATES, EngineConfig
from gradsieve.hw.packets import GRADIENTS, INPUT, RESULT, Packet, PacketKind, Run

__all__ = ["Bytes", "PacketFormat", "Result"]


@dataclass(frozen=True)
class Result:
    """The contents of a RESULT packet, as in `gradsieve.golden.types.Gradients`; the state is None if not asked for."""

    dx: Tensor
    rows_kept: Tensor
    elements_kept: Tensor
    dh0: Tensor | None
    dc0: Tensor | None


class PacketFormat:
    """Builds and reads the packets of one engine for runs of one size (H, I, B, T)."""

    def __init__(self, config: EngineConfig, H: int, I: int, B: int, T: int) -> None:
        config.check_run(H, I, B, T)
        self.config, self.H, self.I, self.B, self.T = config, H, I, B, T
        self.beat_bytes = config.stream_width // 8
        self.of_run = Run(config, H, I, B, T)

    # host to engine

    def weights(self, weights: Weights) -> list[Bytes]:
        """WEIGHT_X and WEIGHT_H."""
        return [
            encode(INPUT[PacketKind.WEIGHT_X], self.of_run, {"W_ih": self._columns(weights.w_ih, self.of_run.x_tiles)}),
            encode(INPUT[PacketKind.WEIGHT_H], self.of_run, {"W_hh": self._columns(weights.w_hh, self.of_run.h_tiles)}),
        ]

    def block_mask(self, block: Tensor) -> Bytes:
        """BLOCK_MASK from (4H, tiles) bool."""
        by_tile = block.numpy().reshape(len(GATES), self.H, -1).transpose(2, 1, 0)
        return encode(INPUT[PacketKind.BLOCK_MASK], self.of_run, {"block_mask": by_tile})

    def column_mask(self, column: Tensor) -> Bytes:
        """COLUMN_MASK from (T, tiles) bool, t ascending."""
        return encode(INPUT[PacketKind.COLUMN_MASK], self.of_run, {"column_mask": column.numpy()})

    def seed(self, dh: Tensor, dc: Tensor) -> Bytes:
        """SEED from (B, H) each."""
        state = {"dh": self._lanes(dh[None])[0], "dc": self._lanes(dc[None])[0]}
        return encode(INPUT[PacketKind.SEED], self.of_run, state)

    def tape(self, tape: Tape) -> Bytes:
        """TAPE: all steps and batch tiles of the run, t descending."""
        packet = INPUT[PacketKind.TAPE]
        names = [vector.name for section in packet.sections for vector in section.vectors]
        return encode(packet, self.of_run, {name: self._lanes(getattr(tape, name)) for name in names})

    # engine to host

    def result_bytes(self, state_out: bool = True) -> int:
        """Length of a RESULT packet."""
        return self._bytes(RESULT, replace(self.of_run, state_out=state_out))

    def result(self, packet: Bytes, state_out: bool = True) -> Result:
        """Read a RESULT packet.  Raises PacketError if its length is wrong, or if it contradicts itself."""
        found = decode(RESULT, replace(self.of_run, state_out=state_out), packet)
        rows = found["row_kept"].swapaxes(2, 3)  # T, batch_tiles, gate, unit
        if not np.array_equal(found["rows_kept"][..., 0], rows.sum(axis=3)):
            raise PacketError("the result's row counts do not fit its row bitmaps")
        dh0, dc0 = (self._from_lanes(found[n][None])[0] if state_out else None for n in ("dh0", "dc0"))
        return Result(
            dx=self._from_lanes(found["dx"]),
            rows_kept=torch.from_numpy(rows.reshape(*rows.shape[:2], -1)),
            elements_kept=torch.from_numpy(found["elements_kept"][..., 0].astype(np.int64)),
            dh0=dh0,
            dc0=dc0,
        )

    def gradients_bytes(self, exact: bool = True) -> int:
        """Length of the packet of a read command."""
        return self._bytes(GRADIENTS, replace(self.of_run, exact=exact))

    def gradients(self, packet: Bytes, exact: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """dW_ih (4H, I), dW_hh (4H, H) and db (4H) from the packet of a read command, int64.

        Raises PacketError if its length is wrong.
        """
        found = decode(GRADIENTS, replace(self.of_run, exact=exact), packet)
        rows = len(GATES) * self.H
        w_ih, w_hh = (found[name].reshape(rows, -1)[:, :size] for name, size in (("dW_ih", self.I), ("dW_hh", self.H)))
        values = (w_ih, w_hh, found["db"].reshape(rows))
        return tuple(torch.from_numpy(v.astype(np.int64)) for v in values)  # type: ignore[return-value]

    # arrays

    def _bytes(self, packet: Packet, run: Run) -> int:
        return packet.beats(run) * self.beat_bytes

    def _columns(self, matrix: Tensor, tiles: int) -> NDArray[Any]:
        """(4H, N) to column vectors (gate, unit, tile, R)."""
        padded = np.pad(matrix.numpy(), ((0, 0), (0, tiles * self.config.R - matrix.shape[1])))
        return padded.reshape(len(GATES), self.H, tiles, self.config.R)

    def _lanes(self, tensor: Tensor) -> NDArray[Any]:
        """(T, B, N) to lane vectors (T, batch_tiles, N, C)."""
        c, tiles = self.config, self.of_run.batch_tiles
        steps, batch, size = tensor.shape
        padded = np.pad(tensor.numpy(), ((0, 0), (0, tiles * c.C - batch), (0, 0)))
        return padded.reshape(steps, tiles, c.C, size).swapaxes(2, 3)

    def _from_lanes(self, vectors: NDArray[Any]) -> Tensor:
        """Lane vectors (T, batch_tiles, N, C) to (T, B, N), int64."""
        steps, tiles, size, lanes = vectors.shape
        merged = vectors.swapaxes(2, 3).reshape(steps, tiles * lanes, size)[:, : self.B]
        return torch.from_numpy(merged.astype(np.int64))
