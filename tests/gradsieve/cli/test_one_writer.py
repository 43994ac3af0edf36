"""Two commands that would write to one directory: the second is refused at once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gradsieve.cli.application import main
from gradsieve.rtl_gen.files import claimed

SHORT = "[text]\nvalid_tokens = 50\n[model]\nhidden = 4\n[training]\nsteps = 1\nbatch = 2\nwindow = 3\n"
STUDY = f"{SHORT}".replace("[", "[base.") + '[[run]]\nname = "dense"\n'
COMMANDS = {
    "train": ("train --config short.toml", ""),
    "train, resumed": ("train --config short.toml --resume", ""),
    "train, simulated": ("train --config short.toml --backend simulated", ""),
    "compare": ("compare study.toml --workers 1", ""),
    "generate": ("generate --preset tiny", ""),
    "build": ("build --board ulx3s --preset tiny", "ulx3s_tiny"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_second_writer_is_refused_with_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADSIEVE_BUILD", str(tmp_path / "caches"))
    (tmp_path / "short.toml").write_text(SHORT)
    (tmp_path / "study.toml").write_text(STUDY)
    command, part = COMMANDS[name]
    (tmp_path / "out").mkdir()
    if "--resume" in command:
        (tmp_path / "out" / "checkpoint.pt").touch()
    before = sorted((tmp_path / "out").iterdir())
    begun = time.monotonic()
    with claimed(Path("out"), ValueError, part):
        assert main([*command.split(), "-o", "out"]) == 1
    assert time.monotonic() - begun < 20
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    path = Path("out") / part
    assert errors == [
        f"error: {path} must not be in use, got one that another gradsieve is writing: "
        "wait until it has ended, or name another directory"
    ]
    assert out == "" and err.splitlines()[-1] == errors[0]
    assert sorted((tmp_path / "out").iterdir()) == before
    assert not (tmp_path / "caches").exists()


def test_afterwards_the_directory_is_free(tmp_path: Path) -> None:
    with claimed(tmp_path / "out", ValueError):
        pass
    (tmp_path / "short.toml").write_text(SHORT)
    assert main(["train", "--config", str(tmp_path / "short.toml"), "-o", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"result.json", "report.html", "checkpoint.pt"}
