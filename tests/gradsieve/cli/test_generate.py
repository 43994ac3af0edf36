"""`gradsieve generate`, as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

from gradsieve.cli.application import main
from gradsieve.hw.config import preset
from tests.rtl_gen import stand_in


@pytest.fixture(autouse=True)
def small_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("gradsieve.hw.engine")
    module.Engine = stand_in.Engine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gradsieve.hw.engine", module)


def test_preset_and_its_config_file_give_the_same_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--preset", "tiny", "-o", str(tmp_path / "a")]) == 0
    out, err = capsys.readouterr()
    assert "gradsieve_tiny" in out
    assert f"{preset('tiny').multipliers}" in out
    assert "store" in out
    assert "README.md" in out
    assert err.splitlines()[0] == "generating tiny: Verilog"
    assert "\x1b" not in out + err
    config, result = tmp_path / "a" / "config.toml", tmp_path / "result.json"
    assert main(["generate", str(config), "-o", str(tmp_path / "b"), "--json", str(result)]) == 0
    a, b = ({p.name: p.read_bytes() for p in (tmp_path / d).iterdir()} for d in "ab")
    assert a == b
    assert json.loads(result.read_text()) == json.loads((tmp_path / "b" / "summary.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is no config: give a CONFIG.toml, or --preset with one of tiny, edge, default, ptb"),
        (["a.toml", "--preset", "tiny"], "a.toml and --preset tiny are both given: give one of them"),
        (["--preset", "huge"], "preset must be one of tiny, edge, default, ptb; got 'huge'"),
        (["a.toml"], "a.toml: cannot be read (No such file or directory)"),
        (["."], ".: cannot be read (Is a directory)"),
        (["broken.toml"], "broken.toml: is not a TOML text"),
        (["bad.toml"], "bad.toml: R must be at least 1, got 0"),
        (["--presets", "tiny"], "No such option: --presets"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.toml").write_text("R = [")
    Path("bad.toml").write_text("R = 0\nC = 4\nmax_H = 8\nmax_I = 8\nmax_B = 4\nmax_T = 4\n")
    assert main(["generate", *arguments, "-o", "out"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not Path("out").exists()


def test_what_cannot_be_written_is_one_line_and_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.toml").write_text("mine")
    assert main(["generate", "--preset", "tiny", "-o", str(tmp_path)]) == 1
    assert "did not write (config.toml)" in capsys.readouterr().err


def test_json_file_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (tmp_path / "no" / "x.json", tmp_path):
        assert main(["generate", "-p", "tiny", "-o", str(tmp_path / "d"), "--json", str(file)]) == 2
        assert f"must be a file name in an existing, writable folder, got {file}" in capsys.readouterr().err
        assert not (tmp_path / "d").exists()


def test_defects_keep_their_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("gradsieve.rtl_gen.generate.generate", fail)
    with pytest.raises(ZeroDivisionError):
        main(["generate", "--preset", "tiny", "-o", str(tmp_path / "d")])


def test_missing_verb_and_wrong_verb_are_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    shown = capsys.readouterr()
    assert "generate" in shown.out
    assert shown.err == ""
    assert main(["sift"]) == 2
    assert "error: No such command 'sift' (gradsieve --help shows what there is)" in capsys.readouterr().err


def test_help_teaches_by_example_and_imports_nothing_slow() -> None:
    script = (
        "import sys; from gradsieve.cli.application import main; status = main(['generate', '--help']); "
        "slow = {'torch', 'amaranth', 'systemrdl', 'matplotlib'} & set(sys.modules); sys.exit(status or bool(slow))"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "gradsieve generate --preset tiny -o build/tiny" in done.stdout


def test_module_is_the_command() -> None:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "gradsieve", "generate", "--preset", "none", "-o", "x"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "preset must be one of tiny, edge, default, ptb; got 'none'" in done.stderr
    assert "Traceback" not in done.stderr
