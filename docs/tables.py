"""The tables of results in README.md and docs/, from what the commands wrote with `--json`.

A table stands between two marks, the first of which names it and the command that makes it:

    <!-- begin table NAME: gradsieve VERB ARGUMENTS -->
    <!-- end table -->

Where the verb is one of `RENDERERS`, the file docs/measurements/NAME.json holds what the command wrote, and the table
is made of it.  Tables of other verbs take hours; they are copied from the command's own output.

`python docs/tables.py` rewrites the tables, with `--measure` it runs their commands first (`make tables`, minutes).
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MEASUREMENTS = ROOT / "docs" / "measurements"
PICTURE = ROOT / "docs" / "images" / "demo.png"

BLOCK = re.compile(
    r"^<!-- begin table (?P<name>\S+): (?P<command>.+?) -->\n(?P<text>.*?)^<!-- end table -->$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A marked table: its name, the words of its command without `gradsieve`, and its text."""

    name: str
    arguments: tuple[str, ...]
    text: str

    @classmethod
    def of(cls, match: re.Match[str]) -> Block:
        """The block of a match of BLOCK.  Raises ValueError for a command that is not gradsieve's."""
        program, *arguments = shlex.split(match["command"])
        if program != "gradsieve" or not arguments:
            raise ValueError(f"table {match['name']}: {match['command']!r} is no command of gradsieve")
        return cls(match["name"], tuple(arguments), match["text"])

    @property
    def verb(self) -> str:
        """The verb of its command."""
        return self.arguments[0]

    @property
    def measurement(self) -> Path:
        """The file that its command writes with `--json`."""
        return MEASUREMENTS / f"{self.name}.json"


def pages() -> list[Path]:
    """Every page that may hold tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(text: str) -> Iterator[Block]:
    """The marked tables of a page."""
    return (Block.of(match) for match in BLOCK.finditer(text))


def table(headings: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, all columns but the first aligned to the right."""
    rule = ["---"] + ["---:"] * (len(headings) - 1)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (headings, rule, *rows))


def bench(result: dict[str, Any]) -> str:
    """The table of `gradsieve bench`."""
    headings = ["rows kept", "cycles", "indices", "stream efficiency", "array utilisation", "speedup", "indices ratio"]
    headings += ["speedup with transfers", "mismatches"]
    rows = [
        [
            f"{100 * level['kept']:.4g} %",
            f"{level['cycles']:,}",
            f"{level['indices']:,}",
            f"{level['stream_efficiency']:.3f}",
            f"{level['array_utilisation']:.3f}",
            f"{level['speedup']:.2f}×",
            f"{level['indices_ratio']:.2f}×",
            f"{level['speedup_with_transfers']:.2f}×",
            f"{level['mismatches']:,}",
        ]
        for level in result["levels"]
    ]
    return table(headings, rows)


def demo(result: dict[str, Any]) -> str:
    """The table of `gradsieve demo`."""
    headings = ["mode", "rows kept", "elements kept", "cycles", "speedup", "mismatches", "gradient error"]
    rows = [
        [
            mode["mode"],
            f"{100 * mode['rows_kept_share']:.1f} %",
            f"{100 * mode['elements_kept_share']:.1f} %",
            f"{mode['cycles']:,}",
            f"{mode['speedup']:.2f}×",
            f"{mode['mismatches']:,}",
            f"{100 * mode['gradient_error']:.3g} %",
        ]
        for mode in result["modes"]
    ]
    return table(headings, rows)


RENDERERS: dict[str, Callable[[dict[str, Any]], str]] = {"bench": bench, "demo": demo}
"""By verb: from what its command wrote to a table."""


def rendered(text: str) -> str:
    """A page with every table that can be made anew made anew.  Raises OSError if a measurement is missing."""

    def renew(match: re.Match[str]) -> str:
        block = Block.of(match)
        if block.verb not in RENDERERS:
            return match[0]
        made = RENDERERS[block.verb](json.loads(block.measurement.read_text(encoding="utf-8")))
        return f"<!-- begin table {block.name}: {match['command']} -->\n{made}<!-- end table -->"

    return BLOCK.sub(renew, text)


def shrink(picture: Path, path: Path) -> None:
    """Write a picture of few colours as a small PNG."""
    from PIL import Image

    colours = Image.open(picture).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    colours.save(path, "PNG", optimize=True)


def measure() -> None:
    """Run the command of every table that can be made anew.  Raises CalledProcessError if one fails."""
    wanted = {b.name: b for page in pages() for b in blocks(page.read_text(encoding="utf-8")) if b.verb in RENDERERS}
    MEASUREMENTS.mkdir(exist_ok=True)
    for block in wanted.values():
        words = [sys.executable, "-m", "gradsieve", *block.arguments, "--json", str(block.measurement)]
        subprocess.run(words, cwd=ROOT, check=True)
        if block.verb == "demo":
            shrink(ROOT / json.loads(block.measurement.read_text(encoding="utf-8"))["picture"], PICTURE)


def main() -> None:
    """Rewrite the tables of all pages."""
    parser = argparse.ArgumentParser(description="Rewrite the tables of results in README.md and docs/.")
    parser.add_argument("--measure", action="store_true", help="run the tables' commands first (some minutes)")
    if parser.parse_args().measure:
        measure()
    for page in pages():
        text = page.read_text(encoding="utf-8")
        new = rendered(text)
        if new != text:
            page.write_text(new, encoding="utf-8")
            print(f"{page.relative_to(ROOT)}: rewritten")


if __name__ == "__main__":
    main()
