"""Dynamic sparse training against its definition, element by element."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gradsieve.training.methods.sparse_weights import Distribution, DynamicSparseTraining

SHAPES = {"w_ih": (12, 10), "w_hh": (12, 3)}


def make(shapes: dict[str, tuple[int, int]] = SHAPES, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def by_magnitude(weight: Tensor, mask: Tensor, columns: int) -> list[tuple[int, int]]:
    """The kept blocks, smallest mean |w| first, one element at a time."""
    scores = {}
    for row, tile in mask.nonzero().tolist():
        values = [abs(v) for v in weight[row].tolist()[tile * columns : (tile + 1) * columns]]
        scores[row, tile] = sum(values) / len(values)
    return sorted(scores, key=lambda k: scores[k])


def elements(blocks: list[tuple[int, int]], shape: tuple[int, ...], columns: int) -> Tensor:
    out = torch.zeros(shape, dtype=torch.bool)
    for row, tile in blocks:
        out[row, tile * columns : (tile + 1) * columns] = True
    return out


@pytest.mark.parametrize("columns", [1, 3, 4, 16])
@pytest.mark.parametrize("density", [0.05, 0.33, 0.5, 1.0])
def test_first_masks_hold_the_exact_budget(columns: int, density: float) -> None:
    if density == 0.05 and columns == 16:
        density = 0.1  # or a weight of one block a row would keep none of twelve
    masks = DynamicSparseTraining(make(), density, columns, steps=10).masks
    for name, (rows, width) in SHAPES.items():
        assert masks[name].shape == (rows, math.ceil(width / columns))
        assert int(masks[name].sum()) == round(density * masks[name].numel())


def test_first_masks_are_drawn_uniformly() -> None:
    counts = torch.zeros(8, 6)
    draws = 600
    for seed in range(draws):
        counts += DynamicSparseTraining({"w": torch.zeros(8, 6)}, 0.25, 1, steps=1, seed=seed).masks["w"]
    # 48 binomial counts of mean 150 and deviation 10.6: one beyond 5 deviations has a chance below 1 in 30,000.
    deviation = math.sqrt(draws * 0.25 * 0.75)
    assert ((counts - draws * 0.25).abs() < 5 * deviation).all()


@pytest.mark.parametrize("columns", [1, 3, 4])
def test_expand_repeats_a_block_over_its_columns(columns: int) -> None:
    sparse = DynamicSparseTraining(make(), 0.4, columns, steps=10)
    for name, shape in SHAPES.items():
        kept = [(row, tile) for row, tile in sparse.masks[name].nonzero().tolist()]
        assert torch.equal(sparse.expand(name), elements(kept, shape, columns))


def test_apply_zeroes_the_masked_weights_only() -> None:
    weights = make()
    before = {name: w.detach().clone() for name, w in weights.items()}
    sparse = DynamicSparseTraining(weights, 0.4, 4, steps=10)
    assert all(torch.equal(w, before[name]) for name, w in weights.items())
    sparse.apply_()
    for name, w in weights.items():
        kept = sparse.expand(name)
        assert torch.equal(w[kept], before[name][kept]) and not w[~kept].any() and w.requires_grad


def test_rate_is_the_cosine() -> None:
    sparse = DynamicSparseTraining(make(), 0.5, 4, steps=8, death_rate=0.8)
    w = torch.nn.Parameter(torch.zeros(1))
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.SGD([w], lr=0.8), T_max=8, eta_min=0.005)
    for step in range(9):
        assert sparse.rate(step) == pytest.approx(reference.get_last_lr()[0], abs=1e-12)
        reference.optimizer.step()
        reference.step()
    assert sparse.rate(4) == pytest.approx(0.4025)
    assert sparse.rate(9) == sparse.rate(800) == pytest.approx(0.005)


@pytest.mark.parametrize("columns", [1, 3, 4])
@pytest.mark.parametrize("step", [0, 5, 10])
def test_update_removes_the_smallest_and_restores_the_count(columns: int, step: int) -> None:
    weights = make(seed=columns)
    sparse = DynamicSparseTraining(weights, 0.5, columns, steps=10, seed=step)
    sparse.apply_()
    old = {name: (w.detach().clone(), sparse.masks[name]) for name, w in weights.items()}
    update = sparse.update_(step)
    assert update.rate == sparse.rate(step)
    for name, shape in SHAPES.items():
        before, mask = old[name]
        order = by_magnitude(before, mask, columns)
        count = math.ceil(update.rate * len(order))
        assert update.blocks[name] == count > 0
        removed = elements(order[:count], shape, columns)
        assert torch.equal(update.removed[name], removed)
        survivors = elements(order[count:], shape, columns)
        # What is kept now is what survived and what was grown, and nothing grew where something survived.
        assert torch.equal(sparse.expand(name), survivors | update.grown[name])
        assert not (survivors & update.grown[name]).any()
        assert int(sparse.masks[name].sum()) == len(order)
        assert not weights[name][update.grown[name] | ~sparse.expand(name)].any()
        assert torch.equal(weights[name][survivors], before[survivors])


def test_a_mask_handed_out_does_not_change() -> None:
    sparse = DynamicSparseTraining(make(), 0.5, 4, steps=10)
    mask = sparse.masks["w_ih"]
    copy = mask.clone()
    sparse.update_(0)
    assert torch.equal(mask, copy) and not torch.equal(sparse.masks["w_ih"], copy)


def test_the_narrow_last_block_is_scored_by_its_real_elements() -> None:
    # Mean |w| of the blocks of 4 + 1 columns: 1.0 and 2.0 in each row but the first, where the wide one is 3.0.
    weight = torch.tensor([[1.0, 1, 1, 1, 2]] * 4)
    weight[0, :4] = 3
    sparse = DynamicSparseTraining({"w": weight}, 1.0, 4, steps=1, death_rate=0.375, final_death_rate=0.375)
    sparse.masks["w"] = torch.tensor([[1, 1], [1, 1], [1, 1], [1, 0]], dtype=torch.bool)
    removed = sparse.update_(0).removed["w"]
    # ceil(0.375 * 7) = 3: the three wide blocks of 1.0, none of the narrow ones.
    assert removed.tolist() == [[False] * 5] + [[True] * 4 + [False]] * 3


def test_growth_reaches_every_block_that_is_off_and_no_other() -> None:
    weight = torch.arange(1.0, 13).view(4, 3)
    mask = torch.tensor([[1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]], dtype=torch.bool)
    counts = torch.zeros(4, 3)
    draws = 900
    for seed in range(draws):
        w = weight.clone()
        sparse = DynamicSparseTraining({"w": w}, 0.5, 1, steps=1, death_rate=0.5, final_death_rate=0.5, seed=seed)
        sparse.masks["w"] = mask
        counts += sparse.update_(0).grown["w"]
    # The three smallest were removed; three of the nine blocks then off are grown, the removed ones no less often.
    off = torch.tensor([[1, 1, 1], [0, 0, 0], [1, 1, 1], [1, 1, 1]], dtype=torch.bool)
    assert not counts[~off].any()
    deviation = math.sqrt(draws * (1 / 3) * (2 / 3))
    assert ((counts[off] - draws / 3).abs() < 5 * deviation).all()


def test_density_moves_between_the_gates() -> None:
    weights = make({"w": (64, 32)})
    with torch.no_grad():
        weights["w"][32:48] *= 0.01  # gate g
    sparse = DynamicSparseTraining(weights, 0.5, 4, steps=100, death_rate=0.3)
    before = sparse.density_by_gate()["w"]
    sparse.update_(0)
    after = sparse.density_by_gate()["w"]
    assert sum(after) == pytest.approx(sum(before)) == pytest.approx(2.0)
    assert after[2] < 0.7 * before[2] and all(after[k] > before[k] for k in (0, 1, 3))
    kept = sparse.masks["w"].view(4, -1)
    assert after == tuple(int(gate.sum()) / gate.numel() for gate in kept)


def test_a_dense_weight_is_left_alone() -> None:
    weights = make()
    before = {name: w.detach().clone() for name, w in weights.items()}
    update = DynamicSparseTraining(weights, 1.0, 4, steps=10).update_(0)
    assert set(update.blocks.values()) == {0} and not any(grown.any() for grown in update.grown.values())
    assert all(torch.equal(w, before[name]) for name, w in weights.items())


def test_erdos_renyi_spreads_the_exact_budget() -> None:
    shapes = {"large": (400, 300), "wide": (40, 300), "small": (40, 10)}
    sparse = DynamicSparseTraining(make(shapes), 0.11, 1, steps=1, distribution="er")
    counts = {name: int(mask.sum()) for name, mask in sparse.masks.items()}
    assert sum(counts.values()) == round(0.11 * sum(rows * width for rows, width in shapes.values()))
    assert counts["small"] == 400  # its share would be more than all it has
    shares = {name: counts[name] / sum(shapes[name]) for name in ("large", "wide")}
    assert shares["large"] == pytest.approx(shares["wide"], abs=1 / sum(shapes["wide"]))


@pytest.mark.parametrize("density", [0.2, 0.5, 0.77, 0.999, 1.0])
@pytest.mark.parametrize("columns", [1, 4])
def test_erdos_renyi_total_at_any_density(density: float, columns: int) -> None:
    shapes = {"a": (16, 7), "b": (16, 16), "c": (8, 3), "d": (16, 7)}
    masks = DynamicSparseTraining(make(shapes), density, columns, steps=1, distribution="er").masks.values()
    assert sum(int(mask.sum()) for mask in masks) == round(density * sum(mask.numel() for mask in masks))


def test_resumes_bit_for_bit() -> None:
    weights = make()
    sparse = DynamicSparseTraining(weights, 0.4, 4, steps=10, seed=3)
    sparse.update_(1)
    file = io.BytesIO()
    torch.save(sparse.state_dict(), file)
    file.seek(0)
    copies = {name: w.detach().clone() for name, w in weights.items()}
    resumed = DynamicSparseTraining(copies, 0.4, 4, steps=10, seed=99)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for step in range(2, 6):
        with torch.no_grad():
            for name in SHAPES:
                change = torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(step))
                weights[name] += change
                copies[name] += change
        one, other = sparse.update_(step), resumed.update_(step)
        assert one.blocks == other.blocks
        for name in SHAPES:
            assert torch.equal(one.grown[name], other.grown[name])
            assert torch.equal(sparse.masks[name], resumed.masks[name])
            assert torch.equal(weights[name], copies[name])


def test_a_saved_state_and_the_object_share_nothing() -> None:
    sparse = DynamicSparseTraining(make(), 0.4, 4, steps=10)
    state, mask = sparse.state_dict(), sparse.masks["w_ih"].clone()
    sparse.masks["w_ih"].logical_not_()
    assert torch.equal(state["masks"]["w_ih"], mask)
    sparse.load_state_dict(state)
    state["masks"]["w_ih"].logical_not_()
    assert torch.equal(sparse.masks["w_ih"], mask)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"density": 0.0}, r"density must be greater than 0 and at most 1, got 0\.0"),
        ({"density": 1.5}, r"density must .*, got 1\.5"),
        ({"density": math.nan}, "density must .*, got nan"),
        ({"columns": 0}, "columns must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"death_rate": 1.2}, r"must be 0 <= final_death_rate <= death_rate <= 1, got 1\.2 and 0\.005"),
        ({"final_death_rate": 0.9}, r"death_rate <= 1, got 0\.8 and 0\.9"),
        ({"death_rate": math.nan}, "death_rate <= 1, got nan and"),
        ({"distribution": "even"}, "distribution must be uniform or er, got 'even'"),
        ({"weights": {}}, "weights must hold at least one weight, got none"),
        ({"weights": {"b": torch.zeros(8)}}, r"b must have shape \(4H, n\), got \(8,\)"),
        ({"weights": {"w": torch.zeros(6, 2)}}, r"w must have shape \(4H, n\), got \(6, 2\)"),
        ({"weights": {"w": torch.zeros(8, 0)}}, r"w must have shape .* got \(8, 0\)"),
        (
            {"weights": {"w": torch.zeros(8, 2, dtype=torch.int64)}},
            r"w must have a floating-point dtype, got torch\.int64",
        ),
        ({"density": 0.01}, r"density must keep a block of every weight, got 0\.01: none of the 36 blocks of w_ih"),
    ],
)
def test_refuses_bad_settings(settings: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"weights": make(), "density": 0.5, "columns": 4, "steps": 10} | settings
    with pytest.raises(ValueError, match=message):
        DynamicSparseTraining(**arguments)


@pytest.mark.parametrize("distribution", ["uniform", "er"])
def test_refuses_a_density_that_empties_a_weight(distribution: Distribution) -> None:
    weights = make({"large": (400, 300), "small": (4, 300)})
    with pytest.raises(ValueError, match="none of the 4 blocks of small"):
        DynamicSparseTraining(weights, 0.002, 300, steps=1, distribution=distribution)


def test_refuses_a_bad_update_and_changes_nothing() -> None:
    weights = make()
    sparse = DynamicSparseTraining(weights, 0.5, 4, steps=10)
    before = sparse.masks["w_ih"].clone()
    with pytest.raises(ValueError, match="step must be at least 0, got -1"):
        sparse.update_(-1)
    with torch.no_grad():
        weights["w_hh"][3, 1] = math.nan
    with pytest.raises(ValueError, match="w_hh must be finite, got nan"):
        sparse.update_(0)
    assert torch.equal(sparse.masks["w_ih"], before)


def test_refuses_a_corrupt_state_and_changes_nothing() -> None:
    sparse = DynamicSparseTraining(make(), 0.5, 4, steps=10)
    good = sparse.state_dict()

    def with_mask(mask: Any) -> dict[str, Any]:
        return good | {"masks": good["masks"] | {"w_hh": mask}}

    mask = good["masks"]["w_hh"]
    for bad, message in [
        (None, "state must be a mapping with masks, generator; got NoneType"),
        ({"masks": good["masks"]}, "state must hold masks, generator; got masks"),
        (good | {"masks": {"w_ih": mask}}, r"state\['masks'\] must hold w_ih, w_hh; got w_ih"),
        (with_mask(mask.long()), r"must be torch\.bool of shape \(12, 1\), got torch\.int64 of shape \(12, 1\)"),
        (with_mask(mask[:8]), r"must be torch\.bool of shape \(12, 1\), got torch\.bool of shape \(8, 1\)"),
        (with_mask([True]), r"state\['masks'\]\['w_hh'\] must be torch\.bool .*, got list"),
        (with_mask(torch.ones_like(mask)), r"state\['masks'\]\['w_hh'\] must keep 6 blocks, got 12"),
        (good | {"generator": good["generator"][:10]}, r"state\['generator'\] must be the state of a CPU generator"),
        (good | {"generator": "x"}, r"state\['generator'\] must be the state of a CPU generator"),
    ]:
        with pytest.raises(ValueError, match=message):
            sparse.load_state_dict(bad)  # type: ignore[arg-type]
    after = sparse.state_dict()
    assert torch.equal(after["generator"], good["generator"])
    assert all(torch.equal(after["masks"][name], good["masks"][name]) for name in SHAPES)
