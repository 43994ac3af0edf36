"""The tables of results: each is marked with its commands, and is what they wrote."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from docs import tables
from docs.tables import BLOCK, ROOT, Block, Measurement, blocks, measurements, pages, rendered
from gradsieve.cli.train import settings_of
from gradsieve.fpga.boards.registry import board
from gradsieve.hw.config import preset
from tests.docs.commands import parsed

BLOCKS = [block for page in pages() for block in blocks(page.read_text(encoding="utf-8"))]
MEASURED = list(measurements().values())

TABLE = re.compile(r"^ *\|.*\|\n *\|(?: *:?-+:? *\|)+\n(?: *\|.*\|\n)+", re.MULTILINE)
GIVEN = {
    "| format | of | default |": "the number formats of a config",
    "| board | `--board` | plug in |": "what the boards are",
    "| byte | what |": "places in a frame",
    "| kind | name | payload |": "kinds of frames",
    "| status | name | meaning |": "values of a byte",
    "| | |": "sizes that the link has by its design",
}
"""Beginnings of tables whose figures are not results, and what they are."""


def of_block(block: Block) -> str:
    """How a block is called in a test's name."""
    return "-".join((block.kind, *(source.name for source in block.sources)))


def of_source(source: Measurement) -> str:
    """How a measurement is called in a test's name."""
    return source.name


# pages


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_page_holds_what_was_measured(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert rendered(text) == text
    assert text.count("<!-- begin table ") == text.count("<!-- end table -->") == len(list(blocks(text)))


@pytest.mark.parametrize("block", BLOCKS, ids=of_block)
def test_another_figure_is_not_what_was_measured(block: Block) -> None:
    page = f"before\n\n{block.mark}{block.text}<!-- end table -->\n\nbehind\n"
    for digit in "0123456789":
        wrong = page.replace(block.text, block.text.replace(digit, str((int(digit) + 1) % 10)))
        assert rendered(wrong) == page
    assert rendered(page) == page


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_tables_of_figures_are_marked(page: Path) -> None:
    for table in TABLE.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        heading, _, *rows = table.splitlines()
        if not heading.strip().startswith(tuple(GIVEN)):
            cells = [cell.strip(" `*") for row in rows for cell in re.split(r"(?<!\\)\|", row)]
            assert not [cell for cell in cells if re.match(r"[+−-]?\d", cell)], heading


def test_every_table_that_is_given_is_there() -> None:
    headings = [t.splitlines()[0].strip() for page in pages() for t in TABLE.findall(page.read_text(encoding="utf-8"))]
    for beginning in GIVEN:
        assert [heading for heading in headings if heading.startswith(beginning)], beginning


# measurements


@pytest.mark.parametrize("source", MEASURED, ids=of_source)
def test_command_is_one_of_the_command_line(source: Measurement) -> None:
    parsed(source.arguments)


def bench(result: dict[str, Any], arguments: dict[str, Any]) -> None:
    engine = preset(arguments["preset"] or "default")
    assert (result["config"]["name"], result["config"]["R"]) == (engine.name, engine.R)
    if arguments["layer"] is not None:
        assert arguments["layer"] == ",".join(str(result["layer"][size]) for size in "HIBT")
    assert [level["mismatches"] for level in result["levels"]] == [0] * 5


def demo(result: dict[str, Any], arguments: dict[str, Any]) -> None:
    engine = preset(arguments["preset"] or "default")
    assert (result["config"]["name"], result["config"]["R"]) == (engine.name, engine.R)
    assert [mode["mismatches"] for mode in result["modes"]] == [0] * 4


def compare(result: dict[str, Any], arguments: dict[str, Any]) -> None:
    assert result["study"] == str(arguments["study"])
    study = tomllib.loads((ROOT / result["study"]).read_text(encoding="utf-8"))
    seeds = {run["name"]: run.get("seeds", study["seeds"]) for run in study["run"]}
    assert {run["name"]: run["seeds"] for run in result["runs"]} == seeds
    assert not result["failures"]


def speed(result: dict[str, Any], arguments: dict[str, Any]) -> None:
    assert all(result[name] == arguments[name] for name in ("threads", "window", "method", "repeats", "lanes"))
    sizes = [(int(H), int(B)) for H in arguments["hidden"].split(",") for B in arguments["batch"].split(",")]
    assert [(size["H"], size["B"]) for size in result["sizes"]] == sizes
    assert [(size["H"], size["B"]) for size in result["dropout"]] == sizes
    for size in result["sizes"]:
        assert [float(share) for share in size["pairs"]] == [float(share) for share in arguments["kept"].split(",")]


def build(result: dict[str, Any], arguments: dict[str, Any]) -> None:
    chosen = board(arguments["board"])
    assert (result["board"], result["config_digest"]) == (chosen.name, chosen.config.digest)
    assert result["clock_mhz"] == chosen.clocking().hz / 1e6
    if result["place_and_route"] == "run":
        assert [seed["seed"] for seed in result["seeds"]] == list(range(1, arguments["seeds"] + 1))
        assert result["bitstream"] and not result["refusal"]


def deploy(result: dict[str, Any], arguments: dict[str, Any]) -> None:
    check = result["check"]
    assert check["digest"] == preset(arguments["preset"]).digest
    assert (check["port"], check["seed"]) == (arguments["port"], arguments["seed"])
    assert [mode["mismatches"] for mode in check["modes"]] == [0] * 4


def train(result: dict[str, Any], arguments: dict[str, Any]) -> None:
    options = {"sieve": {"method": arguments["method"]}, "backend": {"kind": arguments["backend"]}}
    settings = settings_of(ROOT / arguments["config"], options).model_dump(mode="json")
    assert {name: value for name, value in result["settings"].items() if name != "sources"} == settings
    assert result["finished"] and result["records"][-1]["step"] == settings["training"]["steps"]
    assert result["measured"] == (settings["backend"]["kind"] == "simulated")


CHECKS: dict[str, Callable[[dict[str, Any], dict[str, Any]], None]] = {
    "bench": bench,
    "demo": demo,
    "compare": compare,
    "speed": speed,
    "build": build,
    "deploy": deploy,
    "train": train,
}


@pytest.mark.parametrize("source", MEASURED, ids=of_source)
def test_measurement_is_of_the_command(source: Measurement) -> None:
    CHECKS[source.verb](source.result(), parsed(source.arguments))


def test_measurements_are_those_of_the_tables() -> None:
    assert {path.stem for path in tables.MEASUREMENTS.iterdir()} == {source.name for source in MEASURED}


def test_a_device_in_the_loop_trains_as_golden_does() -> None:
    (block,) = (block for block in BLOCKS if block.kind == "loop")
    results = [source.result() for source in block.sources]
    for device, golden in zip(results[::2], results[1::2], strict=True):
        kinds = (device["settings"]["backend"].pop("kind"), golden["settings"]["backend"].pop("kind"))
        assert kinds == ("simulated", "golden")
        assert device["settings"] == golden["settings"]
        for a, b in zip(device["records"], golden["records"], strict=True):
            for name in ("step", "train_loss", "valid_loss", "rows", "elements", "saturations"):
                assert a[name] == b[name]


@pytest.mark.parametrize("study", ["char", "word"])
def test_what_was_aimed_at_was_reached_but_for_one(study: str) -> None:
    result = measurements()[study].result()
    mean = {run["name"]: {key: run[key]["mean"] for key in result["figures"]} for run in result["runs"]}
    element = mean["element sieve (Zhu 2016), 15 % of elements"]
    assert element["elements"] <= 0.2 and element["redundant"] > 0.5 and element["loss_change"] <= 0.01
    for name, share, loss in (
        ("row sieve, 20 %", 0.2, 0.01),
        ("stochastic row sieve, 20 %", 0.2, 0.02),
        ("stochastic row sieve, 10 %", 0.1, 0.02),
    ):
        assert round(mean[name]["rows"], 3) == share
        assert (mean[name]["loss_change"] <= loss) == ((study, share) != ("char", 0.1))
    dropout = mean["structured dropout (Sarma 2021), p = 0.5"]
    assert 1.23 <= dropout["cycles_ratio"] <= 1.64 and dropout["loss_change"] <= 0
    for name in (
        "dynamic sparse blocks (Liu 2021), 40 % of weights",
        "sampled block masks (Zhou 2021), 40 % of weights",
    ):
        assert round(mean[name]["cycles_ratio"], 2) == 2.5


# marks


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("demo of demo: make demo", "measurement demo: 'make demo' is no command of gradsieve"),
        ("demo of demo: gradsieve", "measurement demo: 'gradsieve' is no command of gradsieve"),
        ("demo of gradsieve demo", "must read NAME: gradsieve VERB ARGUMENTS, got 'gradsieve demo'"),
        ("demos of demo: gradsieve demo", "a table must be one of bench, demo, .*, got 'demos'"),
        ("latencies of demo: gradsieve demo", "a table must be one of bench, demo, .*, got 'latencies'"),
        ("demo of the code", "a table must be one of latencies, .*, got 'demo'"),
    ],
)
def test_a_mark_that_says_nothing_is_refused(mark: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rendered(f"<!-- begin table {mark} -->\n<!-- end table -->")


def test_a_name_of_two_commands_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    commands = ("gradsieve bench", "gradsieve bench --preset ptb")
    page.write_text("".join(f"<!-- begin table bench of a: {c} -->\n<!-- end table -->\n" for c in commands))
    monkeypatch.setattr(tables, "pages", lambda: [page])
    with pytest.raises(ValueError, match="measurement a must have one command"):
        measurements()


def test_what_is_not_measured_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MEASUREMENTS", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"demo\.json"):
        rendered("<!-- begin table demo of demo: gradsieve demo -->\n<!-- end table -->")


def test_only_measurements_can_be_named() -> None:
    words = [sys.executable, "-m", "docs.tables", "--measure", "bench_default", "nothing"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.search(r"--measure must be of bench_ptb, .*, got 'nothing'", done.stderr)


# measuring


def test_the_board_of_a_check_is_there_as_long_as_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tables, "MEASUREMENTS", tmp_path / "measurements")
    port = str(tmp_path / "port")
    good = Measurement("good", ("deploy", "--port", port, "--check", "--preset", "tiny"))
    tables.measure([good])
    deploy(good.result(), parsed(good.arguments))
    assert not Path(port).is_symlink()
    bad = Measurement("bad", (*good.arguments, "--baud", "none"))
    with pytest.raises(subprocess.CalledProcessError, match="deploy"):
        tables.measure([bad])
    assert not Path(port).is_symlink()
    Path(port).write_text("taken")
    with pytest.raises(subprocess.CalledProcessError, match="board"):
        tables.measure([good])


def test_a_training_can_be_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MEASUREMENTS", tmp_path / "measurements")
    (tmp_path / "checkpoint.pt").touch()
    config = tmp_path / "small.toml"
    config.write_text("[text]\nvalid_tokens = 100\n[model]\nhidden = 4\n[training]\nsteps = 2\nevaluate_every = 2\n")
    source = Measurement("small", ("train", "--config", str(config), "-o", str(tmp_path)))
    tables.measure([source])
    assert source.result()["records"][-1]["step"] == 2
