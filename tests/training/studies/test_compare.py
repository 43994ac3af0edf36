"""Studies: what a TOML expands to, what runs and what does not, and the figures of the comparison by hand."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster

import training.trainer
from tests.training.reports.report_page import Page
from tests.training.studies import study_stand_in as stand_in
from tests.training.studies.study_stand_in import record, result
from training.errors import SettingsError
from training.settings import make
from training.studies.cluster import ClusterError, Outcome, attempt, finished, run_study
from training.studies.comparison import FIGURES, NOT_REACHED, compare, cost_to_reach
from training.studies.comparison_page import course, write_page
from training.studies.comparison_table import TABLES, as_json, as_markdown, cells
from training.studies.study import Study, make_study, read_study

HERE = Path("/nowhere")
SMALL = {"training": {"steps": 10}}


def study(*runs: dict[str, Any], **top: Any) -> Study:
    return make_study({"base": SMALL, "run": list(runs)} | top, HERE, "study.toml")


def dense(**changes: Any) -> dict[str, Any]:
    return {"name": "dense"} | changes


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=":0"
    ) as cluster:
        yield cluster.scheduler_address


def calls(out: Path) -> dict[str, list[str]]:
    return {file.parent.name: file.read_text().split() for file in out.glob(f"runs/*/{stand_in.CALLS}")}


# expansion


def test_a_grid_is_every_combination_of_its_values_over_base_and_run(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text("""
        baseline = "sieve, sieve.target 0.2, model.hidden 8"
        seeds = [3, 1]
        base.training.steps = 7
        base.model.hidden = 5
        [[run]]
        name = "dense"
        seeds = [1]
        baseline = "dense"
        [[run]]
        name = "sieve"
        sieve = { method = "row" }
        grid = { "sieve.target" = [0.1, 0.2], model.hidden = [8, 9] }
    """)
    found = read_study(file)
    names = [f"sieve, sieve.target {t}, model.hidden {h}" for t in (0.1, 0.2) for h in (8, 9)]
    assert [run.name for run in found.runs] == ["dense", *names]
    assert [run.baseline for run in found.runs] == ["dense", *[names[2]] * 4]
    seeds = [[task.seed for task in run.tasks] for run in found.runs]
    assert seeds == [[1], [3, 1], [3, 1], [3, 1], [3, 1]]
    expected = {
        "name": names[3],
        "model": {"hidden": 9},
        "training": {"steps": 7, "seed": 1},
        "sieve": {"method": "row", "target": 0.2},
    }
    assert found.runs[4].tasks[1].settings == make(expected)
    assert found.runs[0].tasks[0].settings == make(
        {"name": "dense", "model": {"hidden": 5}, "training": {"steps": 7, "seed": 1}}
    )
    assert [(task.run, task.seed) for task in found.tasks[:6]] == [
        ("dense", 1),
        *((name, 3) for name in names),
        (names[0], 1),
    ]


def test_the_first_run_is_the_baseline_and_the_seed_1_unless_it_says_otherwise() -> None:
    found = study(dense(), {"name": "other", "model": {"hidden": 3}})
    assert [(run.baseline, [task.seed for task in run.tasks]) for run in found.runs] == [("dense", [1])] * 2


def test_folders_name_run_seed_and_settings() -> None:
    name = "Row – sieve, 20 %! " + "x" * 300
    (task,) = study(dense(name=name, seeds=[7])).tasks
    assert task.folder == f"row-sieve-20-{'x' * 47}-seed7-{task.settings.digest[:8]}"
    (other,) = study(dense(name=name, seeds=[7], model={"hidden": 3})).tasks
    assert other.folder != task.folder
    assert study(dense(name="–")).tasks[0].folder.startswith("run-seed1-")


def test_files_are_relative_to_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "studies"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    (folder / "study.toml").write_text('[[run]]\nname = "dense"\ntext = { file = "a.txt" }')
    monkeypatch.chdir(tmp_path)
    (task,) = read_study(Path("studies/study.toml")).tasks
    assert task.settings.text.file == folder / "a.txt"


ERRORS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no runs": ({"run": []}, ["study.toml", "run", "[]"]),
    "no run at all": ({}, ["run: missing"]),
    "unknown at the top": ({"run": [dense()], "seed": 1}, ["seed: there is no such setting", "baseline, seeds, base"]),
    "seed twice": ({"run": [dense()], "seeds": [1, 2, 1]}, ["seeds", "[1, 2, 1]", "1 is there twice"]),
    "no seeds": ({"run": [dense(seeds=[])]}, ["run 'dense'", "seeds", "[]"]),
    "negative seed": ({"run": [dense(seeds=[-1])]}, ["run 'dense'", "seeds.0: -1 is not accepted"]),
    "seed as a setting": ({"run": [dense(training={"seed": 4})]}, ["run 'dense'", "training.seed = 4", "seeds = [1"]),
    "seed in the grid": ({"run": [dense(grid={"training.seed": [4]})]}, ["training.seed = 4", "seeds = [1"]),
    "name in base": ({"run": [dense()], "base": {"name": "x"}}, ["base.name = 'x' is not accepted"]),
    "no name": ({"run": [dense(), {"seeds": [1]}]}, ["run 2: name: missing"]),
    "unknown in a run": ({"run": [dense(seive={})]}, ["run 'dense': seive: there is no such", "grid, text, model"]),
    "bad setting": ({"run": [dense(model={"hidden": 0})]}, ["run 'dense': model.hidden: 0 is not accepted"]),
    "unknown setting": ({"run": [dense(model={"size": 1})]}, ["run 'dense': model.size: there is no such", "hidden"]),
    "bad grid value": (
        {"run": [dense(sieve={"method": "row"}, grid={"sieve.target": [0.1, 7]})]},
        ["run 'dense'", "sieve.target: 7 is not accepted"],
    ),
    "unknown grid key": ({"run": [dense(grid={"model.size": [1]})]}, ["model.size: there is no such", "hidden"]),
    "grid key without a section": ({"run": [dense(grid={"hidden": [1]})]}, ["grid key 'hidden'", "'sieve.target'"]),
    "grid key of a section": ({"run": [dense(grid={"sieve": [1]})]}, ["grid key 'sieve'", "'sieve.target'"]),
    "grid of one value": ({"run": [dense(grid={"model.hidden": 3})]}, ["run 'dense'", "grid.model.hidden: 3 is not"]),
    "empty grid": ({"run": [dense(grid={"model.hidden": []})]}, ["run 'dense'", "grid.model.hidden: [] is not"]),
    "name twice": ({"run": [dense(), dense(model={"hidden": 3})]}, ["run 'dense'", "there twice"]),
    "value twice": ({"run": [dense(grid={"model.hidden": [3, 3]})]}, ["run 'dense, model.hidden 3'", "twice"]),
    "folder twice": ({"run": [dense(), dense(name="Dense!")]}, ["'dense' and 'Dense!'", "same settings"]),
    "unknown baseline": ({"run": [dense()], "baseline": "none"}, ["baseline 'none' is not", "'dense'"]),
    "unknown baseline of a run": ({"run": [dense(baseline="no")]}, ["run 'dense': baseline 'no' is not", "'dense'"]),
    "other text": (
        {"run": [dense(), {"name": "words", "text": {"level": "word"}}]},
        ["run 'words'", "not that of its baseline 'dense'"],
    ),
    "no such file": ({"run": [dense(text={"file": "a.txt"})]}, ["text.file = 'a.txt'", "/nowhere/a.txt is no file"]),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_name_the_run_and_quote_the_value(case: str) -> None:
    data, parts = ERRORS[case]
    with pytest.raises(SettingsError) as error:
        make_study(data, HERE, "study.toml")
    for part in ["study.toml", *parts]:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_a_study_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingsError, match=r"/nowhere/study\.toml: cannot be read"):
        read_study(HERE / "study.toml")


# running


def test_finished_runs_are_not_repeated_and_others_go_on(tmp_path: Path, scheduler: str) -> None:
    found = study(dense(), {"name": "half", "training": {"rate": 3}}, seeds=[1, 2])
    said: list[Outcome] = []
    first = run_study(found, tmp_path, stand_in.train, scheduler=scheduler, ended=said.append)
    assert [o.task for o in first] == found.tasks
    assert sorted((o.task.run, o.task.seed) for o in said) == [("dense", 1), ("dense", 2), ("half", 1), ("half", 2)]
    assert [o.result is not None for o in first] == [True, False, True, False]
    assert "is not there, or not finished" in first[1].error
    second = run_study(found, tmp_path, stand_in.train, scheduler=scheduler)
    assert [(o.result is not None, o.reused) for o in second] == [(True, True), (True, False)] * 2
    assert first[0].result == second[0].result
    third = run_study(found, tmp_path, stand_in.train, scheduler="tcp://127.0.0.1:1")  # none is needed
    assert all(o.reused for o in third)
    made = calls(tmp_path)
    assert {folder: len(lines) for folder, lines in made.items()} == {
        task.folder: 2 if task.run == "half" else 1 for task in found.tasks
    }
    assert {line for lines in made.values() for line in lines} == {"True"}


def test_other_settings_in_the_folder_are_not_taken_for_the_run(tmp_path: Path, scheduler: str) -> None:
    found = study(dense())
    (task,) = found.tasks
    folder = tmp_path / "runs" / task.folder
    folder.mkdir(parents=True)
    stand_in.train(make({"training": {"steps": 3}}), folder, resume=True, stop=lambda: False)
    (outcome,) = run_study(found, tmp_path, stand_in.train, scheduler=scheduler)
    assert not outcome.reused
    assert outcome.result is not None and outcome.result.last.step == 10
    (folder / "result.json").write_text("{")
    (outcome,) = run_study(found, tmp_path, stand_in.train, scheduler=scheduler)
    assert outcome.result is not None and not outcome.reused


def test_a_failing_run_leaves_the_others_alone(tmp_path: Path, scheduler: str) -> None:
    bad = {"name": "bad", "training": {"rate": 1}}
    found = study(dense(), bad, {"name": "empty", "training": {"rate": 2}}, {"name": "good", "model": {"hidden": 3}})
    outcomes = run_study(found, tmp_path, stand_in.train, scheduler=scheduler)
    assert [o.result is not None for o in outcomes] == [True, False, False, True]
    assert outcomes[1].error == "ValueError: a rate of 1 is too much"
    assert "a rate of 1\nis too much" in (tmp_path / "runs" / outcomes[1].task.folder / "error.txt").read_text()
    assert f"{outcomes[2].task.folder}/result.json is not there" in outcomes[2].error
    compared = compare(found, outcomes)
    assert [(o.task.run, o.error) for o in compared.failures] == [(o.task.run, o.error) for o in outcomes[1:3]]
    assert cells(compared.rows[1], *TABLES[0][1:])[:3] == ["bad", "none (1 failed)", "–"]


def test_a_stopped_study_begins_nothing(tmp_path: Path) -> None:
    (task,) = study(dense()).tasks
    stop = tmp_path / "runs" / "stop"
    stop.parent.mkdir()
    stop.touch()
    assert "stopped" in attempt(stand_in.train, task, stop.parent / task.folder, stop)
    stop.unlink()
    assert attempt(stand_in.train, task, stop.parent / task.folder, stop) == ""
    assert calls(tmp_path) == {task.folder: ["True"]}


@pytest.mark.parametrize(
    ("address", "reason"),
    [("tcp://127.0.0.1:1", "refused"), ("nonsense", "missing port"), ("tcp://127.0.0.1:x", "x")],
)
def test_an_absent_scheduler_is_said_soon(tmp_path: Path, address: str, reason: str) -> None:
    begin = time.monotonic()
    with pytest.raises(ClusterError, match=f"there is no scheduler at {address} .*{reason}"):
        run_study(study(dense()), tmp_path, stand_in.train, scheduler=address)
    assert time.monotonic() - begin < 10


def test_a_scheduler_that_goes_away_loses_nothing_finished(tmp_path: Path) -> None:
    found = study(dense(), seeds=list(range(8)))
    said: list[Outcome] = []
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=":0"
    ) as cluster:

        def end(outcome: Outcome) -> None:
            said.append(outcome)
            cluster.close()

        with pytest.raises(ClusterError, match="connection to the scheduler is lost"):
            run_study(found, tmp_path, stand_in.slow, scheduler=cluster.scheduler_address, ended=end)
    assert finished(said[0].task, tmp_path) == said[0].result is not None
    assert not list(tmp_path.glob("runs/.stop*"))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ClusterError, match=r"out/runs: cannot be made"):
        run_study(study(dense()), tmp_path / "out", stand_in.train)


def test_real_trainings_on_a_cluster_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    small = {
        "text": {"file": "text"},
        "model": {"hidden": 4},
        "training": {"steps": 6, "batch": 2, "window": 4, "record_every": 2, "evaluate_every": 3},
    }
    data = {"base": small, "run": [dense(), {"name": "row", "sieve": {"method": "row", "target": 0.5}}]}
    found = make_study(data, tmp_path, "study.toml")
    outcomes = run_study(found, tmp_path / "out", training.trainer.train, workers=1)
    assert [o.error for o in outcomes] == ["", ""]
    assert all(o.result is not None and o.result.last.step == 6 for o in outcomes)
    rows = compare(found, outcomes).rows
    assert rows[0].cells["rows"].mean == 1
    assert rows[0].cells["loss_change"].mean == 0
    assert (rows[1].cells["macs_ratio"].mean or 0) > 1
    assert all(cell.values for cell in rows[1].cells.values())
    again = run_study(found, tmp_path / "out", training.trainer.train, scheduler="tcp://127.0.0.1:1")
    assert [o.reused for o in again] == [True, True]


# figures

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
    markdown = as_markdown(compared).replace("\u00a0", " ")
    for place, (_, headings, figures) in enumerate(TABLES):
        rows = [[cell.replace("\u00a0", " ") for cell in cells(row, headings, figures)] for row in compared.rows]
        assert page.tables[place][1:] == rows
        for row in rows:
            assert f"| {' | '.join(row)} |" in markdown
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
