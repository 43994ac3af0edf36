"""Weight masks and unit masks: what exists, and what gets a gradient."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from gradsieve.training.backends import FloatBackend
from gradsieve.training.lstm import SievedLSTM
from gradsieve.training.methods.masks import WeightMasks, expand_blocks
from gradsieve.training.methods.sieves import RowSieve

I, H, R = 5, 6, 4


def test_blocks_expand_to_weights() -> None:
    mask = torch.tensor([[True, False], [False, True]])
    assert expand_blocks(mask, 3, 5).tolist() == [[True] * 3 + [False] * 2, [False] * 3 + [True] * 2]
    assert expand_blocks(mask, 1, 2) is mask


def random_masks(lstm: nn.LSTM, columns: int, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(len(p), -(-p.shape[1] // columns), generator=generator) < 0.5
        for name, p in lstm.named_parameters()
        if name.startswith("weight") and name != "weight_ih_l0"  # one without a mask
    }


def whole(masks: dict[str, Tensor], name: str, weight: Tensor, columns: int) -> Tensor:
    """The mask of each weight, column by column."""
    if name not in masks:
        return torch.ones_like(weight)
    tiles = torch.arange(weight.shape[1]) // columns
    return masks[name][:, tiles].to(weight)


@pytest.mark.parametrize("columns", [1, R, 16])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("sieved", [False, True])
def test_weight_masks_are_weights_at_zero(columns: int, bidirectional: bool, sieved: bool) -> None:
    torch.manual_seed(0)
    theirs = nn.LSTM(I, H, 2, bidirectional=bidirectional).double()
    ours = SievedLSTM(I, H, 2, bidirectional=bidirectional).double()
    ours.load_state_dict(theirs.state_dict())
    masks = random_masks(ours, columns)
    ours.weight_masks = WeightMasks(columns, masks)
    if sieved:
        ours.sieve, ours.backend = RowSieve(tau=0.0), FloatBackend(lanes=1, columns=R)
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if name.startswith("weight"):
                p.mul_(whole(masks, name, p, columns))
    for mode, x in itertools.product((True, False), (torch.randn(3, 2, I).double(), packed())):
        ours.train(mode), theirs.train(mode)
        (y, (h, c)), (expected, state) = ours(x), theirs(x)
        torch.testing.assert_close((data_of(y), h, c), (data_of(expected), *state))
        found = torch.autograd.grad(loss(y, h, c), list(ours.parameters()))
        wanted = torch.autograd.grad(loss(expected, *state), list(theirs.parameters()))
        for (name, p), a, b in zip(ours.named_parameters(), found, wanted, strict=True):
            if name.startswith("weight"):
                b = b * whole(masks, name, p, columns)
                assert not a[whole(masks, name, p, columns) == 0].any()
            torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[1], theirs(x)[1])
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def packed() -> nn.utils.rnn.PackedSequence:
    torch.manual_seed(5)
    return pack_sequence([torch.randn(n, I).double() for n in (2, 3, 1)], enforce_sorted=False)


def data_of(y: Tensor | nn.utils.rnn.PackedSequence) -> Tensor:
    return y if isinstance(y, Tensor) else y.data


def loss(y: Tensor | nn.utils.rnn.PackedSequence, h: Tensor, c: Tensor) -> Tensor:
    return data_of(y).pow(2).sum() + h.pow(3).sum() + c.sin().sum()


def test_masks_may_change_between_steps_also_in_place() -> None:
    lstm = SievedLSTM(I, H)
    mask = torch.ones(4 * H, 2, dtype=torch.bool)
    masks = {"weight_hh_l0": mask}
    lstm.weight_masks = WeightMasks(R, masks)
    x = torch.randn(3, 2, I)
    before = lstm(x)[0]
    mask[:, 0] = False
    in_place = lstm(x)[0]
    assert not torch.equal(before, in_place)
    masks["weight_hh_l0"] = mask.clone()
    assert torch.equal(lstm(x)[0], in_place)
    masks["weight_hh_l0"] = torch.ones_like(mask)
    assert torch.equal(lstm(x)[0], before)
    del masks["weight_hh_l0"]
    assert torch.equal(lstm(x)[0], before)
    lstm.double()
    masks["weight_hh_l0"] = mask
    double = lstm(x.double())[0]
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), in_place)


def test_bitmap_of_a_layer_has_the_tiles_of_x_before_those_of_h() -> None:
    hh = torch.rand(4 * H, 2) < 0.5
    masks = WeightMasks(R, {"weight_hh_l1": hh})
    block = masks.blocks("l1", 4 * H, (I, H))
    assert block.shape == (4 * H, 4) and bool(block[:, :2].all()) and torch.equal(block[:, 2:], hh)
    assert bool(masks.blocks("l0", 4 * H, (I, H)).all())
    lstm = SievedLSTM(I, H, backend=FloatBackend(columns=R))
    lstm.weight_masks = WeightMasks(R, {"weight_hh_l0": hh})
    lstm(torch.randn(3, 2, I))[0].sum().backward()
    (taken,) = lstm.take_statistics()
    assert taken.block is not None and torch.equal(
        taken.block, torch.cat([torch.ones(4 * H, 2, dtype=torch.bool), hh], dim=1)
    )


@pytest.mark.parametrize(
    "mask", [torch.ones(4 * H, 3, dtype=torch.bool), torch.ones(H, 2, dtype=torch.bool), torch.ones(4 * H, 2)]
)
def test_masks_of_another_shape_or_dtype_are_refused(mask: Tensor) -> None:
    lstm = SievedLSTM(I, H)
    lstm.weight_masks = WeightMasks(R, {"weight_hh_l0": mask})
    with pytest.raises(ValueError, match=r"mask of weight_hh_l0 must be torch.bool of shape \(24, 2\)"):
        lstm(torch.randn(3, 2, I))


# unit masks


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("sieved", [False, True])
def test_unit_masks_are_the_network_without_those_units(
    bidirectional: bool, batch_first: bool, bias: bool, sieved: bool
) -> None:
    """The reference has all the units, with h held at zero by way of the weights that read it, layer by layer."""
    torch.manual_seed(1)
    layout: dict[str, Any] = {"bidirectional": bidirectional, "batch_first": batch_first, "bias": bias}
    ours = SievedLSTM(I, H, 2, **layout).double()
    generator = torch.Generator().manual_seed(2)
    units = [torch.rand(H, generator=generator) < 0.6 for _ in ours.layers]
    assert all(0 < int(u.sum()) < H for u in units)
    ours.unit_masks = units
    if sieved:
        ours.sieve, ours.backend = RowSieve(tau=0.0), FloatBackend(lanes=1)
    directions = 2 if bidirectional else 1
    h0, c0 = (torch.randn(len(ours.layers), 3, H).double().requires_grad_() for _ in range(2))
    for x in (torch.randn(3, 3, I).double().requires_grad_(), packed()):
        below, hs, cs = x, [], []
        for level in range(2):
            width = I if level == 0 else directions * H
            layer = nn.LSTM(width, H, **layout).double()
            mine = slice(level * directions, (level + 1) * directions)
            parameters = {}
            for n, name in enumerate(ours.layers[mine]):
                suffix = "_reverse" if n else ""
                keep = units[mine][n].double()
                for kind in ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if bias else ())):
                    p = getattr(ours, f"{kind}_{name}")
                    parameters[f"{kind}_l0{suffix}"] = p * keep if kind == "weight_hh" else p
            keep = torch.stack(units[mine]).double()
            initial = (h0[mine] * keep[:, None], c0[mine] * keep[:, None])
            out, (h, c) = torch.func.functional_call(layer, parameters, (below, initial))
            by_unit = keep.flatten()
            below = out * by_unit if isinstance(out, Tensor) else out._replace(data=out.data * by_unit)
            hs.append(h * keep[:, None])
            cs.append(c * keep[:, None])
        expected = (below, torch.cat(hs), torch.cat(cs))
        y, state = ours(x, (h0, c0))
        inputs = [h0, c0, *ours.parameters(), *([x] if isinstance(x, Tensor) else [])]
        for a, b in zip((y, *state), expected, strict=True):
            torch.testing.assert_close(data_of(a), data_of(b))
        found = torch.autograd.grad(loss(y, *state), inputs)
        torch.testing.assert_close(found, torch.autograd.grad(loss(*expected), inputs))
        taken = ours.take_statistics()
        assert {s.H for s in taken} == {int(u.sum()) for u in units}
        assert {s.I for s in taken[-directions:]} == {I}
        above = sum(int(u.sum()) for u in units[:directions])
        assert {s.I for s in taken if s.layer.startswith("l1")} == {above}
    with torch.no_grad():
        assert not ours(x, (h0, c0))[1][0][0][:, ~units[0]].any()


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([torch.ones(H, dtype=torch.bool)], r"unit_masks must hold a mask for each of \('l0', 'l1'\), got 1"),
        ([torch.ones(H, dtype=torch.bool), torch.ones(H + 1, dtype=torch.bool)], r"unit_masks\[1\] .* got .* \(7,\)"),
        ([torch.ones(H), torch.ones(H)], r"unit_masks\[0\] must be torch.bool .* got torch.float32"),
        ([torch.ones(H, dtype=torch.bool), torch.zeros(H, dtype=torch.bool)], r"unit_masks\[1\] .* with 0 units"),
    ],
)
def test_unit_masks_that_make_no_sense(masks: list[Tensor], message: str) -> None:
    lstm = SievedLSTM(I, H, 2)
    lstm.unit_masks = masks
    with pytest.raises(ValueError, match=message):
        lstm(torch.randn(3, 2, I))


def test_unit_masks_and_weight_masks_exclude_each_other() -> None:
    lstm = SievedLSTM(I, H)
    lstm.unit_masks, lstm.weight_masks = [torch.ones(H, dtype=torch.bool)], WeightMasks(R, {})
    with pytest.raises(ValueError, match="unit_masks and weight_masks are both given: give one"):
        lstm(torch.randn(3, 2, I))
