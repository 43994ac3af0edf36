"""`gradsieve demo`: its table against independent figures, its model, its sieves, its picture, and what it refuses."""

from __future__ import annotations

import copy
import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread

import gradsieve.golden.backward
from gradsieve.cli import demo_sieves
from gradsieve.cli.application import main
from gradsieve.cli.demo_model import Sizes, Training, relative_error
from gradsieve.cli.demo_plot import by_gate_and_step
from gradsieve.golden import float_lstm
from gradsieve.golden.float_lstm import FloatGradients
from gradsieve.golden.types import Gradients, SieveMode
from gradsieve.hw.config import preset

SIZES = Sizes(H=8, I=8, B=6, T=6)
TEXT = "the quick brown fox jumps over the lazy dog. " * 40


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    return file


def test_table_json_and_picture_of_a_small_demo(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, folder = tmp_path / "demo.json", tmp_path / "a" / "b"
    arguments = ["demo", "--preset", "tiny", "--text", str(text), "--steps", "20", "-o", str(folder)]
    assert main([*arguments, "--json", str(file)]) == 0
    out = capsys.readouterr().out
    result = json.loads(file.read_text())
    assert result["config"]["digest"] == preset("tiny").digest
    assert result["layer"] == vars(SIZES)
    assert len(result["training"]["losses"]) == 20
    assert result["training"]["symbols"] == len(set(TEXT))
    modes = result["modes"]
    assert [m["mode"] for m in modes] == ["dense", "element", "row", "stochastic"]
    rows, elements = 4 * 8 * 3 * 6, 4 * 8 * 6 * 6
    dense = modes[0]
    assert dense["rows_kept"] == rows
    assert dense["indices"] == 2 * rows * 8
    assert dense["gradient_error"] < 0.02
    for m in modes:
        assert m["mismatches"] == 0
        assert m["rows_kept_share"] == m["rows_kept"] / rows
        assert m["elements_kept_share"] == m["elements_kept"] / elements
        assert m["speedup"] == dense["cycles"] / m["cycles"]
        assert m["indices"] == 2 * m["rows_kept"] * 8
        assert m["gradient_error"] >= dense["gradient_error"] > 0
        assert f"{m['cycles']:,}" in out
        assert f"{100 * m['rows_kept_share']:.1f} %" in out
    assert abs(modes[1]["elements_kept_share"] - 0.15) < 0.02
    assert abs(modes[2]["rows_kept_share"] - 0.2) < 0.02
    assert abs(modes[3]["rows_kept_share"] - 0.1) < 0.04
    picture = Path(result["picture"])
    assert picture == folder / "demo.png"
    assert str(picture) in out.replace("\n", "")
    pixels = imread(picture)
    assert pixels.shape[0] > 500 and pixels.shape[1] > 1000
    assert len(torch.from_numpy(pixels).flatten(0, 1).unique(dim=0)) > 50
    assert "gradsieve bench" in out


def test_differences_from_the_golden_model_are_status_1(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(*arguments: Any) -> Gradients:
        result = gradsieve.golden.backward.backward(*arguments)
        return replace(result, random=result.random ^ 1)

    monkeypatch.setattr(demo_sieves, "backward", wrong)
    arguments = ["demo", "-p", "tiny", "--text", str(text), "--steps", "1", "-o", str(tmp_path)]
    assert main(arguments) == 1
    assert "error: 4 values differ from the golden model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"", "has 0 tokens, and 6 streams of 6 tokens a step need 78 or more"),
        (b"too short", "has 9 tokens, and 6 streams of 6 tokens a step need 78 or more"),
        (b"\xff\xfe\x00" * 100, "is no UTF-8 text"),
    ],
)
def test_bad_text_is_one_line_and_status_1_before_any_work(
    content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = tmp_path / "bad.txt", tmp_path / "out"
    if content is not None:
        file.write_bytes(content)
    assert main(["demo", "-p", "tiny", "--text", str(file), "-o", str(folder)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f"error: {file}: {message}" in err.splitlines()
    assert not folder.exists()


def test_bad_options_are_refused(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--steps", "0"]) == 2
    assert "--steps must be at least 1, got 0" in capsys.readouterr().err
    assert main(["demo", "--seed", "-1"]) == 2
    assert "--seed must be at least 0, got -1" in capsys.readouterr().err
    assert main(["demo", "--preset", "huge"]) == 2
    assert "preset must be one of tiny, edge, default, ptb; got 'huge'" in capsys.readouterr().err
    assert main(["demo", "-p", "tiny", "--text", str(tmp_path), "-o", str(tmp_path)]) == 1
    assert "cannot be read (Is a directory)" in capsys.readouterr().err
    assert main(["demo", "-p", "tiny", "--text", str(text), "-o", str(text)]) == 1
    assert "cannot be made a directory" in capsys.readouterr().err


def test_training_learns_and_the_seed_decides() -> None:
    runs = [Training(TEXT, SIZES, seed, "text").run(200, lambda *_: None) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    assert abs(runs[0][0] - math.log(len(set(TEXT)))) < 0.5
    assert runs[0][-1] < 0.8 * runs[0][0]


def test_training_step_is_the_one_that_autograd_sees() -> None:
    training = Training(TEXT, SIZES, 1, "text")
    training.run(10, lambda *_: None)
    streams = copy.deepcopy(training.streams)
    _, successors, _ = streams.next()
    step = training.training_step()
    assert step.tape.sizes == (8, 8, 6, 6)
    by_formula = float_lstm.backward(step.w_ih, step.w_hh, step.tape)
    assert relative_error(by_formula, step.gradients) < 1e-12
    assert bool(step.tape.h_prev[0].any())  # the state is carried
    # Of the sum over all characters, the gradient of the logits is the probabilities less the right answer.
    weight, bias = (p.detach().double() for p in (training.model.decoder.weight, training.model.decoder.bias))
    y = step.tape.o * step.tape.tanh_c
    answers = torch.nn.functional.one_hot(successors, len(training.vocabulary))
    assert torch.allclose(step.tape.dy, ((y @ weight.T + bias).softmax(dim=2) - answers) @ weight)


def test_relative_error_takes_the_whole_gradient_as_one_vector() -> None:
    def gradients(value: float) -> FloatGradients:
        z = torch.zeros(2, 3)
        return FloatGradients(dx=z + value, dh0=z, dc0=z, dw_ih=z + value, dw_hh=z + 2, db=z[0])

    # The difference is 12 elements of 1; the reference is 12 of 1 and 6 of 2.
    assert relative_error(gradients(2), gradients(1)) == pytest.approx(math.sqrt(12 / 36))


def test_threshold_is_the_one_nearest_to_the_share() -> None:
    rng = random.Random(1)
    for _ in range(50):
        values = sorted(rng.randrange(1, 500) for _ in range(40))

        def kept(tau: int, values: list[int] = values) -> float:
            return sum(v >= tau for v in values) / len(values)

        share = rng.random()
        best = min(abs(kept(tau) - share) for tau in range(1, 1000))
        assert abs(kept(demo_sieves._threshold(kept, share, 999)) - share) == pytest.approx(best)


def test_sieves_are_one_for_each_mode() -> None:
    assert [t.mode for t in demo_sieves.TARGETS] == list(SieveMode)


def test_map_is_the_share_of_rows_by_gate_and_step() -> None:
    rows = torch.zeros(3, 2, 4 * 5, dtype=torch.bool)
    rows[1, 0, 5:8] = True  # gate f
    rows[2, :, 15:] = True  # gate o
    expected = torch.zeros(4, 3, dtype=torch.float64)
    expected[1, 1], expected[3, 2] = 0.3, 1.0
    assert torch.allclose(torch.from_numpy(by_gate_and_step(rows)), expected)
