"""The generated directory: complete, reproducible, never half-written, never at the cost of other files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from gradsieve.hw.config import load, preset
from gradsieve.rtl_gen import generate as module
from gradsieve.rtl_gen.generate import MANIFEST, GenerateError, file_names, generate
from gradsieve.rtl_gen.lint import LintError, lint
from tests.rtl_gen.stand_in import DEPTH

pytestmark = pytest.mark.usefixtures("small_engine")
TINY, EDGE = preset("tiny"), preset("edge")


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in directory.iterdir()}


def test_directory_has_the_files_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    stages: list[str] = []
    result = generate(TINY, tmp_path / "a" / "b", stages.append)
    generate(TINY, tmp_path / "other")
    assert bytes_of(tmp_path / "a" / "b") == bytes_of(tmp_path / "other")
    assert set(bytes_of(tmp_path / "other")) == {*file_names(TINY), MANIFEST} == set(result.files)
    assert stages == ["Verilog", "summary", "register map", "files"]
    assert load(tmp_path / "other" / "config.toml") == TINY
    for line in (tmp_path / "other" / MANIFEST).read_text().splitlines():
        sha, name = line.split("  ")
        assert hashlib.sha256((tmp_path / "other" / name).read_bytes()).hexdigest() == sha
    readme = (tmp_path / "other" / "README.md").read_text()
    assert all(f"`{name}`" in readme for name in result.files if name != "README.md")
    lint(result.verilog, waivers=tmp_path / "other" / "verilator.vlt")


def test_summary_counts_what_the_verilog_has(tmp_path: Path) -> None:
    result = generate(TINY, tmp_path / "d")
    data = json.loads((tmp_path / "d" / "summary.json").read_text())
    assert data["memories"] == [{"path": "store", "words": DEPTH, "bits": 8 * TINY.C}]
    assert data["memory_bits"] == DEPTH * 8 * TINY.C
    assert data["multipliers"] == TINY.multipliers
    assert data["peak_macs"] == TINY.peak_macs
    assert {p["name"]: (p["direction"], p["width"]) for p in data["ports"]} == {
        "clk": ("input", 1),
        "rst": ("input", 1),
        "i__payload": ("input", 8),
        "i__valid": ("input", 1),
        "i__ready": ("output", 1),
        "o__payload": ("output", 24),
        "o__valid": ("output", 1),
        "o__ready": ("input", 1),
    }
    assert data["verilog_sha256"] == hashlib.sha256(result.verilog.read_bytes()).hexdigest()


def test_other_engine_in_the_same_directory_leaves_no_stale_file(tmp_path: Path) -> None:
    generate(TINY, tmp_path)
    (tmp_path / "mine.v").write_text("mine")
    generate(EDGE, tmp_path)
    assert set(bytes_of(tmp_path)) == {*file_names(EDGE), MANIFEST, "mine.v"}
    assert (tmp_path / "mine.v").read_text() == "mine"


def test_file_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(GenerateError, match=r"did not write \(README\.md\)"):
        generate(TINY, tmp_path)
    assert bytes_of(tmp_path) == {"README.md": b"mine"}


def test_manifest_cannot_name_files_outside(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / MANIFEST).write_text(f"{'0' * 64}  ../victim\n")
    generate(TINY, tmp_path / "d")
    assert (tmp_path / "victim").read_text() == "mine"


def test_failure_to_generate_leaves_the_old_files_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate(TINY, tmp_path / "old")
    before = bytes_of(tmp_path / "old")

    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(module, "register_files", fail)
        for name in ("old", "new"):
            with pytest.raises(RuntimeError, match="broken"):
                generate(EDGE, tmp_path / name)
    assert bytes_of(tmp_path / "old") == before
    assert not (tmp_path / "new").exists()


def test_failure_to_write_leaves_the_old_files_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate(TINY, tmp_path / "old")
    before = bytes_of(tmp_path / "old")

    def full(path: Path, text: str) -> None:
        if path.name == "summary.json":
            raise OSError(28, "No space left on device", str(path))
        path.write_text(text)

    monkeypatch.setattr(module, "write_text", full)
    for name in ("old", "deep/new"):
        with pytest.raises(GenerateError, match=r"cannot be written \(No space left on device\)"):
            generate(EDGE, tmp_path / name)
    assert bytes_of(tmp_path / "old") == before
    assert not (tmp_path / "deep").exists()


def test_interrupted_installation_is_repaired_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate(TINY, tmp_path / "d")
    generate(EDGE, tmp_path / "whole")
    replace = Path.replace

    def stop(self: Path, target: Path) -> Path:
        if target.name == "summary.json":
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            generate(EDGE, tmp_path / "d")
    generate(EDGE, tmp_path / "d")
    assert bytes_of(tmp_path / "d") == bytes_of(tmp_path / "whole")


def test_a_file_in_the_place_of_the_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("mine")
    with pytest.raises(GenerateError, match="is a file, not a directory"):
        generate(TINY, tmp_path / "f")
    with pytest.raises(GenerateError, match=r"f/below: cannot be made a directory \(Not a directory\)"):
        generate(TINY, tmp_path / "f" / "below")


@pytest.mark.usefixtures("small_engine")
def test_waivers_hold_for_the_engine_s_own_file_only(tmp_path: Path) -> None:
    result = generate(preset("tiny"), tmp_path / "tiny")
    waivers = tmp_path / "tiny" / "verilator.vlt"
    assert waivers.read_text().count("lint_off") == waivers.read_text().count('-file "*gradsieve_tiny.v"') > 5
    lint(result.verilog, waivers=waivers)
    other = tmp_path / "other.v"  # what a waiver of the engine's would hide
    other.write_text("module other(input [3:0] i, output [7:0] o);\n  wire w = i[0];\n  assign o = i;\nendmodule\n")
    with pytest.raises(LintError, match="WIDTHEXPAND"):
        lint(other, waivers=waivers)
