"""What the option parser refuses, and sizes that no machine holds: one line in the words of all other messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gradsieve.cli.application import VERBS, main
from gradsieve.cli.options import BoardOption, PresetOption
from gradsieve.fpga.boards.registry import BOARDS
from gradsieve.hw.config import PRESETS


@pytest.mark.parametrize(("option", "names"), [(BoardOption, BOARDS), (PresetOption, PRESETS)])
def test_help_lists_every_name(option: Any, names: dict[str, object]) -> None:
    *first, last = names  # written out in the help, which is printed without loading boards and configs
    assert option.__metadata__[0].help.endswith(f": {', '.join(first)} or {last}.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --steps 1.5", "--steps must be an integer, got '1.5' (gradsieve train --help shows what there is)"),
        ("train --steps=x", "--steps must be an integer, got 'x' (gradsieve train --help shows what there is)"),
        ("train --target x", "--target must be a number, got 'x' (gradsieve train --help shows what there is)"),
        ("verify --seed -1", "--seed must be at least 0, got '-1' (gradsieve verify --help shows what there is)"),
        ("verify -s-1", "-s must be at least 0, got '-1' (gradsieve verify --help shows what there is)"),
        (
            "speed --threads 50000",
            "--threads must be at most 1024, got '50000' (gradsieve speed --help shows what there is)",
        ),
        (
            "speed --hidden 3000000",
            "--hidden must be integers from 1 to 65536, such as 64,128; got '3000000' in '3000000'",
        ),
        ("train --wat", "No such option: --wat (gradsieve train --help shows what there is)"),
        ("sift", "No such command 'sift' (gradsieve --help shows what there is)"),
    ],
)
def test_the_value_is_quoted_and_the_verb_s_help_named(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.split()) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize("arguments", [["-o", ""], ["--output="], ["-o", "x", "--json", ""]])
def test_no_option_takes_an_empty_value(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a path, it would be the working directory."""
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "-p", "tiny", *arguments]) == 2
    assert "must not be empty, got ''" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speed", "--hidden", "65536", "--batch", "65536", "--window", "65536", "--kept", "1"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "error: memory must hold the sizes that were asked for, got too little: choose smaller ones"
    assert "speed" in VERBS


@pytest.mark.parametrize("setting", ["model.hidden", "training.batch", "training.window", "training.threads"])
def test_sizes_that_no_engine_has_are_named_as_settings(
    setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    section, name = setting.split(".")
    file = tmp_path / "my.toml"
    file.write_text(f"[{section}]\n{name} = 999999\n")
    assert main(["train", "--config", str(file), "-o", str(tmp_path / "out")]) == 2
    limit = 1024 if name == "threads" else 4096
    assert f"{setting} must be at most {limit}, got 999999" in capsys.readouterr().err
