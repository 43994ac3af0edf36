"""Reasons for lines that never run: which gaps they are of; in the heavy suite, that every gap of `tiny` has one."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradsieve.cli.verify_coverage import LEAST_LINES, percent, total
from gradsieve.hw.config import preset
from gradsieve.tb.blocks import BLOCKS
from gradsieve.tb.coverage_reasons import RAN_ALONE, Reason, explain, known_reasons
from gradsieve.tb.line_coverage import Coverage, Gap, Module, merge
from gradsieve.tb.runner import run_bench


def coverage(block: str, *gaps: str) -> Coverage:
    """A block with a module of lines that never ran."""
    lines = {(text, 0): False for text in gaps}
    body = [part for text in gaps for part in (f"  {text}", "  other")]
    return Coverage(block, [Module("dut", lines, {}, {line: 2 * n for n, line in enumerate(lines)}, body)])


def test_a_reason_is_of_the_gaps_of_its_block_that_have_its_part() -> None:
    one, other = coverage("drain", "a = b;", "c = d;"), coverage("sieve", "a = b;")
    used, idle = Reason("drain", "a =", "it is so"), Reason("sieve", "c =", "it was so")
    found = explain([one, other], [idle, used])
    assert found.gaps == [
        (Gap("drain", "dut", "a = b;"), "it is so"),
        (Gap("drain", "dut", "c = d;"), None),
        (Gap("sieve", "dut", "a = b;"), None),
    ]
    assert found.idle == [idle]


def test_lines_that_ran_in_the_block_s_own_bench_have_that_reason() -> None:
    ran = coverage("drain", "a = b;")
    ran.modules[0].lines = dict.fromkeys(ran.modules[0].lines, True)
    inside, others = coverage("engine.core.drain", "a = b;", "c = d;"), coverage("engine.core.sieve", "a = b;")
    assert [why for _, why in explain([ran, inside, others], []).gaps] == [RAN_ALONE, None, None]


@pytest.mark.parametrize("text", ["reason = 1", "", "[[reason]]\nblocks = ['drain']", "[["])
def test_a_file_that_has_no_reasons_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "reasons.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"reasons\.toml must have tables \[\[reason\]\] of blocks, parts and why"):
        known_reasons(file)


def test_every_reason_is_of_a_block_that_there_is() -> None:
    assert {r.block.split(".")[0] for r in known_reasons()} <= set(BLOCKS)


@pytest.mark.heavy
def test_lines_of_the_smallest_engine_run_or_have_a_reason(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in BLOCKS}
    for name, folder in folders.items():
        folder.mkdir()
        assert run_bench(name, preset("tiny"), counts=folder).passed
    report = merge(folders)
    assert percent(total([c.lines for c in report])) >= LEAST_LINES
    explained = explain(report, known_reasons())
    assert [gap for gap, why in explained.gaps if why is None] == []
    assert explained.idle == []
