"""Studies: what a TOML expands to, what runs and what does not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster

import gradsieve.training.trainer
from gradsieve.training.errors import SettingsError
from gradsieve.training.settings import make
from gradsieve.training.studies.cluster import ClusterError, Outcome, attempt, finished, run_study
from gradsieve.training.studies.comparison import compare
from gradsieve.training.studies.comparison_table import TABLES, cells
from gradsieve.training.studies.study import make_study, read_study
from tests.training.studies import study_stand_in as stand_in
from tests.training.studies.study_stand_in import HERE, dense, study


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
    assert task.folder == f"row-sieve-20-{'x' * 47}-seed7-{task.digest[:8]}"
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
    "no run at all": ({}, ["run is missing"]),
    "unknown at the top": ({"run": [dense()], "seed": 1}, ["unknown setting 'seed'; did you mean 'seeds'?"]),
    "seed twice": ({"run": [dense()], "seeds": [1, 2, 1]}, ["seeds must be distinct, got [1, 2, 1]"]),
    "no seeds": ({"run": [dense(seeds=[])]}, ["run 'dense'", "seeds", "[]"]),
    "negative seed": ({"run": [dense(seeds=[-1])]}, ["run 'dense'", "seeds[0] must be at least 0, got -1"]),
    "seed as a setting": (
        {"run": [dense(training={"seed": 4})]},
        ["run 'dense'", "training.seed must be left out (give seeds = [1, 2, 3], say), got 4"],
    ),
    "seed in the grid": ({"run": [dense(grid={"training.seed": [4]})]}, ["training.seed must be left out", "got 4"]),
    "name in base": (
        {"run": [dense()], "base": {"name": "x"}},
        ["base.name must be left out (each run has its own), got 'x'"],
    ),
    "no name": ({"run": [dense(), {"seeds": [1]}]}, ["run 2: name is missing"]),
    "unknown in a run": ({"run": [dense(seive={})]}, ["run 'dense': unknown setting 'seive'; did you mean 'sieve'?"]),
    "bad setting": ({"run": [dense(model={"hidden": 0})]}, ["run 'dense': model.hidden must be at least 1, got 0"]),
    "unknown setting": (
        {"run": [dense(model={"size": 1})]},
        ["run 'dense': unknown setting 'model.size'; there are hidden"],
    ),
    "bad grid value": (
        {"run": [dense(sieve={"method": "row"}, grid={"sieve.target": [0.1, 7]})]},
        ["run 'dense'", "sieve.target must be at most 1, got 7"],
    ),
    "unknown grid key": (
        {"run": [dense(grid={"model.size": [1]})]},
        ["unknown setting 'model.size'; there are hidden"],
    ),
    "grid key without a section": (
        {"run": [dense(grid={"hidden": [1]})]},
        ["grid must name settings", "such as 'sieve.target'; got 'hidden'"],
    ),
    "grid key of a section": ({"run": [dense(grid={"sieve": [1]})]}, ["grid must name settings", "got 'sieve'"]),
    "grid of one value": (
        {"run": [dense(grid={"model.hidden": 3})]},
        ["run 'dense'", "grid.model.hidden must be a list, got 3"],
    ),
    "empty grid": (
        {"run": [dense(grid={"model.hidden": []})]},
        ["run 'dense'", "grid.model.hidden must not be empty, got []"],
    ),
    "name twice": ({"run": [dense(), dense(model={"hidden": 3})]}, ["run 'dense'", "there twice"]),
    "value twice": ({"run": [dense(grid={"model.hidden": [3, 3]})]}, ["run 'dense, model.hidden 3'", "twice"]),
    "folder twice": ({"run": [dense(), dense(name="Dense!")]}, ["'dense' and 'Dense!'", "same settings"]),
    "unknown baseline": (
        {"run": [dense()], "baseline": "none"},
        ["baseline must be one of the runs 'dense'; got 'none'"],
    ),
    "unknown baseline of a run": (
        {"run": [dense(baseline="no")]},
        ["run 'dense': baseline must be one of the runs 'dense'; got 'no'"],
    ),
    "other text": (
        {"run": [dense(), {"name": "words", "text": {"level": "word"}}]},
        ["run 'words'", "not that of its baseline 'dense'"],
    ),
    "no such file": (
        {"run": [dense(text={"file": "a.txt"})]},
        ["text.file must be a file, got 'a.txt' (/nowhere/a.txt is none)"],
    ),
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


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense", "tcp://127.0.0.1:x"])
def test_an_absent_scheduler_is_said_soon(tmp_path: Path, address: str) -> None:
    begin = time.monotonic()
    with pytest.raises(ClusterError, match=rf"^there is no scheduler at {address} \(.+\): give the address of one, "):
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
    outcomes = run_study(found, tmp_path / "out", gradsieve.training.trainer.train, workers=1)
    assert [o.error for o in outcomes] == ["", ""]
    assert all(o.result is not None and o.result.last.step == 6 for o in outcomes)
    rows = compare(found, outcomes).rows
    assert rows[0].cells["rows"].mean == 1
    assert rows[0].cells["loss_change"].mean == 0
    assert (rows[1].cells["macs_ratio"].mean or 0) > 1
    assert all(cell.values for cell in rows[1].cells.values())
    again = run_study(found, tmp_path / "out", gradsieve.training.trainer.train, scheduler="tcp://127.0.0.1:1")
    assert [o.reused for o in again] == [True, True]
