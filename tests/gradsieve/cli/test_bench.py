"""`gradsieve bench`: its figures against the golden model's, its synthetic runs, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import gradsieve.cli.bench_case
import gradsieve.golden.backward
from gradsieve.cli import bench
from gradsieve.cli.application import main
from gradsieve.cli.bench_case import make_case, rows_of_share
from gradsieve.cli.options import CommandError
from gradsieve.fpga.device import Device
from gradsieve.golden.types import Gradients, SieveMode
from gradsieve.hw.config import make, preset

LAYER = (7, 5, 5, 3)


def test_figures_are_those_of_the_golden_model_and_of_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bench.json"
    layer = ",".join(str(size) for size in LAYER)
    arguments = ["bench", "--preset", "tiny", "--layer", layer, "--kept", "1,0.5,0.1", "--seed", "3"]
    assert main([*arguments, "--json", str(file)]) == 0
    out = capsys.readouterr().out
    result = json.loads(file.read_text())
    config = preset("tiny")
    assert result["config"]["digest"] == config.digest
    assert result["config"]["R"] == config.R
    assert result["layer"] == dict(zip("HIBT", LAYER, strict=True))
    assert [level["kept"] for level in result["levels"]] == [1.0, 0.5, 0.1]
    dense = result["levels"][0]
    assert dense == result["dense"]
    assert dense["indices"] == 2 * 28 * (3 + 4) * 3 * 3
    for level in result["levels"]:
        case = make_case(config, LAYER, level["kept"], 3)
        expected = gradsieve.golden.backward.backward(config, case.weights, case.tape, case.sieve)
        rows = max(1, round(level["kept"] * 28)) * 3 * 3
        assert level["rows_kept"] == int(expected.rows_kept.sum()) == rows
        assert level["rows"] == 28 * 3 * 3
        assert level["indices"] == expected.indices
        assert level["macs"] == expected.macs
        assert level["mismatches"] == 0
        assert level["indices"] == level["busy_cycles"] < level["cycles"]
        assert level["stream_efficiency"] == level["indices"] / level["cycles"]
        assert level["array_utilisation"] == level["macs"] / (config.R * config.C * level["cycles"])
        assert level["speedup"] == dense["cycles"] / level["cycles"]
        assert level["indices_ratio"] == dense["indices"] / level["indices"]
        # A beat a cycle is the most that a stream carries: weights in and 64-bit gradients out.
        assert 28 * (5 + 7) * 16 // 32 <= level["load_cycles"] < 2000
        assert 28 * (1 + 5 + 7) * 64 // 32 <= level["readout_cycles"] < 2000
        with_transfers = [v["cycles"] + v["load_cycles"] + v["readout_cycles"] for v in (dense, level)]
        assert level["speedup_with_transfers"] == with_transfers[0] / with_transfers[1]
        assert f"{level['cycles']:,}" in out
        assert f"{level['stream_efficiency']:.3f}" in out
    assert result["simulated_cycles_per_second"] > 0
    assert "10 % is 10.71 %" in out
    assert "cycles a second of one core's time" in out


def test_dense_run_is_made_though_not_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    assert main(["bench", "-p", "tiny", "--layer", "4,4,2,2", "--kept", "0.5", "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    (level,) = result["levels"]
    assert level["kept"] == 0.5
    assert result["dense"]["rows_kept"] == result["dense"]["rows"]
    assert level["speedup"] == result["dense"]["cycles"] / level["cycles"] > 1
    assert "100 %" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["tiny", "edge", "default"])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.2, 0.05])
def test_synthetic_runs_keep_exactly_the_chosen_rows(name: str, share: float) -> None:
    config = preset(name)
    sizes = (8, 6, min(5, config.max_B), 6)
    case = make_case(config, sizes, share, seed=1)
    assert bool((case.rows.sum(dim=-1) == rows_of_share(share, 8)).all())
    assert (case.sieve.mode == SieveMode.DENSE) == (share == 1)
    result = gradsieve.golden.backward.backward(config, case.weights, case.tape, case.sieve)
    assert torch.equal(result.rows_kept, case.rows)
    assert result.saturations.gate == result.saturations.error == 0
    again = make_case(config, sizes, share, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(vars(case.tape).values(), vars(again.tape).values(), strict=True))
    assert share == 1 or not torch.equal(make_case(config, sizes, share, seed=2).rows, case.rows)


def test_synthetic_runs_silence_gates_in_every_combination() -> None:
    config = preset("default")
    case = make_case(config, (16, 8, 8, 8), 0.5, seed=1)
    gates = case.rows.unflatten(-1, (4, 16)).long()
    combinations = (gates * torch.tensor([8, 4, 2, 1])[:, None]).sum(dim=-2)
    assert set(combinations.flatten().tolist()) == set(range(16))
    shares = gates.double().mean(dim=(0, 1, 3))
    assert bool(((shares - 0.5).abs() < 0.1).all())


def test_too_coarse_formats_are_refused() -> None:
    config = make(
        R=2, C=2, max_H=8, max_I=8, max_B=6, max_T=6,
        formats={"gradient": "8.2", "weight_grad_width": 48},
    )  # fmt: skip
    with pytest.raises(CommandError, match=r"too coarse.*gradient is 8\.2"):
        make_case(config, (8, 8, 6, 6), 0.5, seed=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layer", "9,8,6,6"], "engine 'tiny': H must be from 1 to 8, got 9"),
        (["--layer", "8,8,0,7"], "engine 'tiny': B must be from 1 to 6, got 0; T must be from 1 to 6, got 7"),
        (["--layer", "8,8,6"], "--layer must be four integers H,I,B,T, such as 64,64,16,32; got '8,8,6'"),
        (["--layer", "8,8,6,x"], "64,64,16,32; got T = 'x' in '8,8,6,x'"),
        (["--layer", "8,-8,6,6"], "got I = '-8' in "),
        (["--layer", "8,8.0,6,6"], "got I = '8.0' in "),
        (["--layer", "8,²,6,6"], "got I = '²' in "),
        (["--kept", "0.5,0"], "--kept must be greater than 0 and at most 1, got 0 in '0.5,0'"),
        (["--kept", "1.5"], "must be greater than 0 and at most 1, got 1.5"),
        (["--kept", "-0.1"], "must be greater than 0 and at most 1, got -0.1"),
        (["--kept", "nan"], "must be greater than 0 and at most 1, got nan"),
        (["--kept", "half"], "--kept must be numbers, such as 0.5,0.2; got 'half' in 'half'"),
        (["--kept", ""], "--kept must not be empty, got ''"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
    ],
)
def test_bad_input_is_one_line_and_status_2_before_any_work(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "measure", lambda *_: pytest.fail("work was begun"))
    assert main(["bench", "--preset", "tiny", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert len(err.splitlines()) == 1


def test_unknown_preset_and_two_configs_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--preset", "huge"]) == 2
    assert "preset must be one of tiny, edge, default, ptb; got 'huge'" in capsys.readouterr().err
    assert main(["bench", "a.toml", "--preset", "tiny"]) == 2
    assert "are both given" in capsys.readouterr().err


def test_differences_from_the_golden_model_are_counted_and_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = gradsieve.golden.backward.backward

    def wrong(*arguments: Any) -> Gradients:
        result = right(*arguments)
        return replace(result, db=result.db + (torch.arange(len(result.db)) < 3).long())

    monkeypatch.setattr(gradsieve.golden.backward, "backward", wrong)
    file = tmp_path / "bench.json"
    assert main(["bench", "-p", "tiny", "--layer", "4,4,2,2", "--kept", "1,0.5", "--json", str(file)]) == 1
    assert "error: 6 values differ from the golden model" in capsys.readouterr().err
    assert [level["mismatches"] for level in json.loads(file.read_text())["levels"]] == [3, 3]


def test_nothing_is_reported_if_other_rows_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def other(*arguments: Any) -> gradsieve.cli.bench_case.Case:
        case = make_case(*arguments)
        return replace(case, rows=case.rows.roll(1, dims=-1)) if case.sieve.mode else case

    monkeypatch.setattr(gradsieve.cli.bench_case, "make_case", other)
    file = tmp_path / "bench.json"
    assert main(["bench", "-p", "tiny", "--layer", "4,4,2,2", "--kept", "0.5", "--json", str(file)]) == 1
    out, err = capsys.readouterr()
    assert "rows against the sieve's orders" in err
    assert out == ""
    assert not file.exists()


def test_more_than_an_index_a_cycle_is_not_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counters = Device.counters
    monkeypatch.setattr(Device, "counters", lambda device: counters(device) | {"CYCLES": 511})
    assert main(["bench", "-p", "tiny", "--layer", "4,4,4,4", "--kept", "1"]) == 1
    out, err = capsys.readouterr()
    assert "counts 1024 indices in 511 cycles, more than one a cycle" in err
    assert out == ""


def test_default_layer_is_the_largest_that_stays_short() -> None:
    assert bench.default_layer(preset("tiny")) == (8, 8, 6, 6)
    assert bench.default_layer(preset("default")) == (64, 64, 16, 64)
    H, I, B, T = bench.default_layer(preset("ptb"))
    assert (H, I, B) == (200, 200, 20)
    assert 2 * 800 * 26 * 5 * T <= bench.DEFAULT_CYCLES < 2 * 800 * 26 * 5 * (T + 1)


def test_help_imports_nothing_slow() -> None:
    script = (
        "import sys; from gradsieve.cli.application import main; status = main([sys.argv[1], '--help']); "
        "slow = {'torch', 'amaranth', 'matplotlib'} & set(sys.modules); sys.exit(status or bool(slow))"
    )
    root = Path(__file__).parents[3]
    for verb in ("bench", "demo"):
        command = [sys.executable, "-c", script, verb]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert f"gradsieve {verb}" in done.stdout
