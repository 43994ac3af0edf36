"""The tables of results: each is marked with its command, and is what the command wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from docs.tables import RENDERERS, ROOT, Block, blocks, pages, rendered
from gradsieve.hw.config import preset
from tests.docs.commands import parsed

MARKED = [(page, block) for page in pages() for block in blocks(page.read_text(encoding="utf-8"))]
MEASURED = {block.name: block for _, block in MARKED if block.verb in RENDERERS}


def name(value: object) -> str:
    """How a page or block is called in a test's name."""
    return value.name if isinstance(value, Path | Block) else str(value)


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_page_holds_what_was_measured(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert rendered(text) == text
    assert text.count("<!-- begin table ") == text.count("<!-- end table -->") == len(list(blocks(text)))


@pytest.mark.parametrize("block", MEASURED.values(), ids=name)
def test_another_figure_is_not_what_was_measured(block: Block) -> None:
    command = " ".join(("gradsieve", *block.arguments))
    page = f"before\n\n<!-- begin table {block.name}: {command} -->\n{block.text}<!-- end table -->\n\nbehind\n"
    for digit in "0123456789":
        wrong = page.replace(block.text, block.text.replace(digit, str((int(digit) + 1) % 10)))
        assert rendered(wrong) == page
    assert rendered(page) == page


@pytest.mark.parametrize("block", [b for _, b in MARKED], ids=name)
def test_command_is_one_of_the_command_line(block: Block) -> None:
    parsed(block.arguments)
    assert block.text.startswith("| ")


@pytest.mark.parametrize("block", MEASURED.values(), ids=name)
def test_measurement_is_of_the_command(block: Block) -> None:
    result: dict[str, Any] = json.loads(block.measurement.read_text(encoding="utf-8"))
    arguments = parsed(block.arguments)
    engine = preset(arguments["preset"] or "default")
    assert (result["config"]["name"], result["config"]["R"]) == (engine.name, engine.R)
    layer = arguments.get("layer")
    if layer is not None:
        assert layer == ",".join(str(result["layer"][size]) for size in "HIBT")
    assert all(line["mismatches"] == 0 for line in result[{"bench": "levels", "demo": "modes"}[block.verb]])


def test_a_mark_without_a_command_of_ours_is_refused() -> None:
    with pytest.raises(ValueError, match="'make demo' is no command of gradsieve"):
        rendered("<!-- begin table demo: make demo -->\n<!-- end table -->")
