"""Frames of the serial link: what is written is read back, and nothing that was changed is taken for a frame."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradsieve.fpga.link.protocol import (
    DRAINED,
    ESCAPE,
    FIFO_BYTES,
    FLAG,
    HELLO_ANSWER,
    PAYLOAD_MAX,
    VERSION,
    WINDOW,
    WRITE,
    FrameReader,
    Kind,
    frame,
    parse_response,
    request,
)
from gradsieve.hw.host.registers import BY_NAME, IDENTITY

BODIES = st.lists(st.binary(min_size=1, max_size=60) | st.lists(st.sampled_from([FLAG, ESCAPE, 0x5E])).map(bytes))


@given(BODIES, st.integers(1, 40))
def test_frames_come_back_however_they_are_cut(bodies: list[bytes], size: int) -> None:
    bodies = [b for b in bodies if b]
    line = b"".join(frame(b) for b in bodies)
    reader = FrameReader()
    read = [b for n in range(0, len(line), size) for b in reader.feed(line[n : n + size])]
    assert read == bodies
    assert reader.bad == 0


@given(st.binary(min_size=1, max_size=60), st.data())
def test_a_changed_byte_never_gives_a_frame(body: bytes, data: st.DataObject) -> None:
    line = bytearray(frame(body))
    at = data.draw(st.integers(1, len(line) - 2))
    line[at] ^= data.draw(st.integers(1, 255))
    reader = FrameReader()
    assert reader.feed(bytes(line)) == []
    assert reader.bad >= 1


def test_noise_without_flags_is_not_kept() -> None:
    reader = FrameReader()
    for _ in range(100):
        assert reader.feed(bytes(1000)) == []
    assert len(reader._rest) <= 2000
    assert reader.feed(b"\x7e" + frame(b"after it")) == [b"after it"]
    assert reader.bad == 1


def test_the_examples_of_the_documentation() -> None:
    session, nonce = 0x2A, 0x102A
    hello = HELLO_ANSWER.pack(VERSION, WINDOW, PAYLOAD_MAX, FIFO_BYTES, FIFO_BYTES, 8, nonce)
    write_h = bytes((BY_NAME["H"].offset | WRITE,)) + (0x7E).to_bytes(4, "little")
    answers = bytes(2) + IDENTITY.to_bytes(4, "little")
    lines = (
        request(session, 255, Kind.HELLO, nonce.to_bytes(4, "little")),
        frame(struct.pack("<BBBBHH", session, 255, DRAINED, 0, FIFO_BYTES, 0) + hello),
        request(session, 0, Kind.REGISTERS, write_h + bytes((BY_NAME["ID"].offset,))),
        frame(struct.pack("<BBBBHH", session, 0, DRAINED, 0, FIFO_BYTES, 0) + answers),
    )
    text = (Path(__file__).parents[2] / "docs" / "link.md").read_text(encoding="utf-8")
    for line in lines:
        assert f" {line.hex(' ')}\n" in text


def test_a_short_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="7 bytes are no answer"):
        parse_response(bytes(7))
