"""What makes tables of measurements, beside what the commands themselves print and write."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest

from docs.renderers import RENDERERS
from docs.tables import MEASUREMENTS
from gradsieve.cli.application import main
from gradsieve.training.studies.cluster import Outcome
from gradsieve.training.studies.comparison import Comparison, compare
from gradsieve.training.studies.comparison_table import as_json, as_markdown
from tests.training.studies.study_stand_in import dense, record, result, study


def lines(table: str) -> list[list[str]]:
    """The cells of a Markdown table's rows, without the rule."""
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()]
    return [rows[0], *rows[2:]]


def printed(screen: str) -> list[list[str]]:
    """The cells of every row below a heading, of all tables on a screen."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in screen.splitlines() if line.startswith("│")]


def compared(source: str, **losses: float) -> Comparison:
    """A comparison of runs of one seed, by their losses; the first is the baseline."""
    first, *others = losses
    runs = [dense(name=first), *({"name": name, "model": {"hidden": k}} for k, name in enumerate(others, start=3))]
    found = study(*runs)
    work = {"forward": 1, "backward": 2, "elements": 1, "dense_forward": 1, "dense_backward": 4, "cycles": 5}
    outcomes = [Outcome(task, result(record(10, losses[task.run], **work))) for task in found.tasks]
    comparison = compare(found, outcomes)
    return Comparison(source, comparison.rows, comparison.failures)


def test_speed_is_what_the_command_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "speed.json"
    arguments = ["speed", "--hidden", "16,24", "--batch", "4", "--kept", "1,0.25", "--window", "5", "--repeats", "1"]
    assert main([*arguments, "--dropout", "0.5", "--json", str(file)]) == 0
    rows = printed(capsys.readouterr().out)
    measured = json.loads(file.read_text())
    speed, dropout = lines(RENDERERS["speed"](measured)), lines(RENDERERS["dropout"](measured))
    assert speed[0] == ["H, B", "PyTorch, ms", "100 % kept", "25 % kept", "break even"]
    assert dropout[0] == [
        "H, B",
        *(f"{what}: {p}" for what in ("x", "x and h") for p in ("forward", "backward", "both")),
    ]
    steps = lines(RENDERERS["steps"](measured))
    assert steps[0] == ["H, B", "25 %: allowed", "25 %: in GEMMs", "25 %: forward", "25 %: both"]
    cells = {cell for row in rows[:-2] for cell in row}
    assert all(cells.issuperset(row) for row in (*speed[1:], *steps[1:]))
    assert rows[-2:] == dropout[1:]


def test_each_share_of_rows_has_its_speedup() -> None:
    pairs = {
        "1.0": {"backward": [0.001, 0.002], "speedup": 0.5},
        "0.25": {"backward": [0.004, 0.003], "speedup": 0.75},
    }
    sizes = [{"H": 8, "B": 2, "pairs": pairs, "break_even": even} for even in (None, 0.123)]
    assert lines(RENDERERS["speed"]({"sizes": sizes}))[1:] == [
        ["8, 2", "1.0", "0.50", "0.75", "never"],
        ["8, 2", "1.0", "0.50", "0.75", "12 %"],
    ]


def test_steps_without_compiled_passes_know_no_share_of_gemms() -> None:
    pair = {"allowed": 4.0, "gemm_share": None, "forward_speedup": 0.5, "total": 0.75}
    sizes = [{"H": 8, "B": 2, "pairs": {"1.0": pair, "0.25": pair | {"gemm_share": share}}} for share in (None, 0.5)]
    assert lines(RENDERERS["steps"]({"sizes": sizes}))[1:] == [
        ["8, 2", "4.00", "–", "0.50", "0.75"],
        ["8, 2", "4.00", "50 %", "0.50", "0.75"],
    ]


def test_comparisons_are_what_the_command_writes() -> None:
    comparison = compared("docs/studies/a.toml", dense=2.0, other=1.5)
    written = as_json(comparison)
    parts = as_markdown(comparison).split("\n\n")
    assert [RENDERERS["results"](written).strip(), RENDERERS["costs"](written).strip()] == parts[:2]


def test_methods_of_studies_stand_side_by_side() -> None:
    one = as_json(compared("docs/studies/one.toml", dense=2.0, only=1.5))
    two = as_json(compared("docs/studies/two.toml", dense=4.0, other=5.0))
    heading, *rows = lines(RENDERERS["methods"](one, two).replace("\u00a0", " "))
    assert heading[:3] == ["run", "loss against baseline, one", "loss against baseline, two"]
    assert heading[3:] == ["engine cycles, one", "engine cycles, two", "MACs redundant, one", "MACs redundant, two"]
    assert rows == [
        ["dense", "+0.00 % ± –", "+0.00 % ± –", "1.00× ± –", "1.00× ± –", "60.0 % ± –", "60.0 % ± –"],
        ["only", "−25.00 % ± –", "–", "1.00× ± –", "–", "60.0 % ± –", "–"],
        ["other", "–", "+25.00 % ± –", "–", "1.00× ± –", "–", "60.0 % ± –"],
    ]


def test_builds_of_several_seeds_have_a_range() -> None:
    one = json.loads((MEASUREMENTS / "build_ulx3s.json").read_text())
    one["fmax_mhz"] = dict.fromkeys(("minimum", "median", "best"), 125.75)
    one["seeds"] = [{"seed": 1}]
    three = copy.deepcopy(one)
    three["fmax_mhz"] = {"minimum": 100.04, "median": 110.0, "best": 120.06}
    three["seeds"] = [{"seed": seed} for seed in (1, 2, 3)]
    three["seconds"] = {"synthesis": 5.0, **{f"placing and routing, seed {n}": 1000.0 * n for n in (2, 1, 3)}}
    three["critical_path"] |= {"logic_ns": 1.0, "routing_ns": 3.0}
    heading, first, second = lines(RENDERERS["builds"](one, three))
    of_one, of_three = dict(zip(heading, first, strict=True)), dict(zip(heading, second, strict=True))
    assert (of_one["routed Fmax"], of_one["seeds"]) == ("125.8 MHz", "1")
    assert of_three["routed Fmax"] == "100.0 to 120.1 MHz"
    assert of_three["place and route, seconds a seed"] == "1,000 to 3,000"
    assert (of_three["seeds"], of_three["wire of the critical path"]) == ("3", "75 %")
    assert of_three["LUTs"] == of_one["LUTs"]
