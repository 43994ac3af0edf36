"""`gradsieve compare`: what it writes and shows, its exit status, and what it refuses."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import LocalCluster

import gradsieve.training.trainer
from gradsieve.cli import compare
from gradsieve.cli.application import main
from gradsieve.training.studies import cluster
from tests.training.studies import study_stand_in

STUDY = """
seeds = [1, 2]
base.training.steps = 10
[[run]]
name = "dense"
[[run]]
name = "row [sieve]"
sieve = { method = "row", target = 0.5 }
"""
BAD = '[[run]]\nname = "bad"\ntraining.rate = 1.0\n'


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=":0"
    ) as local:
        yield local.scheduler_address


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradsieve.training.trainer, "train", study_stand_in.train)


def write(folder: Path, text: str = STUDY) -> str:
    (folder / "study.toml").write_text(text)
    return str(folder / "study.toml")


def test_the_tables_are_shown_and_written(tmp_path: Path, scheduler: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, file = tmp_path / "out", tmp_path / "result.json"
    arguments = ["compare", write(tmp_path), "-o", str(out), "--scheduler", scheduler]
    assert main([*arguments, "--json", str(file)]) == 0
    shown, said = capsys.readouterr()
    assert [shown.count(heading) for heading in ("row [sieve]", "50.0\u00a0%\u00a0±\u00a00.0")] == [2, 2]
    assert "4 of 4: " in said and "row [sieve], seed 2: validation loss 3.000\n" in said
    data = json.loads(file.read_text())
    assert data == json.loads((out / "comparison.json").read_text())
    assert [run["name"] for run in data["runs"]] == ["dense", "row [sieve]"]
    assert data["runs"][1]["loss"]["values"] == {"1": pytest.approx(3), "2": pytest.approx(3)}
    assert "| row [sieve] | 1, 2 |" in (out / "comparison.md").read_text()
    assert "row [sieve]" in (out / "comparison.html").read_text()
    assert main(arguments) == 0
    assert capsys.readouterr().err.count("finished before") == 4


def test_failures_are_listed_and_the_rest_is_shown(
    tmp_path: Path, scheduler: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["compare", write(tmp_path, STUDY + BAD), "-o", str(out), "--scheduler", scheduler]) == 1
    shown, said = capsys.readouterr()
    assert "failed)" in shown
    assert "| bad | none (2 failed) |" in (out / "comparison.md").read_text()
    assert said.count("bad, seed 2: failed: ValueError: a rate of 1 is too much") == 2
    assert said.strip().splitlines()[-1].startswith("error: 2 of 6 runs failed")
    assert [f["seed"] for f in json.loads((out / "comparison.json").read_text())["failures"]] == [1, 2]


def test_a_scheduler_that_is_not_there_loses_nothing(
    tmp_path: Path, scheduler: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compare", write(tmp_path), "-o", str(tmp_path / "out"), "--scheduler"]
    assert main([*arguments, scheduler]) == 0
    finished = {file: file.read_bytes() for file in tmp_path.glob("out/runs/*/result.json")}
    assert len(finished) == 4
    write(tmp_path, STUDY.replace("[1, 2]", "[1, 2, 3]"))
    begin = time.monotonic()
    assert main([*arguments, "tcp://127.0.0.1:1"]) == 1
    assert time.monotonic() - begin < 10
    assert "error: there is no scheduler at tcp://127.0.0.1:1" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in finished} == finished


def test_an_interrupt_says_how_to_go_on(
    tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = compare._sentence

    def interrupt(outcome: cluster.Outcome) -> str:
        if outcome.task.seed == 2:
            raise KeyboardInterrupt
        return sentence(outcome)

    monkeypatch.setattr(compare, "_sentence", interrupt)
    out = tmp_path / "out"
    arguments = ["compare", write(tmp_path), "-o", str(out), "--scheduler", scheduler]
    assert main(arguments) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not list(out.glob("runs/.stop*"))
    assert not (out / "comparison.json").exists()
    monkeypatch.undo()
    monkeypatch.setattr(gradsieve.training.trainer, "train", study_stand_in.train)
    assert main(arguments) == 0
    assert capsys.readouterr().err.count("finished before") >= 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--workers", "0"], "--workers must be at least 1, got 0"),
        (
            ["--workers", "2", "--scheduler", "tcp://127.0.0.1:1"],
            "--workers 2 and --scheduler tcp://127.0.0.1:1 are both given",
        ),
    ],
)
def test_options_that_make_no_sense(
    tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", write(tmp_path), *more]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_bad_study_is_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    bad = STUDY + '[[run]]\nname = "last"\nmodel = { hidden = 0 }\n'
    assert main(["compare", write(tmp_path, bad), "-o", str(out)]) == 2
    assert "run 'last': model.hidden must be at least 1, got 0" in capsys.readouterr().err
    assert not out.exists()
