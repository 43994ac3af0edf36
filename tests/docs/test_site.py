"""The documentation site: it builds without a warning, is whole, and fetches nothing from elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

from docs.tables import ROOT

OURS = ("mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs", "examples", "hw")


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a configuration into the folder `site`."""
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--config-file",
        str(config),
        "--site-dir",
        str(site),
    ]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=site.parent, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "site"
    done = build(ROOT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return folder


def html(site: Path) -> dict[str, str]:
    """Every page by its name."""
    return {p.relative_to(site).as_posix(): p.read_text(encoding="utf-8") for p in sorted(site.rglob("*.html"))}


def test_site_has_every_page(site: Path) -> None:
    documents = {p.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    assert documents | {"index.html", "contributing.html", "changelog.html"} <= html(site).keys()


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("lstm", ["lstm.SievedLSTM", "lstm.SievedLSTM.take_statistics"]),
        ("backends", ["backends.FloatBackend", "backends.GoldenBackend", "backends.DeviceBackend"]),
        ("methods", ["methods.sieves.RowSieve", "methods.structured_dropout.StructuredDropout"]),
        ("config", ["hw.config.EngineConfig", "hw.config.EngineConfig.max_H", "hw.config.preset"]),
        ("golden", ["golden.backward.backward", "golden.types.Tape"]),
        ("device", ["fpga.device.Device.backward", "fpga.device.simulated"]),
        ("generate", ["rtl_gen.generate.generate"]),
        ("hardware", ["hw.array.compactor.Compactor", "hw.engine.Engine"]),
    ],
)
def test_reference_has_the_public_names(site: Path, page: str, names: list[str]) -> None:
    ids = set(re.findall(r'id="gradsieve\.(\S+)"', html(site)[f"api/{page}.html"]))
    ids |= {name.removeprefix("training.") for name in ids}
    assert set(names) <= ids


def test_examples_show_their_programs(site: Path) -> None:
    """Whole, in the order of the page: a snippet that is not recognised stays in the page as a line of text."""
    pages = html(site)
    shown = re.sub(r"<[^>]+>", "", pages["examples.html"] + pages["adding-a-block.html"])
    shown = unescape(shown)
    programs = [p for p in (ROOT / "examples").rglob("*") if p.suffix in (".py", ".v")]
    assert len(programs) >= 6
    for program in programs:
        assert "".join(program.read_text(encoding="utf-8").split()) in "".join(shown.split()), program
    assert "8<" not in shown and "8 <" not in shown


def test_site_fetches_nothing(site: Path) -> None:
    for page, text in html(site).items():
        fetched = re.findall(r'<(?:script|img|iframe|source)\b[^>]*?\bsrc="?([^"\s>]+)', text)
        fetched += re.findall(r'<link\b[^>]*?\bhref="?([^"\s>]+)', text)
        assert fetched, page
        for address in fetched:
            assert "//" not in address.removeprefix("data:image/svg+xml"), f"{page}: {address}"
            if page != "404.html":  # its addresses are those of a server's root
                assert (site / page).parent.joinpath(address).resolve().is_file(), f"{page}: {address}"


@pytest.mark.parametrize(
    ("file", "fault", "complaint"),
    [
        ("docs/glossary.md", "[a page](nowhere.md)", "nowhere.md"),
        ("README.md", "[a page](docs/nowhere.md)", "nowhere.md"),
        ("docs/glossary.md", "[a place](architecture.md#nowhere)", "#nowhere"),
        ("docs/examples.md", '--8<-- "examples/nowhere.py"', "nowhere.py"),
        ("docs/api/lstm.md", "::: gradsieve.training.lstm.Nothing", "gradsieve.training.lstm.Nothing"),
    ],
)
def test_a_fault_fails_the_build(file: str, fault: str, complaint: str, tmp_path: Path) -> None:
    for name in OURS:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    (tmp_path / "gradsieve").symlink_to(ROOT / "gradsieve")
    with open(tmp_path / file, "a", encoding="utf-8") as page:
        page.write(f"\n{fault}\n")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0
    assert complaint in done.stdout + done.stderr
