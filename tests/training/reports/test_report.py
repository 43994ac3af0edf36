"""The report of a training run: its figures, its edges, and its JSON."""

from __future__ import annotations

import json
import math
import re
import tomllib
from pathlib import Path

import pytest

from gradsieve.training.history import Work
from gradsieve.training.reports import report_plots
from gradsieve.training.reports.report import as_toml, read_result, write_report, write_result
from tests.training.reports.report_page import (
    LOSSES,
    MAPS,
    NUMBERS,
    ROWS,
    SETTINGS,
    layer,
    page,
    record,
    result,
    synthetic,
)


def test_figures_of_the_tiles(tmp_path: Path) -> None:
    # 100 steps at 40 % of the rows and 8 % of the elements, then 300 at 20 % and 2 %.
    run = result(record(100, rows=0.4, elements=0.08), record(400, rows=0.2, elements=0.02, valid_loss=4.5))
    dense = result(record(400, valid_loss=4.4), name="dense")
    tiles = page(tmp_path, run, dense).tiles
    assert list(tiles) == [
        "validation loss",
        "perplexity",
        "rows kept",
        "elements kept",
        "MACs skipped",
        "MACs redundant",
        "fewer engine cycles",
        "saturations",
    ]
    assert tiles["validation loss"] == ["4.500", "nats a token", "dense: 4.400 (+2.27 %)"]
    assert tiles["perplexity"] == ["90.02", "dense: 81.45"]  # e to the 4.5 and to the 4.4
    assert tiles["rows kept"] == ["25.0 %", "of all gate rows", "20.0 % at the end"]
    assert tiles["elements kept"] == ["3.50 %", "of all gate gradients", "2.00 % at the end"]
    assert tiles["MACs skipped"][0] == "50.0 %"  # (10 + 5) of 30 thousand a step are done
    assert tiles["MACs redundant"][0] == "60.0 %"  # (10 + 2) of 30
    assert tiles["fewer engine cycles"] == ["2.50×", "160 k, dense 400 k", "counted by the cycle model"]
    assert tiles["saturations"][0] == "1,600"
    better = page(tmp_path, dense, run).tiles["validation loss"]
    assert better[2] == "dense: 4.500 (−2.22 %)"


def test_figures_of_the_tables(tmp_path: Path) -> None:
    dense = result(record(8_000, seconds=7_384.0, backward_seconds=59.96), name="dense")
    found = page(tmp_path, result(record(100), record(400)), dense)
    cost, layers = found.tables
    assert cost == [
        ["", "this run", "the same, dense", "dense run"],
        ["steps", "400", "400", "8,000"],
        ["forward MACs", "4 M", "4 M", "80 M"],
        ["backward MACs", "2 M", "8 M", "40 M"],
        ["engine cycles", "160 k", "400 k", "3.2 M"],
        ["time of training", "3 min 20 s", "–", "2 h 3 min"],
        ["time of LSTM backward", "50 s", "–", "60 s"],
    ]
    heading = ["layer", "rows i", "rows f", "rows g", "rows o", "elements", "tau", "loss scale", "blocks", "columns"]
    assert layers == [
        heading,
        ["l0", "10.0 %", "20.0 %", "30.0 %", "40.0 %", "5.25 %", "0.00123", "2¹²", "100 %", "50.0 %"],
        ["l1", "0 %", "0.40 %", "100 %", "50.0 %", "5.25 %", "–", "–", "33.0 %", "50.0 %"],
    ]
    alone = page(tmp_path, result(record(400)))
    assert alone.tables[0][1] == ["steps", "400", "400"] and "dense run" not in alone.words


def test_says_what_was_trained(tmp_path: Path) -> None:
    words = page(tmp_path, result(record(1))).words
    assert (
        "An LSTM of 2 layers with 1.23 M parameters (H = 256, I = 128, B = 32, T = 35), trained on the words of "
        "wiki.train.txt for 3,000 steps on the golden backend with seed 7." in words
    )
    small = {
        "text": {"file": None, "level": "char"},
        "model": {"layers": 1, "hidden": 64, "embedding": None},
        "training": 3,
    }
    words = page(tmp_path, result(record(1), settings=small)).words
    assert "1 layer with 1.23 M parameters (H = 64, I = 64), trained on the characters of Python's own doc" in words
    assert "An LSTM with 1.23 M parameters. " in page(tmp_path, result(record(1), settings={})).words


def test_settings_are_toml(tmp_path: Path) -> None:
    odd = {"seed": 1, "a b": {"c": [1, 2.5, "x"], "d": {}, "t": [{"e": True}]}, "inf": math.inf, "q": '"\\\n</pre>é'}
    found = page(tmp_path, result(record(1), settings=SETTINGS | odd))
    expected = SETTINGS | odd
    assert "# valid is not set" in found.pre
    without = {k: {a: b for a, b in v.items() if b is not None} if k == "text" else v for k, v in expected.items()}
    assert tomllib.loads(found.pre) == without
    assert as_toml({}) == ""


def test_a_whole_run_has_every_plot(tmp_path: Path) -> None:
    found = page(tmp_path, synthetic("row sieve", 0.2), synthetic("dense", 1.0))
    assert found.plots == LOSSES + ROWS + MAPS + NUMBERS
    kept = float(found.tiles["rows kept"][2].split()[0])
    assert 18 < kept < 22 and "Grey: every row kept." in found.words


def test_names_are_escaped(tmp_path: Path) -> None:
    bad = "<script>alert('x')</script> & \"quoted\" $x^2$"
    records = [record(k, saturations={bad: k}, layers=(layer(bad), layer("l1"))) for k in (1, 2)]
    settings = {"text": {"file": f"/{bad}", "level": bad}, "backend": {"kind": bad}, bad: {bad: bad}}
    found = page(tmp_path, result(*records, name=bad, settings=settings), result(*records, name=bad))
    assert f"{bad}: training report" in found.words and f"{bad}: validation" in found.legends
    assert found.tables[1][1][0] == bad and f"{bad} 2." in found.words and f"on the {bad} backend" in found.words
    assert tomllib.loads(found.pre) == settings


def test_float_backend_and_one_record(tmp_path: Path) -> None:
    floats = [record(k, saturations={}, layers=(layer("l0", tau=None, scale=None),)) for k in (1, 2)]
    found = page(tmp_path, result(*floats))
    assert found.tiles["saturations"][0] == "none" and "Saturations: none" in found.words
    assert "This method has no threshold." in found.words and found.plots == LOSSES + ROWS + MAPS[:1]
    none = page(tmp_path, result(*(record(k, saturations={"gate": 0}) for k in (1, 2))))
    assert none.tiles["saturations"][0] == "0" and "No value left its number format." in none.words
    one = page(tmp_path, result(record(7)))
    assert one.plots == [] and "There is one record only" in one.words and len(one.tables) == 2
    assert "error 21; gate 7." in one.words and one.tiles["rows kept"][0] == "25.0 %"


def test_losses_that_are_not_there(tmp_path: Path) -> None:
    found = page(
        tmp_path, result(record(10, valid_loss=None), record(20, valid_loss=None)), result(record(9), name="d")
    )
    assert found.tiles["validation loss"] == ["–", "not evaluated"] == found.tiles["perplexity"]
    assert "row sieve, 20 %: training" in found.legends and "row sieve, 20 %: validation" not in found.legends
    early = page(tmp_path, result(record(0, valid_loss=3.0), record(0, valid_loss=None)), result())
    assert early.tiles["validation loss"] == ["3.000", "nats a token", "after step 0, the last evaluated"]
    diverged = page(tmp_path, result(record(10), record(20), record(30, train_loss=math.nan, valid_loss=math.inf)))
    assert diverged.tiles["validation loss"][0] == "not finite" == diverged.tiles["perplexity"][0]
    assert diverged.words.count("Not shown: records whose loss is no finite number.") == 3
    assert page(tmp_path, result(record(2, valid_loss=800.0))).tiles["perplexity"][0] == "not finite"


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "No gate row was kept"), (1.0, "Every gate row was kept"), (1 - 1e-9, "Every gate")]
)
def test_rows_all_alike(tmp_path: Path, share: float, text: str) -> None:
    gates, times = (share,) * 4, (share,) * 3
    records = [record(k, rows=share, elements=0.0, layers=(layer("l0", gates, rows_by_time=times),)) for k in (1, 2)]
    found = page(tmp_path, result(*records))
    assert text in found.words and found.plots == LOSSES + NUMBERS
    assert found.tables[1][1][1] == f"{100 * share:.0f} %"


def test_work_that_was_not_counted(tmp_path: Path) -> None:
    found = page(tmp_path, result(record(0, work=Work()), record(0, work=Work())))
    assert found.tiles["MACs skipped"] == ["–", "no work was counted"] == found.tiles["MACs redundant"]
    assert found.tiles["fewer engine cycles"] == ["–", "no cycles were counted"]
    assert found.tiles["rows kept"] == ["–", "no step was made"]
    assert "No engine cycles were counted in this run." in found.words
    assert "No backward MACs were counted in this run." in found.words and LOSSES[1] not in found.plots
    assert found.tables[0][3] == ["backward MACs", "–", "–"]


def test_who_counted_the_cycles(tmp_path: Path) -> None:
    measured = result(record(1), record(2), measured=True)
    mixed = page(tmp_path, measured, result(record(1), record(2)))
    assert mixed.tiles["fewer engine cycles"][2] == "counted by the engine's RTL"
    text = "This run's cycles are counted by the engine's RTL, the dense run's by the cycle model."
    assert text in mixed.words and text not in page(tmp_path, measured, measured).words


def test_odd_records(tmp_path: Path) -> None:
    assert "The run recorded nothing" in page(tmp_path, result()).words
    stopped = page(tmp_path, result(record(200), finished=False)).words
    assert "stopped after step 200 of 3,000" in stopped
    bare = page(tmp_path, result(record(1, layers=()), record(2, layers=())))
    assert bare.plots == [*LOSSES, "Saturations so far"] and bare.words.count("No layer was recorded.") == 1
    # A layer that comes later, time steps of no window, a threshold of 0, and more lines than colours.
    many = tuple(layer(f"l{n}", tau=0.0 if n else 1e-9, rows_by_time=()) for n in range(11))
    kinds = {f"kind{n}": 9 - n for n in range(9)}
    found = page(
        tmp_path, result(record(1, layers=many[:1]), *(record(k, layers=many, saturations=kinds) for k in (2, 3)))
    )
    assert "Records with tau = 0, which keep every row, are left out." in found.words
    assert "4 other kinds" in found.legends and "kind5" not in found.legends
    assert found.plots == LOSSES + ROWS + NUMBERS
    assert found.tables[1][1][6] == "1·10⁻⁹" and found.tables[1][2][6] == "0"
    styles = {
        (line.colour, line.dash) for line in report_plots.by_layer([record(k, layers=many) for k in (1, 2)]).legend
    }
    assert len(styles) == 11


def test_json_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    run = result(
        record(10, valid_loss=None), record(20, train_loss=1 / 3, saturations={}), measured=True, finished=False
    )
    write_result(run, path)
    assert read_result(path) == run
    diverged = result(record(10, train_loss=math.inf, valid_loss=math.nan), record(20, train_loss=-math.inf))
    write_result(diverged, path)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    json.loads(path.read_text(), parse_constant=refuse)
    again = read_result(path).records
    assert again[0].train_loss == math.inf and again[1].train_loss == -math.inf
    assert again[0].valid_loss is not None and math.isnan(again[0].valid_loss)
    write_result(result(settings={"text": {"file": Path("a/b")}}), path)
    assert read_result(path).settings == {"text": {"file": "a/b"}}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_result(result(record(1)), path)
    with pytest.raises(UnicodeEncodeError):
        write_report(result(record(1), name="\ud800"), path)
    assert read_result(path) == result(record(1)) and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is not JSON: EOF while parsing a value at line 1 column 0"),
        (b'{"name": "x", ', "is not JSON: EOF while parsing"),
        (b"\xff\xfe", "is not JSON: no UTF-8 text"),
        (b"[]", "is not a result of a training: must be a table of fields, got []"),
        (b"[" * 10_000, "is not JSON: recursion limit exceeded"),
        (b'{"name": "x"}', "is not a result of a training: settings is missing"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, content: bytes | None, why: str) -> None:
    path = tmp_path / "run.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path} {why}")):
        read_result(path)


def test_files_that_say_too_much_or_the_wrong_thing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_result(result(record(1), record(2)), path)
    whole = json.loads(path.read_text())
    whole["records"][1]["step"] = "two"
    path.write_text(json.dumps(whole))
    with pytest.raises(
        ValueError, match=r"run\.json is not a result of a training: records\[1\]\.step must be an integer, got 'two'"
    ):
        read_result(path)
    path.write_text(json.dumps(whole | {"records": [], "extra": 1}))
    with pytest.raises(ValueError, match=r"unknown field \'extra\'; there are name, settings, records"):
        read_result(path)
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        read_result(tmp_path)
