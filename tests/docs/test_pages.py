"""What the documents say is so: code runs, commands and targets exist, tables agree with the sources."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import gradsieve
from docs.tables import ROOT, pages
from gradsieve.hw.config import EngineConfig, SieveMode, make
from gradsieve.hw.formats import Formats
from tests.docs.commands import parsed

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [*pages(), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
WORDS = [
    "gate row", "array row", "column tile", "lane", "batch tile", "k and q", "tape", "kept", "backend", "engine",
    "compaction", "drain", "skew", "output-stationary", "input-stationary", "saturation", "threshold", "target",
]  # fmt: skip
"""Words with which documents and sources could mean two things."""

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
COMMANDS = sorted(
    {
        line.strip()
        for page in PAGES
        for language, block in FENCE.findall(page.read_text(encoding="utf-8"))
        for line in block.splitlines()
        if not language and re.match(r" *(make|\.venv/bin/\w+) ", line)
    }
)


def blocks(language: str) -> list[str]:
    """The code blocks of the README in that language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def page(name: str) -> str:
    """The text of a page in docs/."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def rows(text: str, first: str) -> list[list[str]]:
    """The cells of a table whose heading begins with `first`."""
    table = text[text.index(first) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip(" `") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]


@pytest.mark.parametrize("code", blocks("python"), ids=["layer", "device"])
def test_readme_shows_code_that_runs(code: str, capsys: Any) -> None:
    exec(code, {})
    shown = re.findall(r"print\(.*\)  # (.*)", code)
    assert capsys.readouterr().out.splitlines() == shown


def test_readme_shows_a_config_with_every_setting() -> None:
    (text,) = blocks("toml")
    data = tomllib.loads(text)
    make(**data)
    assert data.keys() == EngineConfig.model_fields.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_command_exists(command: str) -> None:
    program, *arguments = shlex.split(command)
    if program == "make":
        targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(arguments) <= set(targets)
    elif program == ".venv/bin/gradsieve":
        parsed(arguments)
    else:
        assert program == ".venv/bin/python"
        paths = [a for a in arguments if a.startswith(("tests", "examples"))]
        assert all((ROOT / path).exists() for path in paths)
        assert paths or arguments[:2] == ["-m", "pytest"]


def test_documents_show_commands() -> None:
    for program in ("make demo", ".venv/bin/gradsieve demo", ".venv/bin/python examples/sieve_an_lstm.py"):
        assert program in COMMANDS


def test_arithmetic_page_has_the_formats_of_the_config() -> None:
    formats = Formats()
    table = rows(page("arithmetic.md"), "| format | of | default |")
    names = {*Formats.model_fields, "weight_grad", "bias_grad"} - {"weight_grad_width"}
    assert {name: default for name, _, default in table} == {name: str(getattr(formats, name)) for name in names}


def test_arithmetic_page_has_the_modes_of_the_sieve() -> None:
    table = rows(page("arithmetic.md"), "| mode | a row is kept |")
    assert [row[0] for row in table] == [mode.name.lower() for mode in SieveMode]


def test_reference_has_every_block_of_the_engine() -> None:
    listed = re.findall(r"^::: gradsieve\.(hw\.\S+)$", page("api/hardware.md"), re.MULTILINE)
    there = [
        f"{'.'.join(path.relative_to(ROOT).with_suffix('').parts)}.{name}"
        for path in sorted((ROOT / "hw").rglob("*.py"))
        for name in re.findall(r"^class (\w+)\((?:wiring\.Component|Cells)\):", path.read_text(), re.MULTILINE)
    ]
    assert set(there) <= set(listed)
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize(
    "path",
    [
        p
        for folder in ("hw", "golden", "rtl_gen", "tb", "fpga", "training")
        for p in sorted((ROOT / folder).rglob("*.py"))
    ],
    ids=lambda p: p.relative_to(ROOT).as_posix(),
)
def test_documents_that_sources_name_exist(path: Path) -> None:
    for name in re.findall(r"(?<![\w./-])docs/[\w./-]+\.(?:md|toml)\b", path.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), name


def test_citation_is_of_this_project() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (cited["cff-version"], cited["type"]) == ("1.2.0", "software")
    assert (cited["version"], cited["license"]) == (gradsieve.__version__, project["license"])
    assert cited["title"].startswith(project["name"])


@pytest.mark.parametrize(
    "word",
    WORDS,
)
def test_glossary_settles_the_word(word: str) -> None:
    assert re.search(rf"^- \*\*{word}\b.*?\*\*: \w", page("glossary.md"), re.MULTILINE)
