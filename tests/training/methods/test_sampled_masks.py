"""Sampled masks: the estimator by enumeration of all draws, the projection by its optimality conditions."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from gradsieve.training.methods.sampled_masks import SampledMasks, project

S = [0.2, 0.7, 0.45]
"""Probabilities of the enumerated example: two in the first group, one in the second."""

Masks = dict[str, Tensor]


def example() -> SampledMasks:
    sampled = SampledMasks({"a": (2,), "b": (1, 1)}, keep=1.0, steps=10)
    state = sampled.state_dict()
    state["probabilities"] = {
        "a": torch.tensor(S[:2], dtype=torch.float64),
        "b": torch.tensor([[S[2]]], dtype=torch.float64),
    }
    sampled.load_state_dict(state)
    return sampled


def draws() -> Iterator[tuple[float, Masks, tuple[int, ...]]]:
    """All eight draws of the example: probability, masks, bits."""
    for bits in itertools.product((0, 1), repeat=3):
        chance = math.prod(s if bit else 1 - s for s, bit in zip(S, bits, strict=True))
        yield chance, {"a": torch.tensor(bits[:2]).bool(), "b": torch.tensor([[bits[2]]]).bool()}, bits


def joint(estimate: Masks) -> Tensor:
    return torch.cat([estimate["a"], estimate["b"].flatten()])


def loss_table(offset: float = 0.0) -> dict[tuple[int, ...], float]:
    values = torch.randn(8, generator=torch.Generator().manual_seed(7), dtype=torch.float64) + offset
    return dict(zip(itertools.product((0, 1), repeat=3), values.tolist(), strict=True))


def gradient(table: dict[tuple[int, ...], float]) -> Tensor:
    """dE[L]/ds: E[L] is linear in each s, so its slope is E[L | bit = 1] - E[L | bit = 0]."""
    slopes = [0.0, 0.0, 0.0]
    for bits, loss in table.items():
        for k in range(3):
            others = math.prod(S[n] if bits[n] else 1 - S[n] for n in range(3) if n != k)
            slopes[k] += (1 if bits[k] else -1) * others * loss
    return torch.tensor(slopes, dtype=torch.float64)


@pytest.mark.parametrize("count", [2, 3])
def test_estimator_is_the_gradient_times_the_root_in_expectation(count: int) -> None:
    sampled, table = example(), loss_table()
    mean = torch.zeros(3, dtype=torch.float64)
    for chosen in itertools.product(draws(), repeat=count):
        chance = math.prod(c for c, _, _ in chosen)
        mean += chance * joint(sampled.estimate([m for _, m, _ in chosen], [table[bits] for _, _, bits in chosen]))
    s = torch.tensor(S, dtype=torch.float64)
    expected = torch.sqrt(s * (1 - s)) * gradient(table)
    assert expected.abs().min() > 0.05
    assert torch.allclose(mean, expected, rtol=1e-12, atol=1e-12)


def test_estimator_varies_less_than_the_plain_score_function() -> None:
    sampled, table = example(), loss_table(offset=100.0)
    s = torch.tensor(S, dtype=torch.float64)
    expected = torch.sqrt(s * (1 - s)) * gradient(table)
    ours, plain, plain_mean = (torch.zeros(3, dtype=torch.float64) for _ in range(3))
    for (c1, m1, bits1), (c2, m2, bits2) in itertools.product(draws(), repeat=2):
        estimate = joint(sampled.estimate([m1, m2], [table[bits1], table[bits2]]))
        # The plain one of the same two forward passes, with the same root so that its expectation is the same.
        scores = [table[b] * (torch.tensor(b) - s) / torch.sqrt(s * (1 - s)) for b in (bits1, bits2)]
        ours += c1 * c2 * (estimate - expected) ** 2
        plain_mean += c1 * c2 * sum(scores) / 2
        plain += c1 * c2 * (sum(scores) / 2 - expected) ** 2
    assert torch.allclose(plain_mean, expected, rtol=1e-10, atol=1e-10)
    # The offset of 100 stays in the plain one's variance, about 100**2 / 2, and cancels in ours.
    assert (ours < 1e-3 * plain).all() and (plain > 1e3).all()


def test_estimate_by_hand() -> None:
    sampled = SampledMasks({"a": (2,)}, keep=0.2, steps=10)
    masks = [{"a": torch.tensor(bits).bool()} for bits in ([1, 0], [0, 0], [1, 1])]
    found = sampled.estimate(masks, [3.0, 1.0, 5.0])["a"]
    # mean 3; weights 0, -1, 1; m - s = -0.2 twice and 0.8 twice; root of 0.2 * 0.8 = 0.4
    assert found.tolist() == pytest.approx([(0.2 + 0.8) / 0.4, (0.2 + 0.8) / 0.4])


def test_estimate_is_zero_where_nothing_is_random() -> None:
    sampled = SampledMasks({"a": (3,)}, keep=1.0, steps=10)
    draw = sampled.sample()
    assert draw["a"].all()
    assert sampled.estimate([draw, draw], [1.0, 2.0])["a"].tolist() == [0, 0, 0]


def test_samples_follow_the_probabilities() -> None:
    sampled, count = example(), 4000
    total = torch.zeros(3)
    pairs = 0
    for _ in range(count):
        masks = sampled.sample()
        assert masks["a"].dtype == torch.bool and masks["a"].shape == (2,) and masks["b"].shape == (1, 1)
        bits = joint(masks)
        total += bits
        pairs += int(bits[0] & bits[1])
    for found, s in [*zip(total.tolist(), S, strict=True), (pairs, S[0] * S[1])]:
        # 4 deviations: a chance of 6 in 100,000 for each of the four, were the seed not fixed.
        assert abs(found - count * s) < 4 * math.sqrt(count * s * (1 - s))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_projection_is_the_nearest_point(seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(9, 11, generator=generator, dtype=dtype) * 0.8 + 0.5
    budget = [0.0, 0.7, 5.0, 20.0, 30.0, 33.3, 35.0, 41.0][seed]
    assert float(values.clamp(0, 1).sum()) > budget
    found = project(values, budget)
    assert found.shape == values.shape and found.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert float(found.sum()) <= budget and float(found.sum()) == pytest.approx(budget, abs=99 * tolerance)
    assert found.min() >= 0 and found.max() <= 1
    # Optimality: one v >= 0 for all that lie between 0 and 1; at 0 it would have to be larger, at 1 smaller.
    inside = (found > 0) & (found < 1)
    v = float((values - found)[inside].mean()) if inside.any() else float(values.max())
    assert v > 0
    assert ((values - found)[inside] - v).abs().max() < tolerance if inside.any() else budget == 0
    assert (values[found == 0] <= v + tolerance).all() and (values[found == 1] >= 1 + v - tolerance).all()


def test_projection_leaves_what_is_within_the_budget() -> None:
    assert project(torch.tensor([0.5, 0.25]), 0.75).tolist() == [0.5, 0.25]
    # 1.5 and -1.0 count as what they are clipped to.
    assert project(torch.tensor([1.5, -1.0, 0.5]), 1.5).tolist() == [1.0, 0.0, 0.5]
    # Both lose 0.25: the negative one does not make room.
    assert project(torch.tensor([0.75, 0.75, -1.0], dtype=torch.float64), 1.0).tolist() == [0.5, 0.5, 0.0]


def test_budget_is_joint_over_the_groups() -> None:
    sampled = SampledMasks({"a": (4,), "b": (2, 3)}, keep=0.5, steps=100, lr=0.2)
    assert sampled.budget == 5.0
    ones, zeros = ({"a": torch.full((4,), a), "b": torch.full((2, 3), not a)} for a in (True, False))
    for _ in range(4):  # losses that want all of a and none of b
        sampled.update_([ones, zeros], [0.0, 1.0])
        s = sampled.probabilities
        assert float(s["a"].sum() + s["b"].sum()) <= 5.0
    assert s["a"].min() > 0.9 and s["b"].max() < 0.1


def test_start_is_projected() -> None:
    assert SampledMasks({"a": (4,)}, 0.25, steps=1).probabilities["a"].tolist() == [0.25] * 4
    assert SampledMasks({"a": (4,)}, 0.75, steps=1, initial=0.5).probabilities["a"].tolist() == [0.5] * 4
    lowered = SampledMasks({"a": (4,)}, 0.25, steps=1, initial=0.5).probabilities["a"]
    assert lowered.tolist() == pytest.approx([0.25] * 4)


@pytest.mark.parametrize("grad_clip", [None, 0.5, 1e6])
def test_update_is_adam_with_a_cosine_and_the_projection(grad_clip: float | None) -> None:
    lr, steps = 0.05, 3
    sampled = SampledMasks({"a": (3,), "b": (2, 2)}, 0.5, steps=steps, lr=lr, grad_clip=grad_clip, seed=5)
    s = torch.full((7,), 0.5, dtype=torch.float64)
    m, v = torch.zeros_like(s), torch.zeros_like(s)
    for step in range(5):
        masks, losses = [sampled.sample(), sampled.sample()], [1.0 + step, -2.0]
        estimate = sampled.estimate(masks, losses)
        sampled.update_(masks, losses)
        g = torch.cat([estimate["a"], estimate["b"].flatten()])
        if grad_clip is not None:
            g = g * min(1.0, grad_clip / float(g.norm()))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        rate = lr * (1 + math.cos(math.pi * min(step, steps) / steps)) / 2
        corrected = (m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1)))
        s = project(s - rate * corrected[0] / (corrected[1].sqrt() + 1e-8), 3.5)
        found = sampled.probabilities
        assert torch.allclose(torch.cat([found["a"], found["b"].flatten()]), s, atol=1e-6)
    assert (s - 0.5).abs().max() > 0.03


def test_learns_which_units_matter() -> None:
    sampled = SampledMasks({"h": (20,)}, 0.5, steps=300, lr=0.05, initial=0.5)
    useful = torch.arange(20) % 2 == 0
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        pair = [sampled.sample(), sampled.sample()]
        noise = float(torch.randn(1, generator=generator))  # of the minibatch, the same for both draws
        sampled.update_(pair, [50 + noise - float((draw["h"] & useful).sum()) for draw in pair])
    assert torch.equal(sampled.best()["h"], useful)


def with_probabilities(groups: dict[str, list[float]], keep: float) -> SampledMasks:
    sampled = SampledMasks({name: (len(s),) for name, s in groups.items()}, keep, steps=1)
    probabilities = {name: torch.tensor(s, dtype=torch.float64) for name, s in groups.items()}
    sampled.load_state_dict(sampled.state_dict() | {"probabilities": probabilities})
    return sampled


@pytest.mark.parametrize(
    ("groups", "keep", "expected"),
    [
        ({"a": [0.1, 0.8, 0.6], "b": [0.7, 0.2]}, 0.6, {"a": [0, 1, 1], "b": [1, 0]}),
        ({"a": [0.9, 0.8, 0.7], "b": [0.1, 0.2]}, 0.6, {"a": [1, 1, 0], "b": [0, 1]}),  # at least one of b
        ({"a": [0.5, 0.5, 0.5], "b": [0.5, 0.5]}, 0.6, {"a": [1, 1, 0], "b": [1, 0]}),  # ties: earlier first
        ({"a": [0.1], "b": [0.1], "c": [0.2, 0.3, 0.0]}, 0.2, {"a": [1], "b": [1], "c": [0, 1, 0]}),  # budget of 1
        ({"a": [0.0, 0.0], "b": [1.0, 0.1]}, 0.7, {"a": [1, 0], "b": [1, 1]}),  # 2.8 is 3
    ],
)
def test_best_keeps_the_largest(groups: dict[str, list[float]], keep: float, expected: dict[str, list[int]]) -> None:
    best = with_probabilities(groups, keep).best()
    assert {name: mask.long().tolist() for name, mask in best.items()} == expected


def test_best_keeps_the_budget_at_size_and_breaks_ties_by_index() -> None:
    best = SampledMasks({"a": (64, 16), "b": (64, 8)}, 0.4, steps=1).best()
    kept = torch.cat([best["a"].flatten(), best["b"].flatten()])
    assert int(kept.sum()) == round(0.4 * 64 * 24)
    # All are equal: the first of each group, then the earliest.
    assert kept[: int(kept.sum()) - 1].all() and kept[64 * 16]


def test_resumes_bit_for_bit() -> None:
    shapes = {"a": (5,), "b": (4, 2)}
    sampled = SampledMasks(shapes, 0.4, steps=20, seed=1)

    def train(one: SampledMasks, steps: int) -> None:
        for step in range(steps):
            one.update_([one.sample(), one.sample()], [1.0, 2.0 + step])

    train(sampled, 3)
    file = io.BytesIO()
    torch.save(sampled.state_dict(), file)
    file.seek(0)
    resumed = SampledMasks(shapes, 0.4, steps=20, seed=2)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    train(sampled, 5)
    train(resumed, 5)
    for name in shapes:
        assert torch.equal(sampled.probabilities[name], resumed.probabilities[name])
        assert not torch.equal(sampled.probabilities[name], torch.full(shapes[name], 0.4, dtype=torch.float64))
        assert torch.equal(sampled.sample()[name], resumed.sample()[name])


def test_a_saved_state_and_the_object_share_nothing() -> None:
    sampled = SampledMasks({"a": (6,)}, 0.5, steps=20)
    pair = [{"a": torch.arange(6) < 3}, {"a": torch.arange(6) >= 3}]
    sampled.update_(pair, [1.0, 2.0])
    state = sampled.state_dict()
    sampled.update_(pair, [1.0, 2.0])
    once = sampled.probabilities["a"]
    sampled.load_state_dict(state)
    sampled.update_(pair, [1.0, 2.0])
    assert torch.equal(sampled.probabilities["a"], once)
    sampled.load_state_dict(state)
    state["probabilities"]["a"].zero_()
    state["optimizer"]["state"][0]["exp_avg"].zero_()
    sampled.update_(pair, [1.0, 2.0])
    assert torch.equal(sampled.probabilities["a"], once)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shapes": {}}, "shapes must hold at least one group, got none"),
        ({"shapes": {"a": ()}}, r"shapes\['a'\] must be .*, got \(\)"),
        ({"shapes": {"a": (4, 0)}}, r"shapes\['a'\] must be one or more sizes of at least 1, got \(4, 0\)"),
        ({"keep": 0.0}, r"keep must be greater than 0 and at most 1, got 0\.0"),
        ({"keep": 1.1}, r"keep must .*, got 1\.1"),
        ({"keep": math.nan}, "keep must .*, got nan"),
        ({"initial": 0.0}, r"initial must be greater than 0 and at most 1, got 0\.0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"lr": 0.0}, r"lr must be a finite number greater than 0, got 0\.0"),
        ({"lr": math.inf}, "lr must .*, got inf"),
        ({"grad_clip": -1.0}, r"grad_clip must .*, got -1\.0"),
    ],
)
def test_refuses_bad_settings(settings: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"shapes": {"a": (4,)}, "keep": 0.5, "steps": 10} | settings
    with pytest.raises(ValueError, match=message):
        SampledMasks(**arguments)


def test_refuses_bad_draws_and_changes_nothing() -> None:
    sampled = SampledMasks({"a": (3,)}, 0.5, steps=10)
    draw = {"a": torch.tensor([True, False, True])}
    for masks, losses, message in [
        ([draw], [1.0], "masks must be at least 2 draws, each with a loss; got 1 and 1 losses"),
        ([], [], "got 0 and 0 losses"),
        ([draw, draw], [1.0], "got 2 and 1 losses"),
        ([draw, draw], [1.0, math.nan], "losses must be finite, got nan"),
        ([draw, draw], [math.inf, 1.0], "losses must be finite, got inf"),
        ([draw, {"b": draw["a"]}], [1.0, 2.0], "a draw must hold a; got b"),
        (
            [draw, {"a": draw["a"][:2]}],
            [1.0, 2.0],
            r"mask of a must be torch\.bool of shape \(3,\), got torch\.bool of shape \(2,\)",
        ),
        ([draw, {"a": draw["a"].float()}], [1.0, 2.0], r"got torch\.float32 of shape \(3,\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            sampled.estimate(masks, losses)
        with pytest.raises(ValueError, match=message):
            sampled.update_(masks, losses)
    assert sampled.probabilities["a"].tolist() == [0.5] * 3 and sampled.state_dict()["step"] == 0


def test_projection_refuses_bad_values() -> None:
    with pytest.raises(ValueError, match="budget must be at least 0, got -1"):
        project(torch.zeros(2), -1)
    with pytest.raises(ValueError, match=r"budget must .*, got nan"):
        project(torch.zeros(2), math.nan)
    with pytest.raises(ValueError, match="values must be finite, got nan \\(values that are not finite: 2\\)"):
        project(torch.tensor([0.5, math.nan, math.inf]), 1.0)


def test_refuses_a_corrupt_state_and_changes_nothing() -> None:
    sampled = SampledMasks({"a": (3,), "b": (2,)}, 0.5, steps=10)
    pair = [{"a": torch.tensor([True, False, bit]), "b": torch.tensor([bit, bit])} for bit in (True, False)]
    sampled.update_(pair, [1.0, 2.0])
    good = sampled.state_dict()
    adam = good["optimizer"]

    def with_a(values: Any) -> dict[str, Any]:
        return good | {"probabilities": good["probabilities"] | {"a": values}}

    for bad, message in [
        ([], "state must be a mapping with probabilities, optimizer, step, generator; got list"),
        ({}, "state must hold probabilities, optimizer, step, generator; got nothing"),
        (good | {"probabilities": {"a": torch.zeros(3)}}, r"state\['probabilities'\] must hold a, b; got a"),
        (
            with_a(torch.zeros(4)),
            r"state\['probabilities'\]\['a'\] must be a torch.Tensor of shape \(3,\), got .* \(4,\)",
        ),
        (with_a(torch.tensor([0.1, 0.1, math.nan])), r"state\['probabilities'\]\['a'\] must be from 0 to 1, got nan"),
        (with_a(torch.tensor([0.1, 0.1, 1.1])), r"must be from 0 to 1, got 1\.1"),
        (with_a(torch.ones(3)), r"state\['probabilities'\] must have a sum of at most 2\.5, got \d"),
        (good | {"step": -1}, r"state\['step'\] must be an integer of at least 0, got -1"),
        (good | {"step": "1"}, "must be an integer of at least 0, got '1'"),
        (
            good | {"generator": torch.zeros(3, dtype=torch.uint8)},
            r"state\['generator'\] must be the state of a CPU generator",
        ),
        (good | {"optimizer": None}, r"state\['optimizer'\] must be a state of Adam"),
        (good | {"optimizer": {"state": {}}}, r"state\['optimizer'\] must be a state of Adam"),
        (
            good | {"optimizer": adam | {"state": {0: adam["state"][0]}}},
            r"state\['optimizer'\] must be a state of Adam",
        ),
        (
            good | {"optimizer": adam | {"state": {0: adam["state"][1], 1: adam["state"][0]}}},
            r"state\['optimizer'\] must be a state of Adam for the same shapes, got other shapes",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            sampled.load_state_dict(bad)  # type: ignore[arg-type]
    after = sampled.state_dict()
    assert torch.equal(after["probabilities"]["a"], good["probabilities"]["a"]) and after["step"] == 1
    assert torch.equal(after["generator"], good["generator"])
