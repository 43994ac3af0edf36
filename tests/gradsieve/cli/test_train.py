"""`gradsieve train`: what it prints and leaves, how it is interrupted, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gradsieve.cli.application import main
from gradsieve.cli.train import settings_of
from gradsieve.training.errors import SettingsError
from gradsieve.training.reports.report import read_result
from tests.waiting import until

TOML = """
[text]
valid_tokens = 500
[model]
hidden = 12
[training]
steps = {steps}
batch = 4
window = 6
record_every = 5
evaluate_every = 10
[sieve]
method = "row"
target = 0.3
[backend]
lanes = 2
columns = 4
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "settings.toml"
    file.write_text(TOML.format(steps=10))
    return file


def test_training_leaves_result_report_and_checkpoint(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, figures = tmp_path / "out", tmp_path / "figures.json"
    assert main(["train", "--config", str(config), "-o", str(folder), "--json", str(figures)]) == 0
    result = read_result(folder / "result.json")
    assert result.last.step == 10
    assert json.loads(figures.read_text())["records"][-1]["step"] == 10
    out = capsys.readouterr().out
    assert f"{result.valid_loss:.4f}" in out
    assert f"{100 * result.last.work.skipped:.1f} %" in out
    assert f"{result.last.work.cycles:,}" in out
    assert {p.name for p in folder.iterdir()} == {"result.json", "report.html", "checkpoint.pt"}
    assert result.name in (folder / "report.html").read_text()


def test_options_overrule_the_file(config: Path) -> None:
    options = {"training": {"steps": 7, "seed": None}, "sieve": {"method": None, "target": 0.1}, "backend": {}}
    chosen = settings_of(config, options)
    assert (chosen.training.steps, chosen.training.seed, chosen.sieve.target) == (7, 1, 0.1)
    assert chosen.sieve.method == "row"
    dense = settings_of(config, {"sieve": {"method": "dense", "target": None}})
    assert dense.sieve.target is None
    stochastic = settings_of(config, {"sieve": {"method": "stochastic", "target": None}})
    assert (stochastic.sieve.method, stochastic.sieve.target) == ("stochastic", 0.3)


def test_a_finished_folder_is_not_overwritten(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--config", str(config), "-o", str(tmp_path / "out")]
    assert main([*arguments, "--resume"]) == 2
    assert "checkpoint.pt is not there: leave --resume out" in capsys.readouterr().err
    assert main(arguments) == 0
    before = (tmp_path / "out" / "result.json").read_bytes()
    assert main(arguments) == 2
    assert "is there already: --resume goes on from it" in capsys.readouterr().err
    assert (tmp_path / "out" / "result.json").read_bytes() == before
    assert main([*arguments, "--resume"]) == 0  # nothing is left to do
    assert main([*arguments, "--resume", "--seed", "2"]) == 2
    assert "another configuration: training.seed was 1 and is 2" in capsys.readouterr().err


def test_ctrl_c_loses_nothing(tmp_path: Path) -> None:
    """A process that is interrupted in the middle and resumed ends at the weights of one that was not."""
    long = tmp_path / "long.toml"
    long.write_text(TOML.format(steps=400))

    def start(folder: Path, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "gradsieve", "train", "--config", str(long), "-o", str(folder), *more]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    uninterrupted, interrupted = start(whole), start(broken)
    # The checkpoint after step 200 shows that it is under way.
    until(lambda: (broken / "checkpoint.pt").exists() or interrupted.poll() is not None, "the first checkpoint")
    os.kill(interrupted.pid, signal.SIGINT)
    out, _ = interrupted.communicate(timeout=60)
    assert interrupted.returncode == 130
    assert "--resume goes on" in out
    partial = torch.load(broken / "checkpoint.pt", weights_only=True)
    assert 200 <= partial["done"] < 400
    assert not read_result(broken / "result.json").finished
    resumed = start(broken, "--resume")
    assert resumed.wait(timeout=120) == 0
    assert uninterrupted.wait(timeout=120) == 0
    a, b = (torch.load(f / "checkpoint.pt", weights_only=True)["model"] for f in (whole, broken))
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            ["--method", "rows", "--target", "0.2"],
            2,
            "options: --method must be one of dense, element, row, stochastic; got 'rows'",
        ),
        (
            ["--method", "row"],
            2,
            "exactly one of sieve.tau, --target and sieve.targets must be given with --method 'row', got none",
        ),
        (["--steps", "0"], 2, "options: --steps must be at least 1, got 0"),
        (["--config", "none.toml"], 2, "none.toml: cannot be read (No such file or directory)"),
        (["--text", "none.txt"], 1, "none.txt: cannot be read (No such file or directory)"),
        (
            ["--backend", "gpu"],
            2,
            "options: --backend must be one of float, golden, simulated; got 'gpu'",
        ),
    ],
)
def test_bad_input_is_one_line_before_any_work(
    arguments: list[str], status: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    assert main(["train", *arguments, "-o", str(folder)]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert any(line.startswith("error: ") and message in line for line in err.splitlines())
    assert not folder.exists()


def test_bad_toml_is_quoted(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text("[training\nsteps=3")
    with pytest.raises(SettingsError, match=r"bad\.toml: is not a TOML text"):
        settings_of(file, {"sieve": {}})


def test_settings_are_called_as_they_were_given(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('sieve = { method = "row", target = 1.5, targets = [[0, 2]] }\ntraining = { seed = -1 }')
    with pytest.raises(SettingsError) as error:
        settings_of(file, {"sieve": {"method": None, "target": None}, "training": {"steps": 0, "seed": None}})
    steps, seed = "--steps must be at least 1, got 0", "training.seed must be at least 0, got -1"
    assert str(error.value).startswith(
        f"{file}: {steps}; {seed}; sieve.target must be at most 1, got 1.5; sieve.targets[0]"
    )


def test_section_that_is_a_plain_value_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "plain.toml"
    file.write_text('sieve = "row"')
    with pytest.raises(SettingsError, match="sieve must be a table of settings, got 'row'"):
        settings_of(file, {"sieve": {"method": None, "target": None}})
