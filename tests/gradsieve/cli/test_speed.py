"""`gradsieve speed`: its figures, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gradsieve.cli.application import main
from gradsieve.training import speed
from gradsieve.training.backends import FloatBackend
from gradsieve.training.speed import Pair, Sized


def pair(speedup: float) -> Pair:
    return Pair(
        forward=(1.0, 1.0),
        backward=(1.0, 1 / speedup),
        speedup=speedup,
        forward_speedup=1.0,
        total=1.0,
        kept=0.25,
        gemm_share=0.5,
    )


def test_figures_are_ratios_of_the_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "speed.json"
    arguments = ["speed", "--hidden", "16,24", "--batch", "8", "--kept", "1,0.25", "--window", "5", "--repeats", "3"]
    assert main([*arguments, "--dropout", "0.5", "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    assert [(s["H"], s["B"]) for s in result["sizes"]] == [(16, 8), (24, 8)]
    out = capsys.readouterr().out
    for size in result["sizes"]:
        assert set(size["pairs"]) == {"1.0", "0.25"}
        # With c0 = 0 the forget gates of the first of five steps have gradients of exactly zero.
        assert size["pairs"]["1.0"]["kept"] == pytest.approx(1 - 1 / (4 * 5))
        assert size["pairs"]["0.25"]["kept"] == pytest.approx(0.25, abs=0.1)
        for measured in size["pairs"].values():
            assert f"{measured['speedup']:.2f}" in out
            # Medians of three times and of their ratios belong together.
            assert measured["backward"][0] > 0 < measured["backward"][1]
            assert 0 < measured["gemm_share"] < 1 and f"{100 * measured['gemm_share']:.0f} %" in out
            assert f"{measured['forward_speedup']:.2f}" in out and f"{measured['total']:.2f}" in out
            assert measured["allowed"] == pytest.approx(1 / measured["kept"]) and f"{measured['allowed']:.2f}" in out
        # So small a layer cannot gain: the engine leaves it to PyTorch, all rows kept.
        assert all(measured["kept"] == 1 for measured in size["fallback"].values())
    assert len(result["dropout"]) == 2


def test_lanes_of_a_batch_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backends = []

    def recorded(*arguments: int, **options: bool) -> FloatBackend:
        backends.append(FloatBackend(*arguments, **options))
        return backends[-1]

    monkeypatch.setattr(speed, "FloatBackend", recorded)
    file = tmp_path / "speed.json"
    arguments = ["speed", "--hidden", "16", "--batch", "8", "--window", "5", "--repeats", "3", "--kept", "0.25"]
    assert main([*arguments, "--lanes", "2", "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    assert result["lanes"] == 2 and not result["sizes"][0]["fallback"]
    assert [backend.lanes for backend in backends] == [2]
    assert result["sizes"][0]["pairs"]["0.25"]["kept"] == pytest.approx(0.25, abs=0.1)


def test_arithmetic_allows_what_the_rows_left_over_say() -> None:
    assert pair(2.0).allowed == 4.0


def test_medians_are_of_pairs_that_ran_together() -> None:
    theirs = iter([(0.0, 0.0)] * speed.WARM_UP + [(1.0, 4.0), (1.0, 9.0), (1.0, 6.0)])
    ours = iter([(0.0, 0.0)] * speed.WARM_UP + [(2.0, 2.0), (1.0, 3.0), (1.0, 6.0)])
    passed = speed._layer(speed.SievedLSTM, 2, 1, 1)
    run = speed._run(*passed)

    def our_run() -> tuple[float, float]:
        run()
        return next(ours)

    layer = passed[0]
    measured = speed._pair(lambda: next(theirs), our_run, 3, layer)
    assert measured.backward == (6.0, 3.0)
    assert measured.forward == (1.0, 1.0)
    assert measured.speedup == 2.0  # of 2, 3 and 1
    assert measured.forward_speedup == 1.0  # of 1/2, 1 and 1
    assert measured.total == 5 / 4  # of 5/4, 10/4 and 7/7
    assert measured.kept == 1


@pytest.mark.parametrize(
    ("speedups", "expected"),
    [
        ({0.1: 4.0, 0.5: 2.0, 1.0: 0.8}, 0.5 + 0.5 * (1 - 0.5) / (1.25 - 0.5)),
        ({0.1: 0.9, 1.0: 0.5}, None),
        ({0.1: 2.0, 0.5: 1.5}, 1.0),
        ({1.0: 0.8, 0.2: 1.0}, None),
    ],
)
def test_break_even_is_where_the_times_are_equal(speedups: dict[float, float], expected: float | None) -> None:
    sized = Sized(H=1, B=1, pairs={share: pair(s) for share, s in speedups.items()}, fallback={})
    assert sized.break_even == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hidden", "12,x"], "--hidden must be integers from 1 to 65536, such as 64,128; got 'x' in '12,x'"),
        (["--batch", "0"], "--batch must be integers from 1 to 65536, such as 64,128; got '0' in '0'"),
        (["--kept", "2"], "--kept must be greater than 0 and at most 1, got 2 in '2'"),
        (["--method", "element"], "--method must be row or stochastic, got 'element'"),
        (["--dropout", "1"], "--dropout must be greater than 0 and less than 1, got 1.0"),
    ],
)
def test_bad_options_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speed", *arguments]) == 2
    assert message in capsys.readouterr().err
