"""The training loop: what it learns, what it saves, and how it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gradsieve.hw.config import ConfigError
from gradsieve.training.checkpoint import load_checkpoint, save_checkpoint
from gradsieve.training.errors import SettingsError, TrainingError
from gradsieve.training.reports.report import read_result
from gradsieve.training.settings import Settings, make, merge
from gradsieve.training.text import TextError
from gradsieve.training.trainer import CHECKPOINT, REPORT, RESULT, Trainer, train

TINY: dict[str, Any] = {
    "text": {"valid_tokens": 600},
    "model": {"hidden": 12, "embedding": 9},
    "training": {
        "steps": 12, "batch": 5, "window": 7, "record_every": 4, "evaluate_every": 6, "checkpoint_every": 5,
    },
    "backend": {"lanes": 2, "columns": 4},
}  # fmt: skip

METHODS: dict[str, dict[str, Any]] = {
    "dense": {},
    "element": {"sieve": {"method": "element", "target": 0.2}},
    "row": {"sieve": {"method": "row", "target": 0.3, "warm_up": 2, "dense_every": 4}},
    "row, golden": {"sieve": {"method": "row", "target": 0.3}, "backend": {"kind": "golden"}},
    "row, golden, forward too": {
        "sieve": {"method": "row", "target": 0.3},
        "backend": {"kind": "golden", "forward": "backend"},
        "dropout": {"kind": "structured", "input": 0.5, "hidden": 0.3},
    },
    "stochastic": {"sieve": {"method": "stochastic", "targets": [[0, 0.5], [1, 0.2]]}, "model": {"layers": 2}},
    "stochastic, golden": {"sieve": {"method": "stochastic", "target": 0.3}, "backend": {"kind": "golden"}},
    "standard dropout": {"dropout": {"kind": "standard", "input": 0.5, "output": 0.5}, "model": {"layers": 2}},
    "structured dropout": {"dropout": {"kind": "structured", "input": 0.5, "hidden": 0.5, "output": 0.5}},
    "sparse blocks": {"sparse_weights": {"density": 0.4, "every": 3}},
    "sparse weights, averaged": {
        "sparse_weights": {"density": 0.4, "structure": "unstructured", "every": 3},
        "training": {"optimizer": "snt-asgd", "rate": 0.5, "evaluate_every": 1},
    },
    "sampled units": {"sampled_masks": {"keep": 0.5, "freeze": 0.7}},
    "sampled blocks": {"sampled_masks": {"keep": 0.5, "granularity": "block"}},
    "all together": {
        "sieve": {"method": "row", "target": 0.3},
        "dropout": {"kind": "structured", "input": 0.5, "hidden": 0.3},
        "sparse_weights": {"density": 0.5, "every": 3},
        "training": {"decay": "cosine"},
        "backend": {"kind": "golden"},
    },
}


def settings(*over: Mapping[str, Any]) -> Settings:
    data: dict[str, Any] = TINY
    for o in over:
        data = merge(data, o)
    return make(data)


def weights(trainer: Trainer) -> list[Tensor]:
    return [p.detach().clone() for p in trainer.model.parameters()]


def run(trainer: Trainer, steps: int) -> None:
    for _ in range(steps):
        trainer.step()


@pytest.mark.parametrize("name", METHODS)
def test_a_training_that_goes_on_from_a_checkpoint_is_the_uninterrupted_one_bit_for_bit(
    name: str, tmp_path: Path
) -> None:
    chosen = settings(METHODS[name])
    whole, first, second = (tmp_path / n for n in ("whole", "first", "second"))
    expected = train(chosen, whole)
    halves = iter([False] * 6 + [True])  # stops after step 7, between two checkpoints and two records
    stopped = train(chosen, first, stop=lambda: next(halves))
    assert not stopped.finished
    torch.rand(7)  # what else draws from the global random numbers must not matter
    result = train(chosen, first, resume=True)
    assert result.finished
    saved, other = (load_checkpoint(f / CHECKPOINT) for f in (whole, first))
    for (key, a), b in zip(saved["model"].items(), other["model"].values(), strict=True):
        assert torch.equal(a, b), key
    for a, b in zip(expected.records, result.records, strict=True):
        timeless = {"seconds": 0.0, "backward_seconds": 0.0}
        assert a.model_copy(update=timeless) == b.model_copy(update=timeless)
    assert not second.exists()


def test_training_on_the_simulated_engine_is_the_exact_one_with_counted_cycles(tmp_path: Path) -> None:
    runs = {}
    for kind in ("golden", "simulated"):
        over = {
            "model": {"hidden": 8, "embedding": 7},
            "training": {"steps": 6, "window": 6},
            "sieve": {"method": "stochastic", "target": 0.4, "dense_every": 3},
            "backend": {"kind": kind, "preset": "tiny"},
        }
        result = train(settings(over), tmp_path / kind)
        runs[kind] = result, load_checkpoint(tmp_path / kind / CHECKPOINT)["model"]
    (golden, a), (device, b) = runs.values()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert (golden.measured, device.measured) == (False, True)
    assert golden.last.saturations == device.last.saturations
    assert golden.last.work.backward == device.last.work.backward
    # Counted, not modelled: near the model's, but not its numbers.
    assert golden.last.work.cycles != device.last.work.cycles
    assert golden.last.work.cycles == pytest.approx(device.last.work.cycles, rel=0.4)


def test_training_learns_and_the_seed_decides(tmp_path: Path) -> None:
    more = {"training": {"steps": 150, "batch": 16, "rate": 1e-2, "evaluate_every": 150}}
    runs = [train(settings(more, {"training": {"seed": s}}), tmp_path / str(n)) for n, s in enumerate((1, 1, 2))]
    losses = [r.valid_loss for r in runs]
    assert losses[0] == losses[1] != losses[2]
    first, last = runs[0].records[0], runs[0].last
    assert last.train_loss < 0.9 * first.train_loss


def test_result_and_report_are_written_and_read_back(tmp_path: Path) -> None:
    result = train(settings(METHODS["row"]), tmp_path)
    assert read_result(tmp_path / RESULT) == result
    assert (tmp_path / REPORT).read_text().startswith("<!")
    assert [r.step for r in result.records] == [4, 6, 8, 12]
    assert [r.valid_loss is not None for r in result.records] == [False, True, False, True]


def test_work_is_counted_by_hand(tmp_path: Path) -> None:
    """Two steps of a sieve that keeps everything, and of a layer at half its columns."""
    H, I, B, T = 12, 9, 5, 7
    per_step = 4 * H * (I + H) * B * T
    work = train(settings({"training": {"steps": 2}}), tmp_path / "dense").last.work
    assert (work.forward, work.dense_forward) == (2 * per_step, 2 * per_step)
    assert (work.backward, work.elements, work.dense_backward) == (4 * per_step, 4 * per_step, 4 * per_step)
    assert work.cycles == work.dense_cycles > 2 * 2 * T * 3 * (3 + 3) * 4 * H - 1
    assert work.skipped == work.redundant == 0
    half = {"training": {"steps": 2}, "dropout": {"kind": "structured", "hidden": 2 / 3}}
    work = train(settings(half), tmp_path / "half").last.work
    kept = 4 * H * (I + 4) * B * T  # one tile of four of the twelve columns of h
    assert (work.forward, work.backward) == (2 * kept, 4 * kept)


def test_units_that_do_not_exist_count_as_rows_not_kept(tmp_path: Path) -> None:
    result = train(settings({"sampled_masks": {"keep": 0.5, "freeze": 0.0}}), tmp_path)
    last = result.last
    assert last.rows == last.layers[0].rows_by_gate[0] == pytest.approx(0.5)
    assert last.work.forward == last.step * 4 * 6 * (9 + 6) * 5 * 7
    assert last.layers[0].blocks == pytest.approx(6 * 15 / (12 * 21))


def test_fixed_threshold_is_told_and_reported_for_the_summed_loss() -> None:
    trainer = Trainer(settings({"sieve": {"method": "row", "tau": 0.02}}))
    run(trainer, 1)
    assert trainer.lstm.sieve.tau == pytest.approx(0.02 / (5 * 7))
    trainer.record(None)
    assert trainer.records[0].layers[0].tau == pytest.approx(0.02)


def test_second_draw_of_sampled_masks_counts_as_forward_work(tmp_path: Path) -> None:
    result = train(settings({"sampled_masks": {"keep": 1.0, "freeze": 1.0}, "training": {"steps": 3}}), tmp_path)
    assert result.last.work.forward == 2 * result.last.work.dense_forward


def test_standard_dropout_is_what_pytorch_does(tmp_path: Path) -> None:
    trainer = Trainer(settings(METHODS["standard dropout"]))
    assert trainer.lstm.dropout == 0.5
    assert isinstance(trainer.model.input_dropout, torch.nn.Dropout)
    run(trainer, 2)
    assert all(s.rows is None for s in trainer.lstm.take_statistics())


def test_checkpoint_of_another_configuration_or_text_is_refused(tmp_path: Path) -> None:
    train(settings(), tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(SettingsError, match=r"another configuration: model\.hidden was 12 and is 13"):
        train(settings({"model": {"hidden": 13}}), tmp_path, resume=True)
    with pytest.raises(SettingsError, match=r"another configuration: sparse_weights was None and is \{"):
        train(settings({"sparse_weights": {"density": 0.5}}), tmp_path, resume=True)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    text = tmp_path / "text.txt"
    text.write_text("abc def\n" * 400)
    chosen = settings({"text": {"file": text}})
    train(chosen, tmp_path / "of_text")
    text.write_text("abc dfe\n" * 400)
    with pytest.raises(SettingsError, match=r"the text must be that of the checkpoint, got another: .*text\.txt"):
        train(chosen, tmp_path / "of_text", resume=True)


def test_how_often_it_records_may_change(tmp_path: Path) -> None:
    chosen = settings()
    stops = iter([False, True])
    train(chosen, tmp_path, stop=lambda: next(stops))
    assert train(settings({"training": {"record_every": 2}}), tmp_path, resume=True).finished


def test_damaged_checkpoint_is_refused_and_kept(tmp_path: Path) -> None:
    train(settings(), tmp_path)
    path = tmp_path / CHECKPOINT
    for content in (path.read_bytes()[:1000], b"junk", b""):
        path.write_bytes(content)
        with pytest.raises(TrainingError, match=r"checkpoint\.pt: is no checkpoint, or a damaged one"):
            train(settings(), tmp_path, resume=True)
        assert path.read_bytes() == content
    torch.save({"other": 1}, path)
    with pytest.raises(TrainingError, match="is no checkpoint of a training"):
        train(settings(), tmp_path, resume=True)


def test_checkpoints_are_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = Trainer(settings()).state_dict()
    path = tmp_path / CHECKPOINT
    save_checkpoint(state, path)
    before = path.read_bytes()

    def broken(state: object, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(TrainingError, match=r"cannot be written .No space left on device"):
        save_checkpoint(state, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_loss_that_is_not_finite_ends_the_training_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    chosen = settings({"training": {"optimizer": "sgd", "rate": 1e38, "clip": 1e38, "checkpoint_every": 1}})
    with pytest.raises(TrainingError, match=r"the loss of step \d+ is (nan|inf): lower training\.rate = 1e\+38"):
        train(chosen, tmp_path)
    assert load_checkpoint(tmp_path / CHECKPOINT)["done"] >= 1


def test_what_cannot_be_trained_is_refused_before_any_work(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with pytest.raises(TextError, match="cannot be read"):
        train(settings({"text": {"file": tmp_path / "none.txt"}}), folder)
    with pytest.raises(ConfigError, match=r"H must be from 1 to 8, got 12"):
        train(settings({"backend": {"kind": "golden", "preset": "tiny"}}), folder)
    short = tmp_path / "short.txt"
    short.write_text("too short" * 6)
    with pytest.raises(TextError, match="has 49 tokens, and 5 streams of 7 tokens a step need 75 or more"):
        train(settings({"text": {"file": short}}), folder)
    assert not folder.exists()
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(TrainingError, match="cannot be made a directory"):
        train(settings(), file)


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"sieve": {"method": "rows"}}, r"sieve\.method must be one of dense, element, row, stochastic; got 'rows'"),
        ({"sieve": {"method": "row"}}, "exactly one of sieve.tau, .* must be given with sieve.method 'row', got none"),
        ({"sieve": {"method": "row", "tau": 1, "target": 0.5}}, "exactly one of .*, got sieve.tau and sieve.target"),
        ({"sieve": {"target": 0.5}}, "sieve.method must be element, row or stochastic with sieve.target, got 'dense'"),
        (
            {"sieve": {"method": "row", "target": 1.5}},
            r"sieve\.target must be at most 1, got 1\.5",
        ),
        ({"traning": {}}, "unknown setting 'traning'; did you mean 'training'?"),
        ({"training": {"step": 3}}, r"unknown setting 'training\.step'; did you mean 'training\.steps'\?"),
        (
            {"sparse_weights": {"density": 0.5, "r": 1}},
            r"unknown setting 'sparse_weights\.r'; there are density",
        ),
        ({"sparse_weights": {}}, r"sparse_weights\.density is missing"),
        ({"dropout": {"input": 0.5}}, r"dropout.kind must be standard or structured with dropout.input, got 'none'"),
        (
            {"dropout": {"kind": "standard", "hidden": 0.5}},
            r"dropout.kind must be structured with dropout.hidden, got 'standard'",
        ),
        (
            {"backend": {"kind": "golden", "lanes": 0}},
            "backend.lanes must be at least 1 with backend.kind 'golden', got 0",
        ),
        (
            {"backend": {"kind": "simulated", "forward": "backend"}},
            "backend.forward must be 'float' with backend.kind 'simulated' .*, got 'backend'",
        ),
        ({"backend": {"preset": "huge"}}, "backend.preset must be one of tiny, edge, default, ptb; got 'huge'"),
        (
            {"sparse_weights": {"density": 0.5, "structure": "unstructured"}, "backend": {"kind": "golden"}},
            "must be 'block' with the golden backend, got 'unstructured'",
        ),
        ({"sparse_weights": {"density": 0.5}, "sampled_masks": {"keep": 0.5}}, "are both given"),
        ({"training": {"rate": float("inf")}}, r"training\.rate must be a finite number, got inf"),
        (
            {"training": {"seed": 1 << 63}},
            r"training\.seed must be less than 9223372036854775808, got 9223372036854775808",
        ),
        ({"sieve": {"warm_up": 3}}, "sieve.method must be element, row or stochastic with sieve.warm_up, got 'dense'"),
        (
            {"backend": {"kind": "float", "preset": "tiny"}},
            "backend.kind must be golden or simulated with backend.preset 'tiny', got 'float'",
        ),
        (
            {"backend": {"config": "my.toml"}},
            r"backend.kind must be golden or simulated with backend.config 'my\.toml', got 'float'",
        ),
    ],
)
def test_bad_settings_are_quoted(over: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings(over)


@pytest.mark.parametrize(
    ("sieve", "message"),
    [
        (
            {"targets": [[0, 0.5], [1, 0.2]], "dense_every": 1},
            "sieve.dense_every must be 0 .never. or at least 2, got 1",
        ),
        ({"targets": [[0.5, 0.5], [0.2, 0.2]]}, r"sieve.targets must be at ascending points .* got \[0\.5, 0\.2\]"),
        ({"targets": [[0, 0.5], [1, 1.5]]}, r"sieve\.targets\[1\]\[1\] must be at most 1, got 1\.5"),
    ],
)
def test_bad_schedules_are_quoted(sieve: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Trainer(settings({"sieve": {"method": "row"} | sieve}))


def test_titles_name_the_method() -> None:
    titles = {name: settings(over).title for name, over in METHODS.items()}
    assert titles["dense"] == "dense"
    assert titles["row"] == "row sieve, 30 %"
    assert titles["stochastic"] == "stochastic row sieve, 20 %"
    assert titles["structured dropout"] == "structured dropout, input 0.5, hidden 0.5, output 0.5"
    assert titles["all together"].count(";") == 2
