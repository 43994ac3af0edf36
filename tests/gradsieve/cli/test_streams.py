"""Standard streams that are closed, full, or left by their reader."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FULL = "error: standard output must take all that is printed, got 'No space left on device'\n"
CLOSED = "error: standard output must be open, got a closed one\n"
SHORT = "[text]\nvalid_tokens = 50\n[model]\nhidden = 4\n[training]\nsteps = 1\nbatch = 2\nwindow = 3\n"
VERBS = {
    "help": "--help",
    "help of a verb": "compare --help",
    "no verb": "",
    "generate": "generate --preset tiny -o out",
    "train": "train --config short.toml -o out",
    "verify": "verify --preset tiny --block counters",
}


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path) -> None:
    (tmp_path / "short.toml").write_text(SHORT)


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The line in bash, where `gradsieve` is the command line of this checkout, and `python` this Python."""
    name, rest = line.split(" ", 1)
    line = f"'{sys.executable}' {'-m gradsieve ' if name == 'gradsieve' else ''}{rest}"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    env.pop("PYTHONUNBUFFERED", None)  # users have it buffered, which is the harder case
    return subprocess.run(["bash", "-c", line], cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("verb", VERBS)
def test_an_output_that_takes_no_more_is_one_line(verb: str, tmp_path: Path) -> None:
    done = shell(f"gradsieve {VERBS[verb]} > /dev/full", tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    assert done.stderr.endswith(FULL) and done.stderr.count("error") == 1


@pytest.mark.parametrize("verb", VERBS)
def test_a_closed_output_is_one_line_before_any_work(verb: str, tmp_path: Path) -> None:
    done = shell(f"gradsieve {VERBS[verb]} >&-", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", CLOSED)
    assert not (tmp_path / "out").exists()


def test_closed_errors_do_not_hinder_and_show_nowhere_else(tmp_path: Path) -> None:
    done = shell("gradsieve generate --preset tiny -o out --json figures.json 2>&-", tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stdout and "generating" not in done.stdout
    assert "generating" not in "".join(path.read_text() for path in (tmp_path / "out").iterdir())
    done = shell("gradsieve generate --preset none -o out 2>&-", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert shell("gradsieve --help >&- 2>&-", tmp_path).returncode == 1
    assert shell("gradsieve generate --preset tiny -o out 2>/dev/full", tmp_path).returncode == 1


def test_an_error_of_the_verb_is_told_even_if_the_output_is_full(tmp_path: Path) -> None:
    done = shell("gradsieve generate --preset none -o out > /dev/full", tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: preset must be one of")


PLAIN = "import gradsieve.cli.application as a, sys; a._run = lambda _: print('a few') or 0; sys.exit(a.main([]))"
"""A verb that prints without Rich, which has its own way with readers that leave."""


@pytest.mark.parametrize(
    "line", ["gradsieve --help", "gradsieve generate --preset tiny -o out 2> /dev/null", f'python -c "{PLAIN}"']
)
def test_a_reader_that_leaves_is_no_error(line: str, tmp_path: Path) -> None:
    done = shell(f"{line} | true; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_what_is_left_is_not_tried_again() -> None:
    """Or else Python ends with a complaint of its own, and another status."""
    script = (
        "import sys; from gradsieve.cli.streams import watched\n"
        "with watched() as (output, _):\n print('a few'); print(output.close_down(), file=sys.stderr)"
    )
    done = shell(f'python -c "{script}" > /dev/full', ROOT)
    assert (done.returncode, done.stderr) == (0, "[Errno 28] No space left on device\n")


def test_files_get_no_number_of_a_closed_stream(tmp_path: Path) -> None:
    script = (
        "import os; from gradsieve.cli.streams import take_closed; opened = take_closed()\n"
        "file = os.open('file', os.O_CREAT | os.O_WRONLY); os.write(file, f'{opened} {file}'.encode())"
    )
    shell(f'python -c "{script}" <&- >&- 2>&-', tmp_path)
    opened, number = (tmp_path / "file").read_text().split()
    assert opened == "False" and int(number) > 2


def test_json_goes_to_devices_and_pipes(tmp_path: Path) -> None:
    done = shell("gradsieve train --config short.toml -o a --json /dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("error: /dev/full: cannot be written (No space left on device)\n")
    assert "Traceback" not in done.stderr and Path("/dev/full").is_char_device()
    done = shell("gradsieve train --config short.toml -o b --json /dev/stderr 2>&1 >/dev/null | cat", tmp_path)
    assert '"finished": true' in done.stdout
