"""The tables of results in README.md and docs/, from what the commands wrote with `--json`.

A table stands between two marks. The first says what kind of table it is (see docs/renderers.py) and which measurements
it is made of, each with its name and its command:

    <!-- begin table KIND of NAME: gradsieve VERB ARGUMENTS -->
    <!-- end table -->

Several measurements stand on a line each:

    <!-- begin table KIND of
         NAME: gradsieve VERB ARGUMENTS
         NAME: gradsieve VERB ARGUMENTS -->
    <!-- end table -->

A table that the code itself gives is made of no measurement:

    <!-- begin table KIND of the code -->

The file docs/measurements/NAME.json holds what the command wrote; several tables may be made of one measurement.

`python -m docs.tables` rewrites the tables. With `--measure` it first runs the commands that take no more than minutes,
with `--measure NAME ...` those of the measurements named.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docs.renderers import FROM_CODE, RENDERERS

ROOT = Path(__file__).resolve().parents[1]
MEASUREMENTS = ROOT / "docs" / "measurements"
PICTURE = ROOT / "docs" / "images" / "demo.png"
QUICK = ("bench", "demo", "deploy", "train")
"""Verbs that take no more than minutes; studies and builds take hours, and `speed` wants an idle machine."""
BLOCK = re.compile(
    r"^(?P<mark><!-- begin table (?P<kind>\S+) of\s(?P<sources>[^>]*?)\s*-->\n)(?P<text>.*?)^<!-- end table -->$",
    re.MULTILINE | re.DOTALL,
)
CODE = "the code"
"""In a mark, where the measurements would stand."""
SOURCE = re.compile(r"\s*(?P<name>\w+): (?P<command>\S.*)")


@dataclass(frozen=True)
class Measurement:
    """A command, by the words after `gradsieve`, and the name of what it wrote."""

    name: str
    arguments: tuple[str, ...]

    @classmethod
    def of(cls, line: str) -> Measurement:
        """The measurement of a line of a mark.  Raises ValueError for a command that is not gradsieve's."""
        match = SOURCE.fullmatch(line)
        if match is None:
            raise ValueError(f"a measurement must read NAME: gradsieve VERB ARGUMENTS, got {line.strip()!r}")
        program, *arguments = shlex.split(match["command"])
        if program != "gradsieve" or not arguments:
            raise ValueError(f"measurement {match['name']}: {match['command']!r} is no command of gradsieve")
        return cls(match["name"], tuple(arguments))

    @property
    def verb(self) -> str:
        """The verb of its command."""
        return self.arguments[0]

    @property
    def path(self) -> Path:
        """The file that its command writes with `--json`."""
        return MEASUREMENTS / f"{self.name}.json"

    def result(self) -> dict[str, Any]:
        """What its command wrote.  Raises OSError if it has not run."""
        found: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        return found


@dataclass(frozen=True)
class Block:
    """A marked table: its first mark, its kind, what it is made of, and its text."""

    mark: str
    kind: str
    sources: tuple[Measurement, ...]
    text: str

    @classmethod
    def of(cls, match: re.Match[str]) -> Block:
        """The block of a match of BLOCK.  Raises ValueError for a kind or a measurement that there cannot be."""
        kinds = FROM_CODE if match["sources"] == CODE else RENDERERS
        if match["kind"] not in kinds:
            raise ValueError(f"a table must be one of {', '.join(kinds)}, got {match['kind']!r}")
        lines = () if kinds is FROM_CODE else match["sources"].splitlines()
        sources = tuple(Measurement.of(line) for line in lines)
        return cls(match["mark"], match["kind"], sources, match["text"])

    def rendered(self) -> str:
        """Both marks, and the table made anew between them.  Raises OSError if a measurement is missing."""
        renderer = RENDERERS[self.kind] if self.sources else FROM_CODE[self.kind]
        made = renderer(*(source.result() for source in self.sources))
        return f"{self.mark}{made}<!-- end table -->"


def pages() -> list[Path]:
    """Every page that may hold tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(text: str) -> Iterator[Block]:
    """The marked tables of a page."""
    return (Block.of(match) for match in BLOCK.finditer(text))


def rendered(text: str) -> str:
    """A page with every table made anew.  Raises OSError if a measurement is missing."""
    return BLOCK.sub(lambda match: Block.of(match).rendered(), text)


def measurements() -> dict[str, Measurement]:
    """All that the tables are made of, by name.  Raises ValueError if a name stands for two commands."""
    found: dict[str, Measurement] = {}
    for page in pages():
        for block in blocks(page.read_text(encoding="utf-8")):
            for source in block.sources:
                if found.setdefault(source.name, source) != source:
                    raise ValueError(f"measurement {source.name} must have one command, got {source.arguments} too")
    return found


def shrink(picture: Path, path: Path) -> None:
    """Write a picture of few colours as a small PNG."""
    from PIL import Image

    colours = Image.open(picture).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    colours.save(path, "PNG", optimize=True)


@contextmanager
def virtual_board(preset: str, port: str) -> Iterator[None]:
    """A virtual board on that port, as long as this block lasts.  Raises CalledProcessError if it does not start."""
    words = [sys.executable, "-m", "gradsieve", "board", "--virtual", "--preset", preset, "--link", port]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as board:
        try:
            assert board.stdout is not None
            if not board.stdout.readline():  # its first line says that the port is there
                raise subprocess.CalledProcessError(board.wait(), words)
            yield
        finally:
            board.terminate()


def measure(wanted: Sequence[Measurement]) -> None:
    """Run commands, and keep what they write.  Raises CalledProcessError if one fails."""
    MEASUREMENTS.mkdir(exist_ok=True)
    for source in wanted:
        print(f"{source.name}: gradsieve {shlex.join(source.arguments)}", flush=True)
        option = dict(zip(source.arguments, source.arguments[1:], strict=False))
        board = virtual_board(option["--preset"], option["--port"]) if source.verb == "deploy" else nullcontext()
        with tempfile.TemporaryDirectory() as folder, board:
            words = [sys.executable, "-m", "gradsieve", *source.arguments, "--json", str(source.path)]
            if source.verb == "train":  # it would refuse the folder of an earlier training
                words += ["--output", folder]
            subprocess.run(words, cwd=ROOT, check=True)
        if source.verb == "demo":
            shrink(ROOT / source.result()["picture"], PICTURE)


def main() -> None:
    """Rewrite the tables of all pages."""
    parser = argparse.ArgumentParser(prog="python -m docs.tables", description="Rewrite the tables of results.")
    parser.add_argument(
        "--measure",
        nargs="*",
        metavar="NAME",
        help="run the commands of these measurements first; without a name, those that take minutes",
    )
    names, known = parser.parse_args().measure, measurements()
    for name in names or ():
        if name not in known:
            parser.error(f"--measure must be of {', '.join(known)}, got {name!r}")
    if names is not None:
        measure([known[name] for name in names] or [m for m in known.values() if m.verb in QUICK])
    for page in pages():
        text = page.read_text(encoding="utf-8")
        new = rendered(text)
        if new != text:
            page.write_text(new, encoding="utf-8")
            print(f"{page.relative_to(ROOT)}: rewritten")


if __name__ == "__main__":
    main()
