"""The boards that there are, by name."""

from __future__ import annotations

from gradsieve.fpga.boards.arty_a7 import ARTY_A7
from gradsieve.fpga.boards.board import Board, BoardError
from gradsieve.fpga.boards.ecpix5 import ECPIX5
from gradsieve.fpga.boards.orangecrab import ORANGECRAB
from gradsieve.fpga.boards.tang_primer_20k import TANG_PRIMER_20K
from gradsieve.fpga.boards.ulx3s import ULX3S

BOARDS: dict[str, Board] = {b.name: b for b in (ULX3S, ECPIX5, ORANGECRAB, TANG_PRIMER_20K, ARTY_A7)}


def board(name: str) -> Board:
    """The board of that name.  Raises BoardError, which lists them, if there is none."""
    if name not in BOARDS:
        raise BoardError(f"board must be one of {', '.join(BOARDS)}; got {name!r}")
    return BOARDS[name]
