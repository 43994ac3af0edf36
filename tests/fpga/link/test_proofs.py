"""Proofs of the link's stream blocks: what waits stays, and behind a reset nothing is offered."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from gradsieve.fpga.link import beats, byte_queue
from tests.hw.proof import Fault, Proof, Subject, faults

WIDTH = 16


def streams(module: ModuleType, block: str, size: int) -> Proof:
    """The rules of all streams of a block."""
    p = Proof(getattr(module, block)(size))
    p.streams()
    return p


SUBJECTS = {
    "byte queue": Subject(
        lambda module: streams(module, "ByteQueue", 4),
        byte_queue,
        [("with m.Elif(self.read.ready):", "with m.Else():", "read stays")],
    ),
    "beat assembler": Subject(
        lambda module: streams(module, "BeatAssembler", WIDTH),
        beats,
        [("(ended & ~self.beats.valid)", "ended", "beats stays")],
    ),
    "beat splitter": Subject(
        lambda module: streams(module, "BeatSplitter", WIDTH),
        beats,
        [("m.If(self.words.ready | ~keep[0])", "m.If(1)", "words stays")],
    ),
}


@pytest.mark.parametrize("name", SUBJECTS)
def test_is_proven(name: str, tmp_path: Path) -> None:
    SUBJECTS[name].assert_proven(tmp_path)


@pytest.mark.parametrize(("name", "fault"), faults(SUBJECTS))
def test_fault_is_found(name: str, fault: Fault, tmp_path: Path) -> None:
    SUBJECTS[name].assert_refuted(tmp_path, fault)


@pytest.mark.parametrize("name", SUBJECTS)
def test_streams_need_their_reset(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SUBJECTS[name].assert_needs_reset(tmp_path, monkeypatch)
