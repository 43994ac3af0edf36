"""The figures, tables and page of the comparison, by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from gradsieve.training.studies.cluster import Outcome
from gradsieve.training.studies.comparison import FIGURES, NOT_REACHED, compare, cost_to_reach
from gradsieve.training.studies.comparison_page import course, write_page
from gradsieve.training.studies.comparison_table import TABLES, as_json, as_markdown, cells, markdown, rows_of
from gradsieve.training.studies.study import Study
from tests.training.reports.report_page import Page
from tests.training.studies.study_stand_in import dense, record, result, study

BASE = {
    1: [
        record(10, 3.0, forward=100, backward=200, elements=200, dense_forward=100, dense_backward=200, cycles=1000),
        record(40, 2.0, forward=400, backward=800, elements=800, dense_forward=400, dense_backward=800, cycles=4000),
    ],
    2: [record(40, 2.5, forward=400, backward=800, elements=800, dense_forward=400, dense_backward=800, cycles=4000)],
}
OWN = {
    1: [
        record(10, None, 1.0, 0.5, forward=100, backward=200, dense_forward=100, dense_backward=200, cycles=1000),
        record(20, 2.2, 0.6, 0.3, forward=200, backward=240, dense_forward=200, dense_backward=400, cycles=1200),
        record(
            40,
            1.8,
            0.2,
            0.1,
            forward=400,
            backward=320,
            elements=80,
            dense_forward=400,
            dense_backward=800,
            cycles=1600,
        ),
    ],
    2: [
        record(
            40,
            2.6,
            0.3,
            0.2,
            forward=400,
            backward=200,
            elements=40,
            dense_forward=400,
            dense_backward=800,
            cycles=2000,
        )
    ],
}
HAND: dict[str, dict[int, float]] = {
    "loss": {1: 1.8, 2: 2.6},
    "loss_change": {1: 1.8 / 2.0 - 1, 2: 2.6 / 2.5 - 1},
    "rows": {1: (10 * 1.0 + 10 * 0.6 + 20 * 0.2) / 40, 2: 0.3},
    "elements": {1: (10 * 0.5 + 10 * 0.3 + 20 * 0.1) / 40, 2: 0.2},
    "skipped": {1: 1 - 720 / 1200, 2: 1 - 600 / 1200},
    "redundant": {1: 1 - 480 / 1200, 2: 1 - 440 / 1200},
    "macs_ratio": {1: 1200 / 720, 2: 1200 / 600},
    "cycles_ratio": {1: 4000 / 1600, 2: 4000 / 2000},
    "backward_ratio": {1: 1.0, 2: 1.0},
    # Seed 1 comes to 2.0 half way between its evaluations at 20 and 40; seed 2 never to 2.5.
    "iso_macs": {1: 280 / 800, 2: NOT_REACHED},
    "iso_cycles": {1: 1400 / 4000, 2: NOT_REACHED},
    "iso_steps": {1: 30 / 40, 2: NOT_REACHED},
}


def by_hand() -> tuple[Study, list[Outcome]]:
    found = study(dense(), {"name": "own", "model": {"hidden": 3}, "seeds": [1, 2, 3]}, seeds=[1, 2])
    records = {"dense": BASE, "own": OWN | {3: OWN[1]}}
    return found, [Outcome(task, result(*records[task.run][task.seed])) for task in found.tasks]


def test_figures_by_hand() -> None:
    own = compare(*by_hand()).rows[1]
    assert set(own.cells) == set(HAND)
    for figure in FIGURES:
        values = own.cells[figure.key].values
        # Seed 3 has no baseline: only what speaks of the run itself is known of it.
        expected = HAND[figure.key] | ({3: HAND[figure.key][1]} if figure.alone else {})
        assert dict(values) == pytest.approx(expected), figure.key
    change = own.cells["loss_change"]
    assert change.mean == pytest.approx((-0.1 + 0.04) / 2)
    assert change.spread == pytest.approx(0.14 / math.sqrt(2))
    assert own.cells["iso_steps"].mean == pytest.approx(0.75)
    assert own.cells["iso_steps"].spread is None


def test_the_baseline_against_itself() -> None:
    base = compare(*by_hand()).rows[0]
    for key in ("macs_ratio", "cycles_ratio", "backward_ratio", "iso_macs", "iso_cycles", "iso_steps"):
        assert dict(base.cells[key].values) == {1: 1.0, 2: 1.0}
    # A baseline that was as good before its end needed less than all of its work.
    found = study(dense())
    early = result(record(10, 3.0, backward=10), record(20, 1.0, backward=20), record(40, 2.0, backward=40))
    (row,) = compare(found, [Outcome(found.tasks[0], early)]).rows
    assert row.cells["iso_macs"].mean == pytest.approx(15 / 40)
    assert not row.cells["iso_cycles"].values  # none was counted


def test_backward_time_is_that_of_a_step() -> None:
    found = study(dense(), {"name": "own", "model": {"hidden": 3}})
    fast = record(40, 2.0).model_copy(update={"backward_seconds": 0.5})
    records = {"dense": record(10, 2.0), "own": fast}
    rows = compare(found, [Outcome(task, result(records[task.run])) for task in found.tasks]).rows
    assert rows[1].cells["backward_ratio"].mean == pytest.approx((0.5 / 10) / (0.5 / 40))


@pytest.mark.parametrize(
    ("losses", "cost"),
    [
        ([3.0, 2.5, 1.5], 25),
        ([3.0, 2.0, 1.0], 20),
        ([1.5, 1.0, 0.5], 10),
        ([3.0, None, 1.0], 20),
        ([3.0, 1.5, 2.5, 1.0], 10 + 10 * 2 / 3),
        ([math.nan, 1.0, 0.5], 20),
        ([math.inf, 1.0], 20),
        ([3.0, 2.5, 2.1], NOT_REACHED),
        ([math.nan, math.nan], NOT_REACHED),
        ([], NOT_REACHED),
    ],
)
def test_cost_to_reach_a_loss_of_2(losses: list[float | None], cost: float) -> None:
    records = [record(10 * k, loss) for k, loss in enumerate(losses, start=1)]
    assert cost_to_reach(result(*records), 2.0, lambda r: r.step) == pytest.approx(cost)


def test_diverged_trainings_are_said_to_be() -> None:
    found = study(dense(), {"name": "own", "model": {"hidden": 3}}, seeds=[1, 2])
    losses = {("dense", 1): 2.0, ("dense", 2): math.inf, ("own", 1): math.nan, ("own", 2): math.nan}
    outcomes = [Outcome(task, result(record(10, losses[task.run, task.seed], backward=1))) for task in found.tasks]
    first, second = compare(found, outcomes).rows
    text = [cells(row, *TABLES[0][1:])[2].replace("\u00a0", " ") for row in (first, second)]
    assert text == ["2.000 ± – (1 of 2 seeds)", "not finite"]
    assert second.cells["iso_macs"].values == {1: NOT_REACHED}
    assert first.cells["loss"].not_reached == []  # infinity is no cost here
    json.dumps(as_json(compare(found, outcomes)), allow_nan=False)


# forms


def test_every_form_has_the_same_rows(tmp_path: Path) -> None:
    compared = compare(*by_hand())
    write_page(compared, tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    document = as_markdown(compared).replace("\u00a0", " ")
    for place, (_, headings, figures) in enumerate(TABLES):
        rows = [[cell.replace("\u00a0", " ") for cell in cells(row, headings, figures)] for row in compared.rows]
        assert page.tables[place][1:] == rows
        for row in rows:
            assert f"| {' | '.join(row)} |" in document
    assert page.tables[0][2][:4] == ["own", "1, 2, 3", "2.067 ± 0.462", "−3.00 % ± 9.90 (2 of 3 seeds)"]
    assert page.tables[1][2][2:] == [
        "1.83× ± 0.24 (2 of 3 seeds)",
        "2.25× ± 0.35 (2 of 3 seeds)",
        "1.00× ± 0.00 (2 of 3 seeds)",
        "0.35× ± – (1 of 3 seeds)",
        "0.35× ± – (1 of 3 seeds)",
        "0.75× ± – (1 of 3 seeds)",
    ]
    data = as_json(compared)
    assert data["runs"][1]["iso_macs"]["values"] == {"1": pytest.approx(0.35), "2": None}
    assert data["runs"][1]["iso_macs"]["not_reached"] == [2]
    assert page.plots == [] and page.words.count("fewer than two points to plot") == 2  # shared by both seeds


def test_the_json_has_what_the_tables_show() -> None:
    found = study(dense(), {"name": "a | b", "model": {"hidden": 3}}, {"name": "failed"}, seeds=[1, 2])
    losses = {"dense": (2.0, 1.0), "a | b": (math.nan, 1.5)}  # no number, and not reached
    outcomes = [
        Outcome(task, result(record(10, losses[task.run][task.seed - 1], backward=1)))
        if task.run in losses
        else Outcome(task, None, "no memory")
        for task in found.tasks
    ]
    for compared in (compare(*by_hand()), compare(found, outcomes)):
        rows = rows_of(json.loads(json.dumps(as_json(compared))))
        tables = [markdown(rows, headings, figures) for _, headings, figures in TABLES]
        assert as_markdown(compared).startswith("\n".join(tables))
        assert [row.failed for row in rows] == [row.failed for row in compared.rows]


def test_a_loss_that_is_never_reached_is_said_so() -> None:
    found = study(dense(), {"name": "own", "model": {"hidden": 3}})
    losses = {"dense": 2.0, "own": 2.1}
    outcomes = [Outcome(task, result(record(10, losses[task.run], backward=1))) for task in found.tasks]
    text = cells(compare(found, outcomes).rows[1], *TABLES[1][1:])
    assert [text[5], text[7]] == ["not reached", "not reached"]


def test_the_course_is_that_of_the_steps_all_seeds_share(tmp_path: Path) -> None:
    found = study(dense(), seeds=[1, 2])
    losses = {1: {10: 4.0, 20: 3.0, 30: 2.0}, 2: {10: 3.0, 15: 2.9, 30: 1.0}}
    outcomes = [
        Outcome(task, result(*(record(s, loss, backward=s * task.seed) for s, loss in losses[task.seed].items())))
        for task in found.tasks
    ]
    (row,) = compare(found, outcomes).rows
    drawn = course(row, lambda r: r.work.backward, 0)
    assert list(drawn.line.x) == [15, 45]
    assert list(drawn.line.y) == [3.5, 1.5]
    assert drawn.low.tolist() == [3.0, 1.0]
    assert drawn.high.tolist() == [4.0, 2.0]
    write_page(compare(found, outcomes), tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    page = Page(html)
    assert page.plots == ["Validation loss against steps", "Validation loss against backward MACs"]
    assert page.legends == ["dense", "dense"]
    assert "opacity: 0.18" in html  # the bands
